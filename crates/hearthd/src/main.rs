//! `hearthd`: keeps microVMs alive.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hearth_config::{Config, DaemonFlags, LogFormat};
use tracing_subscriber::EnvFilter;

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
    start_log(&loaded.config);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(hearthd::daemon::run(loaded)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start_log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match config.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
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
