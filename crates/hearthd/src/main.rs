//! `hearthd`: keeps microVMs alive.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use hearth_config::{Config, DaemonFlags};
use hearthd::logging::{self, Sink};
use hearthd::manager;

/// Keeps microVMs alive on this host.
#[derive(Debug, Parser)]
#[command(name = "hearthd", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: DaemonFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and end
    CheckConfig {
        #[command(flatten)]
        flags: DaemonFlags,
    },
    /// Print the OpenAPI document of the HTTP API
    Openapi,
    /// Print the reference of the configuration (Markdown)
    Configuration,
    /// Print a configuration file with every key and its default, commented out
    DefaultConfig,
    /// Print the man page
    Man,
    /// Check, copy, restore or rebuild the database while no daemon runs
    Db {
        #[command(subcommand)]
        command: hearthd::database::DbCommand,
        #[command(flatten)]
        flags: DaemonFlags,
    },
    /// Make the daemon's calls to device-mapper; started by the daemon alone
    #[command(hide = true, name = hearthd::dm_helper::COMMAND)]
    DmHelper,
    /// Take name server, filters, bridge and pool off the host when no daemon and no VM runs
    CleanUp {
        #[command(flatten)]
        flags: DaemonFlags,
    },
}

/// Exit status for a configuration that cannot be used (EX_CONFIG of sysexits.h).
const BAD_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let env = |name: &str| std::env::var(name).ok();
    match arguments.command {
        Some(Command::CheckConfig { flags }) => check_config(&flags),
        Some(Command::Openapi) => print(&hearthd::api::openapi()),
        Some(Command::Configuration) => print(&hearth_config::docs()),
        Some(Command::DefaultConfig) => print(&hearth_config::default_file()),
        Some(Command::Man) => print(&man_page()),
        Some(Command::Db { command, flags }) => match Config::load(&flags, env) {
            Ok(loaded) => once(hearthd::database::run(&loaded.config, command)),
            Err(_) => check_config(&flags),
        },
        Some(Command::DmHelper) => help(),
        Some(Command::CleanUp { flags }) => match Config::load(&flags, env) {
            Ok(loaded) => once(hearthd::clean_up::run(&loaded.config)),
            Err(_) => check_config(&flags),
        },
        None => match Config::load(&arguments.flags, env) {
            Ok(loaded) => run(loaded),
            Err(_) => check_config(&arguments.flags),
        },
    }
}

fn check_config(flags: &DaemonFlags) -> ExitCode {
    match hearth_config::check_config(flags, |name| std::env::var(name).ok()) {
        Ok(verdict) => print(&verdict),
        Err(errors) => {
            complain(errors.trim_end());
            ExitCode::from(BAD_CONFIG)
        }
    }
}

fn run(loaded: hearth_config::Loaded) -> ExitCode {
    hearth_host::memory::keep_little();
    // First of all: this changes the environment, and there are no threads yet.
    let listeners = manager::listeners();
    let sink = logging::start(&loaded.config);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let result = listeners.and_then(|listeners| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let manager = manager::Manager::from_env();
        let ended = runtime.block_on(hearthd::daemon::run(loaded, listeners, manager));
        // What still works on the runtime's own threads may wait for a disk that does not answer.
        runtime.shutdown_timeout(hearthd::daemon::GOODBYE);
        ended
    });
    match (result, sink) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), Sink::Journal) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
        (Err(error), Sink::Stderr) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The helper's life. It has no runtime and one thread.
fn help() -> ExitCode {
    hearth_host::memory::keep_little();
    logging::to_stderr();
    match hearthd::dm_helper::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Does one thing, says what was done, and ends.
fn once(work: impl Future<Output = anyhow::Result<String>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(said) => print(&said),
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn man_page() -> String {
    let page = clap_mangen::Man::new(Arguments::command()).section("8");
    let mut text = Vec::new();
    // Writing to memory cannot fail.
    drop(page.render(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

fn print(text: &str) -> ExitCode {
    // A reader that went away (`| head`) is no failure.
    drop(std::io::stdout().write_all(text.as_bytes()));
    ExitCode::SUCCESS
}

fn complain(text: &str) {
    // Nowhere else to complain to.
    drop(writeln!(std::io::stderr(), "{text}"));
}
