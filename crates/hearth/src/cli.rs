//! The commands and the flags that all of them take.

use std::ffi::OsString;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;

use hearth_client::{Client, Endpoint, Token};

use crate::commands;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{Format, Output};

/// Runs and keeps microVMs: `hearth run -d -p 8080:80 IMAGE`.
#[derive(Debug, Parser)]
#[command(
    name = "hearth",
    version,
    max_term_width = 100,
    after_long_help = exit_codes::HELP,
    after_help = "Exit codes: hearth help exit-codes"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,

    /// Never use colours
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_color: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct GlobalArgs {
    /// Where the daemon is: unix:///PATH or tcp://HOST:PORT
    #[arg(
        short = 'H',
        long,
        global = true,
        env = "HEARTH_HOST",
        hide_env_values = true,
        value_name = "ENDPOINT",
        default_value = "unix:///run/hearth/hearthd.sock",
        help_heading = "Global options"
    )]
    host: Endpoint,

    /// File with the bearer token (the token itself: HEARTH_TOKEN)
    #[arg(
        long,
        global = true,
        env = "HEARTH_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    token_file: Option<Utf8PathBuf>,

    /// How data is shown
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    output: Format,

    /// Only ids, names and errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::RunArgs),
    Create(commands::create::CreateArgs),
    Start(commands::lifecycle::StartArgs),
    Stop(commands::lifecycle::StopArgs),
    Kill(commands::lifecycle::KillArgs),
    Restart(commands::lifecycle::RestartArgs),
    Pause(commands::lifecycle::PauseArgs),
    Resume(commands::lifecycle::ResumeArgs),
    Rm(commands::lifecycle::RmArgs),
    Hold(commands::recovery::HoldArgs),
    Release(commands::recovery::ReleaseArgs),
    Recover(commands::recovery::RecoverArgs),
    ResetBreaker(commands::recovery::ResetBreakerArgs),
    Ps(commands::ps::PsArgs),
    Inspect(commands::inspect::InspectArgs),
    Logs(commands::logs::LogsArgs),
    Console(commands::console::ConsoleArgs),
    Exec(commands::exec::ExecArgs),
    Cp(commands::cp::CpArgs),
    Wait(commands::wait::WaitArgs),
    Stats(commands::stats::StatsArgs),
    Monitor(commands::monitor::MonitorArgs),
    Health(commands::health::HealthArgs),
    Events(commands::events::EventsArgs),
    Apply(commands::apply::ApplyArgs),
    /// Pulls, imports, lists and removes images
    #[command(subcommand)]
    Image(commands::image::ImageCommand),
    /// Imports, lists and removes kernels
    #[command(subcommand)]
    Kernel(commands::kernel::KernelCommand),
    /// Sets up, shows, checks, extends, repairs and destroys the thin pool
    #[command(subcommand)]
    Pool(commands::pool::PoolCommand),
    /// Makes, lists, removes, restores and clones snapshots of VMs' disks
    #[command(subcommand)]
    Snapshot(commands::snapshot::SnapshotCommand),
    /// Makes, lists and removes templates: images that stay, with defaults for VMs
    #[command(subcommand)]
    Template(commands::template::TemplateCommand),
    /// Makes, lists, grows, attaches, snapshots, exports, imports and moves data volumes
    #[command(subcommand)]
    Volume(commands::volume::VolumeCommand),
    /// Backs up, checks, restores and rebuilds the database
    #[command(subcommand)]
    Db(commands::db::DbCommand),
    Plan(commands::recovery::PlanArgs),
    Mode(commands::mode::ModeArgs),
    Orphans(commands::orphans::OrphansArgs),
    Gc(commands::gc::GcArgs),
    History(commands::history::HistoryArgs),
    Dump(commands::history::DumpArgs),
    /// Checks whether the host has what VMs need
    Doctor,
    /// Shows the daemon's configuration
    #[command(subcommand)]
    Config(commands::system::ConfigCommand),
    /// Shows the versions of client and daemon
    Version,
    Completions(commands::shell::CompletionsArgs),
    Man(commands::shell::ManArgs),
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// The daemon.
    pub(crate) client: Client,
    /// Where data and talk go.
    pub(crate) out: Output,
    /// Where the token came from, if it was a file: for a command that starts another one.
    pub(crate) token_file: Option<Utf8PathBuf>,
}

