//! The command line of Hearth.
//!
//! Each command is one file in `commands/`: its flags, its requests, its output. Data goes to
//! stdout, talk to stderr; failures become [`failure::Failure`] and are printed once, here.

#![forbid(unsafe_code)]

mod ages;
mod cli;
mod commands;
mod docker_auth;
mod dump_args;
mod exit_codes;
mod failure;
mod friendly_names;
mod health_args;
mod output;
mod progress;
mod recovery_args;
mod resource_args;
mod spec_args;
mod stdio;
mod table;
mod terminal;
mod values;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if cli::asks_for_exit_codes(std::env::args_os().skip(1)) {
        return finish(cli::show_exit_codes());
    }
    let cli = cli::Cli::parse();
    if cli.no_color {
        anstream::ColorChoice::Never.write_global();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return finish(Err(failure::Failure::because(
                exit_codes::FAILURE,
                "Cannot start the runtime",
                &error,
            )));
        }
    };
    let outcome = runtime.block_on(cli::run(cli));
    // A read of stdin that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    finish(outcome)
}

fn finish(outcome: failure::Outcome) -> ExitCode {
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        failure.print();
        failure.code
    }))
}
