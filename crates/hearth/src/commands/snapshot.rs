//! `hearth snapshot …`: snapshots of VMs' disks.

use clap::{Args, Subcommand};

use hearth_types::VmName;
use hearth_types::snapshot::{
    CloneSnapshot, Consistency, CreateSnapshot, RestoreSnapshot, Snapshot, SnapshotState,
};
use hearth_types::spec::PortSpec;
use hearth_types::units::Bytes;
use hearth_types::volume::Attachment;

use super::each;
use crate::ages::ago;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{GOOD, Output, WARN};
use crate::table::{Cell, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    Create(CreateArgs),
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    Inspect(InspectArgs),
    Rm(RmArgs),
    Restore(RestoreArgs),
    Clone(CloneArgs),
}

/// Makes a snapshot of all disks of a VM, and of the volumes that it writes to
///
/// The guest of a VM that runs holds its writes for that moment; where no agent answers, the VM is
/// paused. Disks that have to be copied are only copied while the VM is stopped or paused.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name to give it; made of the VM's when absent
    #[arg(long)]
    name: Option<VmName>,

    /// Pause the VM instead of asking its guest
    #[arg(long)]
    pause: bool,

    /// Neither: each disk as after a power cut, and not all at the same moment
    #[arg(long, conflicts_with = "pause")]
    crash_consistent: bool,

    /// Leave out the volumes that are attached to the VM
    #[arg(long)]
    without_volumes: bool,

    /// VM
    #[arg(value_name = "VM")]
    vm: String,
}

/// Lists snapshots
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only those of this VM, whether it is still there or not
    #[arg(value_name = "VM")]
    vm: Option<String>,
}

/// Shows everything about snapshots, as JSON
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Snapshots
    #[arg(required = true, value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
}

/// Removes snapshots; VMs keep what they have of them
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Snapshots
    #[arg(required = true, value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
}

/// Gives a stopped VM the disks of one of its snapshots
///
/// So do the volumes that are attached to it and are in the snapshot. What was written since is lost. The present
/// disks are kept until the new ones are whole.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Stop the VM first if it runs; it is not started again
    #[arg(long)]
    stop: bool,

    /// Leave the volumes that are attached to the VM as they are
    #[arg(long)]
    keep_volumes: bool,

    /// VM
    #[arg(value_name = "VM")]
    vm: String,

    /// Snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

/// Makes a new VM of a snapshot
///
/// It has the specification and the disks of the VM that was snapshotted, with addresses of its own
/// and none of its published ports. Volumes that were attached and are in the snapshot become its own.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// The new VM's name
    #[arg(long, required = true)]
    name: VmName,

    /// Port of the host that leads to it: [IP:]PORT:GUEST_PORT[/tcp|udp]
    #[arg(short, long = "publish", value_name = "PORT")]
    ports: Vec<PortSpec>,

    /// Start it at once
    #[arg(long)]
    start: bool,

    /// Snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

pub(crate) async fn run(context: &Context, command: SnapshotCommand) -> Outcome {
    let (client, out) = (&context.client, &context.out);
    match command {
        SnapshotCommand::Create(args) => create(context, args).await,
        SnapshotCommand::Ls(args) => {
            let list = client.snapshots(args.vm.as_deref()).await?;
            show(out, &list.items)?;
            Ok(exit_codes::OK)
        }
        SnapshotCommand::Inspect(args) => {
            let mut found = Vec::new();
            for snapshot in &args.snapshots {
                found.push(client.snapshot(snapshot).await?);
            }
            out.json(&found)?;
            Ok(exit_codes::OK)
        }
        SnapshotCommand::Rm(args) => {
            let remove =
                |snapshot: String| async move { Ok(client.delete_snapshot(&snapshot).await?) };
            each(&args.snapshots, remove, |name, ()| out.line(name)).await
        }
        SnapshotCommand::Restore(args) => restore(context, args).await,
        SnapshotCommand::Clone(args) => {
            let body = CloneSnapshot {
                name: args.name,
                ports: args.ports,
                start: args.start,
            };
            let vm = client.clone_snapshot(&args.snapshot, &body).await?;
            if out.is_json() {
                out.json(&vm)?;
            } else {
                out.line(&vm.spec.name)?;
            }
            Ok(exit_codes::OK)
        }
    }
}

