//! `hearth db …`: the database. What needs it for itself is `hearthd db`'s, which is run for it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};

use hearth_types::api::DatabaseView;
use hearth_types::units::Bytes;

use crate::ages::{ago, span};
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{BAD, Output};
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Shows the database and the backups that are kept
    Status,
    /// Makes a backup now, while the daemon runs, and looks through it
    Backup,
    Check(OfflineArgs),
    Restore(RestoreArgs),
    Rebuild(RebuildArgs),
}

/// Looks through the whole database; no daemon may run
#[derive(Debug, Args)]
pub(crate) struct OfflineArgs {
    /// The daemon's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<Utf8PathBuf>,
}

/// Puts a backup in the database's place; no daemon may run, VMs go on
///
/// What was there is kept beside it. VMs that were made since are listed by `hearth orphans`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup; the newest whole one when absent
    #[arg(value_name = "FILE")]
    file: Option<Utf8PathBuf>,

    /// Even if the database that is there is whole
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    offline: OfflineArgs,
}

/// Makes the database anew from what the VMs' folders keep; no daemon may run, VMs go on
///
/// What was there is kept beside it; what could not be known is said.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Even if the database that is there is whole
    #[arg(long)]
    force: bool,

    /// The installation's id, where nothing on the host says it
    #[arg(long, value_name = "ID")]
    installation: Option<hearth_types::InstallationId>,

    #[command(flatten)]
    offline: OfflineArgs,
}

pub(crate) async fn run(context: &Context, command: DbCommand) -> Outcome {
    match command {
        DbCommand::Status => {
            let view = context.client.database().await?;
            show(&context.out, &view)?;
        }
        DbCommand::Backup => {
            let made = context.client.back_up_database().await?;
            if context.out.is_json() {
                context.out.json(&made)?;
            } else {
                context.out.line(&made.file)?;
            }
        }
        DbCommand::Check(args) => return hearthd("check", &[], &args),
        DbCommand::Restore(args) => {
            let force = args.force.then(|| "--force".to_owned());
            let file = args.file.map(Utf8PathBuf::into_string);
            let words: Vec<String> = force.into_iter().chain(file).collect();
            return hearthd("restore", &words, &args.offline);
        }
        DbCommand::Rebuild(args) => {
            let force = args.force.then(|| "--force".to_owned());
            let of = args.installation.map(|id| format!("--installation={id}"));
            let words: Vec<String> = force.into_iter().chain(of).collect();
            return hearthd("rebuild", &words, &args.offline);
        }
    }
    Ok(exit_codes::OK)
}

fn show(out: &Output, view: &DatabaseView) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(view);
    }
    let mut table = Table::new(&["BACKUP", "MADE", "SIZE"]);
    for backup in &view.backups {
        table.row(vec![
            (&backup.file).into(),
            ago(backup.at, out.now).into(),
            Bytes(backup.bytes).human().into(),
        ]);
    }
    out.table(&table)?;
    let size = view
        .bytes
        .map(|bytes| format!(", {}", Bytes(bytes).human()));
    let every = match i64::try_from(view.interval_secs) {
        Ok(0) | Err(_) => "none is made by itself".to_owned(),
        Ok(secs) => {
            let start = jiff::Timestamp::UNIX_EPOCH;
            let end = jiff::Timestamp::from_second(secs).unwrap_or(start);
            format!("one every {}, {} kept", span(start, end), view.keep)
        }
    };
    out.note(format!(
        "{}{}, schema version {}; backups: {every}.",
        view.file,
        size.unwrap_or_default(),
        view.schema
    ));
    if let Some(failure) = &view.failure {
        let when = ago(failure.at, out.now);
        out.warn(format!(
            "{BAD}the last backup failed{BAD:#} {when}: {}",
            failure.reason
        ));
    }
    Ok(())
}

/// Becomes `hearthd db …`: it has the same words for what it does and for why it refuses.
fn hearthd(verb: &str, words: &[String], offline: &OfflineArgs) -> Outcome {
    let mut command = Command::new(program());
    command.args(["db", verb]).args(words);
    if let Some(config) = &offline.config {
        command.arg("--config").arg(config);
    }
    let error = command.exec();
    Err(Failure::because(
        exit_codes::FAILURE,
        "Cannot run hearthd, which does this",
        &error,
    )
    .hint("run it on the daemon's host, where hearthd is installed"))
}

/// `hearthd` beside this program, or wherever the shell would find it.
fn program() -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join("hearthd")));
    let known = ["/usr/sbin/hearthd", "/usr/local/sbin/hearthd"].map(PathBuf::from);
    let found = beside.into_iter().chain(known).find(|path| path.is_file());
    found.unwrap_or_else(|| PathBuf::from("hearthd"))
}
