//! `hearth logs`.

use clap::Args;
use futures::TryStreamExt;

use hearth_client::{LogOptions, LogSource};

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::stdio::RawOutput;

/// Shows what a VM wrote on its console
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on until the VM ends
    #[arg(short, long)]
    follow: bool,

    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u64>,

    /// The VMM's own messages instead
    #[arg(long)]
    vmm: bool,

    /// VM by name or id
    vm: String,
}

pub(crate) async fn run(context: &Context, args: LogsArgs) -> Outcome {
    let options = LogOptions {
        follow: args.follow,
        tail: args.tail,
        source: if args.vmm {
            LogSource::Vmm
        } else {
            LogSource::Console
        },
    };
    let mut stream = context.client.logs(&args.vm, options).await?;
    let mut output = RawOutput::new();
    while let Some(bytes) = stream.try_next().await? {
        output.stdout(&bytes).await?;
    }
    Ok(exit_codes::OK)
}
