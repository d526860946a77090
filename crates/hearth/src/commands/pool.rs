//! `hearth pool …`: the thin pool.

mod volumes;

use clap::{Args, Subcommand};

use hearth_types::pool::{
    ExtendPool, PoolBackup, PoolCheck, PoolDevice, PoolOperation, PoolRepair, PoolSpace, PoolState,
    PoolUsage, PoolVerdict, PoolView, RestorePool, SetUpPool,
};
use hearth_types::units::Bytes;

use crate::ages::ago;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::output::{BAD, DIM, GOOD, Output, WARN};
use crate::table::{Cell, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    Setup(SetupArgs),
    /// Shows how the pool is
    Status,
    /// Checks the pool's metadata and puts it together; nothing may use it
    Check,
    Extend(ExtendArgs),
    /// Shows what is in the pool: images, VMs' disks, leftovers
    Volumes,
    /// Repairs damaged metadata of a pool that nothing uses; the damaged is kept beside
    Repair,
    /// Backs the metadata up, also while the pool is used
    Backup,
    /// Lists the backups of the metadata, the newest first
    Backups,
    RestoreMetadata(RestoreArgs),
    /// Destroys the pool with all that is in it, and sets up an empty one of the same size
    Reset(DestroyArgs),
    Destroy(DestroyArgs),
}

/// Sets a pool up, with its data in a file of the data folder or on a block device
///
/// One that is there already is a success. A set-up that fails leaves nothing. A device that is in use, or that anything is on,
/// is refused, and nothing is written to it.
#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// How much data it can hold, such as 20GiB (2GiB when absent); the file is sparse
    #[arg(long, value_name = "SIZE")]
    data: Option<Bytes>,
    /// The disk, partition or logical volume that its data is to be on, whole, such as /dev/vg0/pool; what
    /// `POOL_DEVICE` says when absent
    #[arg(long, value_name = "PATH", conflicts_with = "data")]
    device: Option<String>,
    /// What is on the device may be lost; one that is in use is refused all the same
    #[arg(short, long, requires = "device")]
    force: bool,
}

/// Makes the pool larger while it is used
///
/// With no size it grows as it would by itself. It can never become smaller.
#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    /// How much data it is to hold, such as 100GiB; its metadata follows by rule
    #[arg(long, value_name = "SIZE", conflicts_with = "by")]
    data: Option<Bytes>,
    /// How much more data than now
    #[arg(long, value_name = "SIZE")]
    by: Option<Bytes>,
    /// How much metadata it is to have
    #[arg(long, value_name = "SIZE")]
    metadata: Option<Bytes>,
}

/// Puts a backup in the metadata's place, of a pool that nothing uses
///
/// What was made or written since the backup is lost. The metadata from before is kept beside.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup's name, as `hearth pool backups` lists it
    file: String,
    /// Yes, what was made since the backup is lost
    #[arg(short, long, required = true)]
    force: bool,
}