async fn create(context: &Context, args: CreateArgs) -> Outcome {
    let out = &context.out;
    let body = CreateSnapshot {
        name: args.name,
        pause: args.pause,
        crash_consistent: args.crash_consistent,
        without_volumes: args.without_volumes,
    };
    let snapshot = context.client.create_snapshot(&args.vm, &body).await?;
    if out.is_json() {
        out.json(&snapshot)?;
        return Ok(exit_codes::OK);
    }
    out.line(&snapshot.name)?;
    if let Some(words) = how(&snapshot) {
        out.note(words);
    }
    for words in attached(&snapshot) {
        out.note(words);
    }
    Ok(exit_codes::OK)
}

/// What was done to a VM that ran.
fn how(snapshot: &Snapshot) -> Option<String> {
    let frozen = snapshot.frozen_ms.unwrap_or_default();
    match snapshot.consistency? {
        Consistency::Stopped => None,
        Consistency::Frozen => Some(format!("The guest held its writes for {frozen} ms.")),
        Consistency::Paused if snapshot.frozen_ms.is_none() => {
            Some("The VM stood still already.".to_owned())
        }
        Consistency::Paused => Some(format!(
            "The VM was paused for {frozen} ms: its disks are as after a power cut."
        )),
        Consistency::Crash => {
            Some("Its disks are as after a power cut, and not all of the same moment.".to_owned())
        }
    }
}

/// What became of the volumes that are attached to the VM.
fn attached(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    let (inside, outside): (Vec<_>, Vec<_>) = snapshot
        .attached
        .iter()
        .partition(|it| snapshot.holds(it.volume));
    let words = |what: &'static str, volumes: Vec<&Attachment>| {
        let names: Vec<&str> = volumes.iter().map(|it| it.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("{what}: {}.", names.join(", ")))
    };
    let inside = words("Attached volumes in it", inside);
    let outside = words("Attached volumes that are not in it", outside);
    inside.into_iter().chain(outside)
}

async fn restore(context: &Context, args: RestoreArgs) -> Outcome {
    let out = &context.out;
    let body = RestoreSnapshot {
        snapshot: args.snapshot,
        stop: args.stop,
        keep_volumes: args.keep_volumes,
    };
    let vm = context.client.restore_snapshot(&args.vm, &body).await?;
    if out.is_json() {
        out.json(&vm)?;
        return Ok(exit_codes::OK);
    }
    let name = &vm.spec.name;
    out.line(name)?;
    out.note(format!(
        "{name} has the disks of {}. Start it with: hearth start {name}",
        body.snapshot
    ));
    Ok(exit_codes::OK)
}

fn show(out: &Output, snapshots: &[Snapshot]) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(snapshots);
    }
    if out.quiet {
        return snapshots.iter().try_for_each(|one| out.line(&one.name));
    }
    let mut header = vec![
        "NAME",
        "VM",
        "STATE",
        "DISKS",
        "SIZE",
        "CONSISTENCY",
        "FROZEN",
        "CREATED",
    ];
    if out.is_wide() {
        header.extend(["ID", "IMAGE", "VM ID"]);
    }
    let mut table = Table::new(&header);
    for one in snapshots {
        let mut cells = vec![
            Cell::from(&one.name),
            (&one.vm_name).into(),
            Cell::styled(one.state, style(one.state)),
            one.disks.len().into(),
            Bytes(one.bytes().0).human().into(),
            one.consistency.map_or("-", Consistency::as_str).into(),
            one.frozen_ms
                .map_or_else(|| "-".to_owned(), |millis| format!("{millis} ms"))
                .into(),
            ago(one.created_at, out.now).into(),
        ];
        if out.is_wide() {
            cells.extend([one.id.into(), one.image.short().into(), one.vm.into()]);
        }
        table.row(cells);
    }
    out.table(&table)
}

fn style(state: SnapshotState) -> anstyle::Style {
    match state {
        SnapshotState::Ready => GOOD,
        SnapshotState::Creating | SnapshotState::Deleting => WARN,
    }
}
