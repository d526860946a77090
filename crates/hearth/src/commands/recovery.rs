//! `reset-breaker`, `hold`, `release`, `recover` and `plan --for VM`: the operator's words on recovery.

use clap::Args;

use hearth_types::api::{HoldVm, Recovered, Vm};
use hearth_types::status::Phase;

use super::each;
use crate::ages::span;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::table::Table;

/// VMs by name, or all of them.
#[derive(Debug, Args)]
pub(crate) struct Targets {
    /// VMs by name or id
    #[arg(required_unless_present = "all", value_name = "VM")]
    vms: Vec<String>,

    /// All VMs
    #[arg(short, long, conflicts_with = "vms")]
    all: bool,
}

/// Closes the circuit breakers of VMs, or the host's: what waits is started at once
#[derive(Debug, Args)]
pub(crate) struct ResetBreakerArgs {
    /// VMs by name or id
    #[arg(required_unless_present_any = ["all", "host_breaker"], value_name = "VM")]
    vms: Vec<String>,

    /// All VMs, and the host
    #[arg(short, long, conflicts_with = "vms")]
    all: bool,

    /// Only the host's own breaker
    #[arg(long, conflicts_with_all = ["vms", "all"])]
    host_breaker: bool,
}

pub(crate) async fn reset_breaker(context: &Context, args: ResetBreakerArgs) -> Outcome {
    if args.host_breaker {
        let reset = context.client.reset_host_breaker().await?;
        let out = &context.out;
        if out.is_json() {
            out.json(&reset)?;
        } else {
            out.line(&reset.detail)?;
        }
        return Ok(exit_codes::OK);
    }
    if args.all {
        let list = context.client.reset_breakers().await?;
        return show(context, &list.items);
    }
    let act = |vm: String| async move { Ok(context.client.reset_breaker(&vm).await?) };
    each(&args.vms, act, |name, _| context.out.line(name)).await
}

/// Holds VMs: they are watched, and nothing is done to them automatically until released
///
/// No start, restart or removal. The user's own start, restart, pause and changes are refused
/// as well; stop and rm still work.
#[derive(Debug, Args)]
pub(crate) struct HoldArgs {
    /// Why, for those who find them held
    #[arg(short, long, value_name = "TEXT")]
    reason: Option<String>,

    /// VMs by name or id
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

pub(crate) async fn hold(context: &Context, args: HoldArgs) -> Outcome {
    let body = &HoldVm {
        reason: args.reason,
    };
    let act = |vm: String| async move { Ok(context.client.hold(&vm, body).await?) };
    each(&args.vms, act, |name, _| context.out.line(name)).await
}

/// Releases VMs that are held
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// VMs by name or id
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

pub(crate) async fn release(context: &Context, args: ReleaseArgs) -> Outcome {
    let act = |vm: String| async move { Ok(context.client.release(&vm).await?) };
    each(&args.vms, act, |name, _| context.out.line(name)).await
}

/// Starts now what waits for its restart, and says what it did to each VM
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Also what a circuit breaker or the restart policy keeps down
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn recover(context: &Context, args: RecoverArgs) -> Outcome {
    if args.targets.all {
        let list = context.client.recover_all(args.force).await?;
        return show(context, &list.items);
    }
    let mut items = Vec::new();
    let act = |vm: String| async move { Ok(context.client.recover(&vm, args.force).await?) };
    let code = each(&args.targets.vms, act, |_, item| {
        items.push(item);
        Ok(())
    })
    .await?;
    show(context, &items)?;
    Ok(code)
}

/// Shows what the daemon's next pass would do, and why
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Only for this VM
    #[arg(long = "for", value_name = "VM")]
    vm: Option<String>,

    /// Every question that the planner asks of the VM, with the answer
    #[arg(long, requires = "vm")]
    explain: bool,
}

pub(crate) async fn plan(context: &Context, args: PlanArgs) -> Outcome {
    let Some(vm) = &args.vm else {
        return super::system::plan(context).await;
    };
    let plan = context.client.vm_plan(vm).await?;
    let out = &context.out;
    if out.is_json() {
        out.json(&plan)?;
        return Ok(exit_codes::OK);
    }
    if args.explain {
        let mut table = Table::new(&["ABOUT", "ANSWER"]);
        for reason in &plan.reasons {
            table.row(vec![(&reason.topic).into(), (&reason.text).into()]);
        }
        out.table(&table)?;
    } else if plan.steps.is_empty() {
        out.line(format!(
            "Nothing to do for {}: --explain says why.",
            plan.name
        ))?;
    } else {
        let mut table = Table::new(&["STEP", "OBJECT", "REASON"]);
        for step in &plan.steps {
            let (kind, object, reason) = (&step.step, &step.object, &step.reason);
            table.row(vec![kind.into(), object.into(), reason.into()]);
        }
        out.table(&table)?;
    }
    if let Some(next) = plan.next_pass {
        out.note(format!("The next pass is due in {}.", span(out.now, next)));
    }
    Ok(exit_codes::OK)
}

/// Says on stderr why VMs that wait are not started; asks only if there are any.
pub(crate) async fn note_host_breaker(context: &Context, vms: &[Vm]) {
    let waits = |vm: &Vm| matches!(vm.phase, Phase::Backoff | Phase::Starting);
    if context.out.quiet || !vms.iter().any(waits) {
        return;
    }
    if let Ok(info) = context.client.info().await
        && let Some(reason) = info.host_breaker
    {
        context.out.warn(format!("{reason}; see hearth doctor"));
    }
}

/// What was done to each VM.
fn show(context: &Context, items: &[Recovered]) -> Outcome {
    let out = &context.out;
    if out.is_json() {
        out.json(&items)?;
        return Ok(exit_codes::OK);
    }
    if out.quiet {
        for item in items.iter().filter(|item| item.done) {
            out.line(&item.name)?;
        }
        return Ok(exit_codes::OK);
    }
    let mut table = Table::new(&["VM", "DONE"]);
    for item in items {
        table.row(vec![(&item.name).into(), (&item.detail).into()]);
    }
    out.table(&table)?;
    Ok(exit_codes::OK)
}
