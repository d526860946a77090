//! `hearth volume …`: data volumes of their own.

mod content;

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};

use hearth_types::VmName;
use hearth_types::units::Bytes;
use hearth_types::volume::{
    AttachVolume, Attachment, CreateVolume, DetachVolume, GrowVolume, GrownIn, Growth,
    MigrateStorage, SnapshotVolume, StorageKind, VolumeState, VolumeView,
};

use super::each;
use crate::ages::ago;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{GOOD, Output, WARN};
use crate::table::{Cell, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    Create(CreateArgs),
    #[command(visible_alias = "list")]
    Ls,
    Inspect(InspectArgs),
    Rm(RmArgs),
    Grow(GrowArgs),
    Attach(AttachArgs),
    Detach(DetachArgs),
    Snapshot(SnapshotArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    Migrate(MigrateArgs),
}

/// Makes a volume: an empty ext4 file system, or a copy of another volume
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its size, such as 10GiB; with --from at least as much as that one has
    #[arg(long, required_unless_present = "from")]
    size: Option<Bytes>,

    /// Volume or snapshot that it is a copy of
    #[arg(long, value_name = "VOLUME")]
    from: Option<String>,

    /// Its name
    #[arg(value_name = "NAME")]
    name: VmName,
}

/// Shows everything about volumes, as JSON
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Removes volumes with what is on them; those that a VM has stay
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Makes a volume larger, also under a VM that runs
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    /// Its new size
    #[arg(long, required = true)]
    size: Bytes,

    /// Volume
    #[arg(value_name = "VOLUME")]
    volume: String,
}

/// Gives a VM that does not run a volume
///
/// It is mounted at the VM's next start. One VM may write to a volume, or many may read it. It stays
/// when the VM is removed.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Where the guest mounts it; /mnt/NAME when absent
    #[arg(long, value_name = "PATH")]
    at: Option<String>,

    /// The guest may not write to it
    #[arg(long)]
    read_only: bool,

    /// VM
    #[arg(value_name = "VM")]
    vm: String,

    /// Volume
    #[arg(value_name = "VOLUME")]
    volume: String,
}

/// Takes a volume from a VM that does not run
#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    /// VM
    #[arg(value_name = "VM")]
    vm: String,

    /// Volume
    #[arg(value_name = "VOLUME")]
    volume: String,
}

/// Makes a snapshot of a volume: a volume that is attached read-only
///
/// The guest that writes to the volume holds its writes for that moment; where no agent answers, its VM
/// is paused.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Name to give it; made of the volume's when absent
    #[arg(long)]
    name: Option<VmName>,

    /// Pause the VM instead of asking its guest
    #[arg(long)]
    pause: bool,

    /// Volume
    #[arg(value_name = "VOLUME")]
    volume: String,
}

/// Writes what is on a volume into a new file, raw and sparse
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Volume
    #[arg(value_name = "VOLUME")]
    volume: String,

    /// File, which must not be there yet, or - for standard output
    #[arg(value_name = "FILE")]
    file: Utf8PathBuf,
}

/// Makes a volume of a raw disk or file system in a file
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Its size, at least the file's; the file's when absent
    #[arg(long)]
    size: Option<Bytes>,

    /// The volume's name
    #[arg(value_name = "NAME")]
    name: VmName,

    /// File, or - for standard input
    #[arg(value_name = "FILE")]
    file: Utf8PathBuf,
}

/// Moves a volume that no VM has, or the disks of a VM that does not run, between files and the pool
///
/// What was copied is compared with its source before it counts. Cut off anywhere, the one or the other
/// is there, whole.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Where to: files or thin
    #[arg(long, required = true, value_name = "STORAGE")]
    to: StorageKind,

    /// The root disk and the own volumes of this VM
    #[arg(long, conflicts_with = "volume")]
    vm: Option<String>,

    /// Volume
    #[arg(value_name = "VOLUME", required_unless_present = "vm")]
    volume: Option<String>,
}

pub(crate) async fn run(context: &Context, command: VolumeCommand) -> Outcome {
    let (client, out) = (&context.client, &context.out);
    match command {
        VolumeCommand::Create(args) => {
            let body = CreateVolume {
                name: args.name,
                size: args.size,
                from: args.from,
            };
            made(out, &client.create_volume(&body).await?)
        }
        VolumeCommand::Ls => {
            let list = client.volumes().await?;
            show(out, &list.items)?;
            Ok(exit_codes::OK)
        }
        VolumeCommand::Inspect(args) => {
            let mut found = Vec::new();
            for volume in &args.volumes {
                found.push(client.volume(volume).await?);
            }
            out.json(&found)?;
            Ok(exit_codes::OK)
        }
        VolumeCommand::Rm(args) => {
            let remove = |volume: String| async move { Ok(client.delete_volume(&volume).await?) };
            each(&args.volumes, remove, |name, ()| out.line(name)).await
        }
        VolumeCommand::Grow(args) => grow(context, args).await,
        VolumeCommand::Attach(args) => attach(context, args).await,
        VolumeCommand::Detach(args) => {
            let body = DetachVolume { vm: args.vm };
            made(out, &client.detach_volume(&args.volume, &body).await?)
        }
        VolumeCommand::Snapshot(args) => {
            let body = SnapshotVolume {
                name: args.name,
                pause: args.pause,
            };
            made(out, &client.snapshot_volume(&args.volume, &body).await?)
        }
        VolumeCommand::Export(args) => content::export(context, &args.volume, &args.file).await,
        VolumeCommand::Import(args) => {
            let source = content::source(&args.file)?;
            let name = args.name.as_str();
            made(out, &client.import_volume(name, args.size, source).await?)
        }
        VolumeCommand::Migrate(args) => migrate(context, args).await,
    }
}