/// Whether the words are `help exit-codes`, which is no command of clap's.
pub(crate) fn asks_for_exit_codes(words: impl Iterator<Item = OsString>) -> bool {
    words.eq(["help", "exit-codes"])
}

pub(crate) fn show_exit_codes() -> Outcome {
    output(Format::Table, false).line(exit_codes::HELP)?;
    Ok(exit_codes::OK)
}

fn output(format: Format, quiet: bool) -> Output {
    // Tests hold the clock still, so that ages do not change.
    let now = std::env::var("HEARTH_TEST_NOW")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(Timestamp::now);
    Output { format, quiet, now }
}

fn token(file: Option<&Utf8PathBuf>) -> Result<Option<Token>, Failure> {
    let variable = std::env::var("HEARTH_TOKEN").ok().filter(|t| !t.is_empty());
    let token = match (variable, file) {
        (Some(text), _) => Token::new(&text, "HEARTH_TOKEN").map(Some),
        (None, Some(path)) => Token::from_file(path).map(Some),
        (None, None) => Ok(None),
    };
    token.map_err(|e| {
        let mut failure = Failure::because(exit_codes::USAGE, &e, &e);
        // The first of the chain is the message itself.
        failure.causes.remove(0);
        failure
    })
}

/// Runs the command that was asked for.
pub(crate) async fn run(cli: Cli) -> Outcome {
    let token = token(cli.global.token_file.as_ref())?;
    let context = Context {
        client: Client::new(cli.global.host).with_token(token),
        out: output(cli.global.output, cli.global.quiet),
        token_file: cli.global.token_file,
    };
    let context = &context;
    match cli.command {
        Command::Run(args) => commands::run::run(context, args).await,
        Command::Create(args) => commands::create::run(context, args).await,
        Command::Start(args) => commands::lifecycle::start(context, args).await,
        Command::Stop(args) => commands::lifecycle::stop(context, args).await,
        Command::Kill(args) => commands::lifecycle::kill(context, args).await,
        Command::Restart(args) => commands::lifecycle::restart(context, args).await,
        Command::Pause(args) => commands::lifecycle::pause(context, args).await,
        Command::Resume(args) => commands::lifecycle::resume(context, args).await,
        Command::Rm(args) => commands::lifecycle::remove(context, args).await,
        Command::Hold(args) => commands::recovery::hold(context, args).await,
        Command::Release(args) => commands::recovery::release(context, args).await,
        Command::Recover(args) => commands::recovery::recover(context, args).await,
        Command::ResetBreaker(args) => commands::recovery::reset_breaker(context, args).await,
        Command::Ps(args) => commands::ps::run(context, args).await,
        Command::Inspect(args) => commands::inspect::run(context, args).await,
        Command::Logs(args) => commands::logs::run(context, args).await,
        Command::Console(args) => commands::console::run(context, args).await,
        Command::Exec(args) => commands::exec::run(context, args).await,
        Command::Cp(args) => commands::cp::run(context, args).await,
        Command::Wait(args) => commands::wait::run(context, args).await,
        Command::Stats(args) => commands::stats::run(context, args).await,
        Command::Monitor(args) => commands::monitor::run(context, args).await,
        Command::Health(args) => commands::health::run(context, args).await,
        Command::Events(args) => commands::events::run(context, args).await,
        Command::Apply(args) => commands::apply::run(context, args).await,
        Command::Image(command) => commands::image::run(context, command).await,
        Command::Kernel(command) => commands::kernel::run(context, command).await,
        Command::Pool(command) => commands::pool::run(context, command).await,
        Command::Snapshot(command) => commands::snapshot::run(context, command).await,
        Command::Template(command) => commands::template::run(context, command).await,
        Command::Volume(command) => commands::volume::run(context, command).await,
        Command::Db(command) => commands::db::run(context, command).await,
        Command::Plan(args) => commands::recovery::plan(context, args).await,
        Command::History(args) => commands::history::run(context, args).await,
        Command::Dump(args) => commands::history::dump(context, args).await,
        Command::Orphans(args) => commands::orphans::run(context, args).await,
        Command::Gc(args) => commands::gc::run(context, args).await,
        Command::Mode(args) => commands::mode::run(context, args).await,
        Command::Doctor => commands::system::doctor(context).await,
        Command::Config(command) => commands::system::config(context, command).await,
        Command::Version => commands::system::version(context).await,
        Command::Completions(args) => commands::shell::completions(context, args),
        Command::Man(args) => commands::shell::man(context, args),
    }
}
