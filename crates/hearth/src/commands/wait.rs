//! `hearth wait`.

use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use hearth_client::WaitCondition;

use super::each;
use super::lifecycle::CONDITIONS;
use crate::cli::Context;
use crate::failure::Outcome;
use crate::values;

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

pub(crate) async fn run(context: &Context, args: WaitArgs) -> Outcome {
    let act = |vm: String| async move {
        let client = &context.client;
        Ok(client.wait_vm(&vm, args.condition, args.timeout).await?)
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
