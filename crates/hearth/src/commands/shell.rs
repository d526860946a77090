//! `completions` and `man`: made from the same definitions as the help.

use camino::Utf8PathBuf;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::{Cli, Context};
use crate::exit_codes;
use crate::failure::{Failure, Outcome};

/// Prints a shell's completion script
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell
    shell: Shell,
}

/// Writes man pages into a folder
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder; made when it is not there
    dir: Utf8PathBuf,
}

pub(crate) fn completions(context: &Context, args: CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hearth", &mut script);
    let script = String::from_utf8_lossy(&script);
    context.out.line(script.trim_end())?;
    Ok(exit_codes::OK)
}

pub(crate) fn man(context: &Context, args: ManArgs) -> Outcome {
    let written = std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir));
    written.map_err(|e| {
        Failure::because(
            exit_codes::FAILURE,
            format!("Cannot write the man pages into {}", args.dir),
            &e,
        )
    })?;
    context
        .out
        .note(format!("Wrote the man pages into {}", args.dir));
    Ok(exit_codes::OK)
}
