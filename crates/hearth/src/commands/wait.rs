//! `hearth wait`.

use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use hearth_client::{Client, ClientError, WaitCondition};
use hearth_types::api::WaitResult;

use super::each;
use super::lifecycle::CONDITIONS;
use crate::cli::Context;
use crate::failure::Outcome;
use crate::values;

/// How long a daemon that has gone is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between tries to reach it.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// Waits until VMs have ended and prints their exit codes
///
/// The exit code is that of the image's program, or 128 + N when signal N ended it; "-" when
/// the guest did not say.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// What to wait for
    #[arg(long, value_name = "CONDITION", default_value = "stopped", value_parser = condition())]
    condition: WaitCondition,

    /// Give up after this time (exit code 6): seconds, or with a unit
    #[arg(short, long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,

    /// VMs by name or id
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

fn condition() -> impl TypedValueParser<Value = WaitCondition> {
    PossibleValuesParser::new(CONDITIONS.map(|(word, _)| word)).map(|word| {
        let found = CONDITIONS.iter().find(|(known, _)| *known == word);
        found.map_or_else(WaitCondition::default, |(_, condition)| *condition)
    })
}

/// Waits, also through a restart of the daemon: VMs go on without it, so the wait does, too.
pub(super) async fn patient(
    client: &Client,
    vm: &str,
    condition: WaitCondition,
    timeout: Option<Duration>,
) -> Result<WaitResult, ClientError> {
    let begun = Instant::now();
    let mut lost: Option<Instant> = None;
    loop {
        let left = timeout.map(|t| t.saturating_sub(begun.elapsed()));
        let asked = Instant::now();
        match client.wait_vm(vm, condition, left).await {
            Err(error) if error.is_connection() => {
                let answered = matches!(error, ClientError::Broken { .. });
                // A daemon that was never there is not waited for, and one that hangs up at
                // once again and again not for ever.
                if answered && (lost.is_none() || asked.elapsed() > RETRY) {
                    lost = Some(Instant::now());
                }
                if lost.is_none_or(|since| since.elapsed() > PATIENCE) {
                    return Err(error);
                }
                tokio::time::sleep(RETRY).await;
            }
            other => return other,
        }
    }
}

pub(crate) async fn run(context: &Context, args: WaitArgs) -> Outcome {
    let act = |vm: String| async move {
        let client = &context.client;
        Ok(patient(client, &vm, args.condition, args.timeout).await?)
    };
    each(&args.vms, act, |name, result| {
        if context.out.is_json() {
            return context.out.json(&result);
        }
        match args.condition {
            WaitCondition::Running | WaitCondition::Healthy => context.out.line(name),
            WaitCondition::Stopped | WaitCondition::Removed => match result.exit_code {
                Some(code) => context.out.line(code),
                None => context.out.line("-"),
            },
        }
    })
    .await
}