/// Destroys the pool with all that is in it
///
/// Of a device that its data is on only the pool's header is taken.
#[derive(Debug, Args)]
pub(crate) struct DestroyArgs {
    /// Also if it holds data, or nobody can tell
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(context: &Context, command: PoolCommand) -> Outcome {
    let client = &context.client;
    let view = match command {
        PoolCommand::Setup(args) => {
            let SetupArgs {
                data,
                device,
                force,
            } = args;
            let asked = SetUpPool {
                data,
                device,
                force,
            };
            client.set_up_pool(&asked).await?
        }
        PoolCommand::Status => client.pool().await?,
        PoolCommand::Check => client.check_pool().await?,
        PoolCommand::Volumes => {
            volumes::show(&context.out, &client.pool_volumes().await?)?;
            return Ok(exit_codes::OK);
        }
        PoolCommand::Extend(args) => {
            let ExtendArgs { data, by, metadata } = args;
            let asked = ExtendPool { data, by, metadata };
            client.extend_pool(&asked).await?
        }
        PoolCommand::Repair => return repaired(&context.out, &client.repair_pool().await?),
        PoolCommand::RestoreMetadata(RestoreArgs { file, .. }) => {
            let restored = client.restore_pool(&RestorePool { file }).await?;
            return repaired(&context.out, &restored);
        }
        PoolCommand::Backup => return list(&context.out, &[client.back_up_pool().await?]),
        PoolCommand::Backups => return list(&context.out, &client.pool_backups().await?),
        PoolCommand::Reset(args) => client.reset_pool(args.force).await?,
        PoolCommand::Destroy(args) => {
            client.destroy_pool(args.force).await?;
            context
                .out
                .note("The pool and all that was in it is destroyed.");
            return Ok(exit_codes::OK);
        }
    };
    show(&context.out, &view)?;
    Ok(exit_codes::OK)
}

fn repaired(out: &Output, repair: &PoolRepair) -> Outcome {
    if out.is_json() {
        out.json(repair)?;
        return Ok(exit_codes::OK);
    }
    match &repair.kept {
        Some(kept) => out.note(format!(
            "The metadata is sound and the pool is put together; what was there is kept as {kept}."
        )),
        None => out.note("The metadata has no damage; the pool is put together."),
    }
    Ok(exit_codes::OK)
}

fn list(out: &Output, backups: &[PoolBackup]) -> Outcome {
    if out.is_json() {
        out.json(&backups)?;
        return Ok(exit_codes::OK);
    }
    let mut table = Table::new(&["BACKUP", "MADE", "TRANSACTION", "SIZE"]);
    for backup in backups {
        table.row(vec![
            (&backup.file).into(),
            ago(backup.at, out.now).into(),
            Cell::from(backup.transaction_id),
            Bytes(backup.bytes).human().into(),
        ]);
    }
    out.table(&table)?;
    Ok(exit_codes::OK)
}

fn show(out: &Output, view: &PoolView) -> Result<(), crate::failure::Failure> {
    if out.is_json() {
        return out.json(view);
    }
    if out.quiet {
        return out.line(view.state);
    }
    let mut header = vec!["STATE", "DATA", "METADATA", "BLOCK", "USERS", "CHECKED"];
    if out.is_wide() {
        header.extend([
            "MOST",
            "PROMISED",
            "DEVICE",
            "TRANSACTION",
            "MADE",
            "NAME",
            "FOLDER",
        ]);
    }
    let mut table = Table::new(&header);
    let checked = view.last_check.as_ref().map(|check| checked(out, check));
    let mut cells = vec![
        Cell::styled(view.state, style(view.state)),
        usage(view.data).into(),
        usage(view.metadata).into(),
        or_dash(view.block.map(|block| Bytes(block).human())),
        or_dash(view.users),
        checked.unwrap_or_else(|| "-".into()),
    ];
    if out.is_wide() {
        let space = view.space.as_ref();
        cells.extend([
            or_dash(space.map(|space| Bytes(space.most).human())),
            or_dash(space.map(promised)),
            or_dash(view.device.as_ref()),
            or_dash(view.transaction_id),
            or_dash(view.made_at.map(|at| ago(at, out.now))),
            (&view.name).into(),
            (&view.folder).into(),
        ]);
    }
    table.row(cells);
    out.table(&table)?;
    if let Some(device) = &view.data_device {
        out.note(on_device(device));
    }
    if let Some(work) = &view.work {
        let since = ago(work.since, out.now);
        out.note(format!("Under way: {}, begun {since}.", work.what));
    }
    if let Some(space) = view.space.as_ref().filter(|space| space.low) {
        out.note(format!(
            "Low: {} can be written before it must grow; {} of data are the most ({}).",
            Bytes(space.writable).human(),
            Bytes(space.most).human(),
            space.bound
        ));
    }
    for PoolOperation {
        operation,
        state,
        since,
        helper,
    } in &view.operations
    {
        let helper = helper.map(|pid| format!(", by helper process {pid}"));
        out.note(format!(
            "Operation {state}: {operation}, {}{}.",
            ago(*since, out.now),
            helper.unwrap_or_default()
        ));
    }
    if let Some(reason) = &view.reason {
        out.note(format!("{}: {reason}", view.state));
    }
    if let Some(hint) = &view.hint {
        crate::output::hint(hint);
    }
    Ok(())
}

/// Where its data is, by both names, where there are two.
fn on_device(device: &PoolDevice) -> String {
    let PoolDevice {
        path,
        given,
        missing,
        ..
    } = device;
    let lasting = match path == given {
        true => String::new(),
        false => format!(" ({path})"),
    };
    let there = if *missing { ", which is not there" } else { "" };
    format!("Its data is on {given}{lasting}{there}.")
}

fn usage(usage: Option<PoolUsage>) -> String {
    let Some(PoolUsage { used, size }) = usage else {
        return "-".to_owned();
    };
    let total = Bytes(size).human();
    match used {
        None => format!("? of {total}"),
        Some(used) => {
            let percent = u128::from(used) * 100 / u128::from(size.max(1));
            format!("{} of {total} ({percent}%)", Bytes(used).human())
        }
    }
}

/// The sizes of all volumes, and how many times the data that is.
fn promised(space: &PoolSpace) -> String {
    let times = space.overcommit_percent;
    format!(
        "{} ({}.{:02}x)",
        Bytes(space.provisioned).human(),
        times / 100,
        times % 100
    )
}

fn checked(out: &Output, check: &PoolCheck) -> Cell {
    let style = match check.verdict {
        PoolVerdict::Good => GOOD,
        PoolVerdict::Bad | PoolVerdict::Unfinished => BAD,
    };
    let at = ago(check.at, out.now);
    Cell::styled(format!("{}, {at}", check.verdict), style)
}

pub(super) fn or_dash(value: Option<impl std::fmt::Display>) -> Cell {
    value.map_or_else(|| "-".into(), Cell::from)
}

fn style(state: PoolState) -> anstyle::Style {
    match state {
        PoolState::Up => GOOD,
        PoolState::Absent | PoolState::Unavailable => DIM,
        PoolState::Full | PoolState::ReadOnly | PoolState::Failed | PoolState::Damaged => BAD,
        PoolState::Preparing
        | PoolState::Down
        | PoolState::Destroying
        | PoolState::Foreign
        | PoolState::Unknown => WARN,
    }
}
