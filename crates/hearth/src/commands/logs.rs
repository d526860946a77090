//! `hearth logs`.

mod daemon;

use clap::Args;
use futures::TryStreamExt;

use hearth_client::{LogOptions, LogSource};

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::stdio::RawOutput;

/// Shows what a VM wrote on its console, or the daemon's own log
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

    /// The daemon's own log, from the journal of this host
    #[arg(long, conflicts_with_all = ["vm", "vmm"])]
    daemon: bool,

    /// VM by name or id
    #[arg(required_unless_present = "daemon")]
    vm: Option<String>,
}

pub(crate) async fn run(context: &Context, args: LogsArgs) -> Outcome {
    let Some(vm) = args.vm else {
        let format = context.out.format;
        return daemon::show(context.client.endpoint(), format, args.follow, args.tail);
    };
    let options = LogOptions {
        follow: args.follow,
        tail: args.tail,
        source: if args.vmm {
            LogSource::Vmm
        } else {
            LogSource::Console
        },
    };
    let mut stream = context.client.logs(&vm, options).await?;
    let mut output = RawOutput::new();
    while let Some(bytes) = stream.try_next().await? {
        output.stdout(&bytes).await?;
    }
    Ok(exit_codes::OK)
}
