//! `start`, `stop`, `kill`, `restart`, `pause`, `resume` and `rm`: each for several VMs at once.

use std::time::Duration;

use clap::Args;

use hearth_client::{ActOptions, Action, WaitCondition};
use hearth_types::api::StopVm;
use hearth_types::units::Span;

use super::each;
use crate::cli::Context;
use crate::failure::{Failure, Outcome};
use crate::values;

/// VMs as a person names them.
#[derive(Debug, Args)]
pub(crate) struct Targets {
    /// VMs by name or id
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,

    /// Wait so long at most: seconds, or with a unit
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = values::duration)]
    wait_timeout: Duration,
}

impl WaitArgs {
    fn options(&self) -> ActOptions {
        if self.no_wait {
            ActOptions::default()
        } else {
            ActOptions::waiting(Some(self.wait_timeout))
        }
    }
}

macro_rules! simple_command {
    ($args:ident, $run:ident, $action:expr, $about:literal) => {
        #[doc = $about]
        #[derive(Debug, Args)]
        pub(crate) struct $args {
            #[command(flatten)]
            wait: WaitArgs,
            #[command(flatten)]
            targets: Targets,
        }

        pub(crate) async fn $run(context: &Context, args: $args) -> Outcome {
            let options = args.wait.options();
            act(context, &args.targets, $action, &options).await
        }
    };
}

simple_command!(StartArgs, start, Action::Start, "Starts VMs");
simple_command!(
    RestartArgs,
    restart,
    Action::Restart,
    "Stops and starts VMs"
);
simple_command!(
    PauseArgs,
    pause,
    Action::Pause,
    "Stops the vCPUs of VMs; all else stays"
);
simple_command!(
    ResumeArgs,
    resume,
    Action::Resume,
    "Lets paused VMs run again"
);

async fn act(
    context: &Context,
    targets: &Targets,
    action: Action,
    options: &ActOptions,
) -> Outcome {
    let act = |vm: String| async move { Ok(context.client.act(&vm, action, options).await?) };
    each(&targets.vms, act, |name, _| context.out.line(name)).await
}

/// Stops VMs cleanly: the agent is asked, then the power button pressed, then the VMM ended
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Kill the VMM at once
    #[arg(short, long)]
    force: bool,

    /// How long the clean stop may take: seconds, or with a unit; the VM's own when absent
    #[arg(short, long, value_name = "TIME", value_parser = values::span)]
    timeout: Option<Span>,

    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn stop(context: &Context, args: StopArgs) -> Outcome {
    let mut options = args.wait.options();
    if let (Some(wait), Some(timeout)) = (&mut options.wait, args.timeout) {
        // The ladder's last rungs come after the asked-for time.
        wait.timeout = wait.timeout.map(|t| t + timeout.as_duration());
    }
    let body = StopVm {
        force: args.force,
        timeout: args.timeout,
    };
    stop_each(context, &args.targets, &body, &options).await
}

/// Kills the VMMs of VMs: as pulling the plug
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn kill(context: &Context, args: KillArgs) -> Outcome {
    let body = StopVm {
        force: true,
        timeout: None,
    };
    stop_each(context, &args.targets, &body, &args.wait.options()).await
}

async fn stop_each(
    context: &Context,
    targets: &Targets,
    body: &StopVm,
    options: &ActOptions,
) -> Outcome {
    let act = |vm: String| async move { Ok(context.client.stop_vm(&vm, body, options).await?) };
    each(&targets.vms, act, |name, _| context.out.line(name)).await
}

/// Removes VMs with their disks
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Kill those that run
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn remove(context: &Context, args: RmArgs) -> Outcome {
    let options = &args.wait.options();
    let act = |vm: String| async move {
        match context.client.delete_vm(&vm, args.force, options).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let running = error
                    .problem()
                    .is_some_and(|p| p.status == 409 && p.hint.is_none());
                let failure = Failure::from(error);
                Err(if running && !args.force {
                    failure.hint(format!("hearth stop {vm} first, or hearth rm -f {vm}"))
                } else {
                    failure
                })
            }
        }
    };
    each(&args.targets.vms, act, |name, ()| context.out.line(name)).await
}

/// The conditions that `hearth wait` offers.
pub(crate) const CONDITIONS: [(&str, WaitCondition); 4] = [
    ("stopped", WaitCondition::Stopped),
    ("removed", WaitCondition::Removed),
    ("running", WaitCondition::Running),
    ("healthy", WaitCondition::Healthy),
];
