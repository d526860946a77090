//! `hearth cp`.

use clap::Args;

use crate::cli::Context;
use crate::failure::Outcome;

/// Copies files and folders between a VM and this machine
#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// VM:PATH, PATH, or - for a tar stream
    source: String,
    /// VM:PATH, PATH, or - for a tar stream
    destination: String,
}

pub(crate) async fn run(_context: &Context, _args: CpArgs) -> Outcome {
    Ok(0)
}