/// Says what there is now.
fn made(out: &Output, volume: &VolumeView) -> Outcome {
    if out.is_json() {
        out.json(volume)?;
    } else {
        out.line(&volume.volume.name)?;
    }
    Ok(exit_codes::OK)
}

async fn grow(context: &Context, args: GrowArgs) -> Outcome {
    let out = &context.out;
    let body = GrowVolume { size: args.size };
    let grown = context.client.grow_volume(&args.volume, &body).await?;
    if out.is_json() {
        out.json(&grown)?;
        return Ok(exit_codes::OK);
    }
    out.line(&grown.volume.volume.name)?;
    for guest in &grown.guests {
        let words = growth(guest);
        match guest.growth {
            Growth::Grown => out.note(words),
            Growth::DeviceGrown | Growth::NextStart => out.warn(words),
        }
    }
    Ok(exit_codes::OK)
}

/// What became of a growth in a VM that runs.
fn growth(guest: &GrownIn) -> String {
    let vm = &guest.vm;
    let why = guest.why.as_ref().map(|why| format!(": {why}"));
    let why = why.unwrap_or_default();
    match guest.growth {
        Growth::Grown => format!("{vm} has the new size."),
        Growth::DeviceGrown => {
            format!("{vm} has the larger disk; its file system follows at its next start{why}")
        }
        Growth::NextStart => format!("{vm} has the new size from its next start on{why}"),
    }
}

async fn attach(context: &Context, args: AttachArgs) -> Outcome {
    let out = &context.out;
    let body = AttachVolume {
        vm: args.vm,
        at: args.at,
        read_only: args.read_only,
    };
    let volume = context.client.attach_volume(&args.volume, &body).await?;
    made(out, &volume)?;
    let new = volume
        .attached
        .iter()
        .find(|it| it.vm_name.as_str() == body.vm || it.vm.to_string().starts_with(&body.vm));
    if let Some(it) = new.filter(|_| !out.is_json()) {
        out.note(format!(
            "{vm} has it at {mount} from its next start on: hearth start {vm}",
            vm = it.vm_name,
            mount = it.mount
        ));
    }
    Ok(exit_codes::OK)
}

async fn migrate(context: &Context, args: MigrateArgs) -> Outcome {
    let (client, out) = (&context.client, &context.out);
    let body = MigrateStorage { to: args.to };
    let Some(vm) = args.vm else {
        let volume = args.volume.unwrap_or_default();
        return made(out, &client.migrate_volume(&volume, &body).await?);
    };
    let vm = client.migrate_vm(&vm, &body).await?;
    if out.is_json() {
        out.json(&vm)?;
    } else {
        out.line(&vm.spec.name)?;
    }
    Ok(exit_codes::OK)
}

fn show(out: &Output, volumes: &[VolumeView]) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(volumes);
    }
    if out.quiet {
        let mut names = volumes.iter().map(|it| &it.volume.name);
        return names.try_for_each(|name| out.line(name));
    }
    let mut header = vec![
        "NAME",
        "STATE",
        "SIZE",
        "STORAGE",
        "ATTACHED TO",
        "SNAPSHOT OF",
        "CREATED",
    ];
    if out.is_wide() {
        header.push("ID");
    }
    let mut table = Table::new(&header);
    for view in volumes {
        let one = &view.volume;
        let attached: Vec<_> = view.attached.iter().map(attached).collect();
        let mut cells = vec![
            Cell::from(&one.name),
            Cell::styled(one.state, style(one.state)),
            one.size.human().into(),
            one.storage.into(),
            or_dash(attached.join(", ")).into(),
            or_dash(
                one.snapshot_of
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            )
            .into(),
            ago(one.created_at, out.now).into(),
        ];
        if out.is_wide() {
            cells.push(one.id.into());
        }
        table.row(cells);
    }
    out.table(&table)
}

fn attached(it: &Attachment) -> String {
    let how = if it.read_only { " (ro)" } else { "" };
    format!("{}:{}{how}", it.vm_name, it.mount)
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

fn style(state: VolumeState) -> anstyle::Style {
    match state {
        VolumeState::Ready => GOOD,
        VolumeState::Creating | VolumeState::Deleting => WARN,
    }
}
