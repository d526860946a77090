//! Whole volumes in and out, as they are: raw, byte for byte.

use std::io::Seek as _;
use std::sync::Arc;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::{Room, write_data};
use hearth_host::aside::aside;
use hearth_types::ids::VolumeId;
use hearth_types::names::VmName;
use hearth_types::problem::{Code, Problem};
use hearth_types::spec::{FieldError, MAX_DISK, MIN_DISK};
use hearth_types::units::{Bytes, MIB};
use hearth_types::volume::{StorageKind, VolumeView, check_size};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::engine::Engine;
use crate::engine::snapshots::{Hold, conflict, disk_problem};

/// The file that what comes is written to. Its name ends as that of anything that is being made.
const INCOMING: &str = "incoming.new";
/// Sizes of volumes are whole pages: some guests know no smaller sectors.
const UNIT: u64 = 4096;
/// Bytes taken at once.
const CHUNK: usize = 1 << 20;
/// What stays free for logs and databases.
const RESERVE: u64 = 64 * MIB;

/// What is on a volume; nobody writes to it as long as this is held.
pub struct Content {
    /// The file or device.
    pub file: tokio::fs::File,
    /// How long it is.
    pub length: u64,
    /// Kept until all is read.
    pub hold: Box<dyn Send + Sync>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens a volume for reading it out whole. It is not written to meanwhile: no VM that may write to
    /// it runs, and none starts.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be.
    pub async fn read_volume(self: &Arc<Self>, view: &VolumeView) -> anyhow::Result<Content> {
        let (hold, now): (Hold<VolumeId>, _) = self.volume_alone(view).await?;
        let volume = &now.volume;
        Self::must_be_whole(volume)?;
        let users = self.running_users(&now).await;
        if let Some((_, row)) = users.iter().find(|(it, _)| !it.read_only) {
            let (name, vm) = (&volume.name, &row.spec.name);
            let detail = format!("{vm} runs and writes to volume {name}");
            let hint = format!(
                "stop it (hearth stop {vm}), or export a snapshot: hearth volume snapshot {name}"
            );
            return Err(conflict(detail).hint(hint).into());
        }
        let path = self.paths.volume_disk(volume.id, volume.disk);
        if volume.storage == StorageKind::Thin {
            let ready = self.parts.disks.ready(&path, 0).await;
            ready.map_err(|error| disk_problem("the volume cannot be read", &error))?;
        }
        let (file, length) = aside(move || open(&path)).await??;
        Ok(Content {
            file: tokio::fs::File::from_std(file),
            length,
            hold: Box::new(hold),
        })
    }

    /// Makes a volume of what comes. Zeros take no room.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be; nothing of it is left then.
    pub async fn import_volume(
        self: &Arc<Self>,
        name: VmName,
        size: Option<Bytes>,
        content: impl AsyncRead + Send + Unpin,
    ) -> anyhow::Result<VolumeView> {
        if let Some(error) = size.and_then(check_size) {
            return Err(Problem::fields(vec![error]).into());
        }
        let volume = self.new_volume(name, size.unwrap_or_default()).await;
        let engine = Arc::clone(self);
        self.make_volume(volume, async move |volume| {
            let incoming = engine.paths.volume(volume.id).join(INCOMING);
            let came = receive(incoming.clone(), size.unwrap_or(MAX_DISK), content).await?;
            let least = size.unwrap_or_default().max(MIN_DISK);
            volume.size = Bytes(came.max(least.0).next_multiple_of(UNIT));
            let whole = (incoming.clone(), volume.size.0);
            aside(move || seal(&whole.0, whole.1)).await??;
            let path = engine.paths.volume_disk(volume.id, volume.disk);
            let disks = &engine.parts.disks;
            let made = match volume.storage {
                StorageKind::Files => disks.replace(&path, &incoming).await,
                StorageKind::Thin => {
                    let copied = disks.convert(&incoming, &path, StorageKind::Thin, 0).await;
                    match copied {
                        Ok(()) => disks.take_back(&incoming).await,
                        failed => failed,
                    }
                }
            };
            made.map_err(|error| disk_problem("the volume is not made", &error))
        })
        .await
    }
}

fn open(path: &Utf8Path) -> anyhow::Result<(std::fs::File, u64)> {
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot open {path}"))?;
    // A device has no length but its end.
    let length = file.seek(std::io::SeekFrom::End(0));
    let length = length.with_context(|| format!("cannot measure {path}"))?;
    file.rewind()
        .with_context(|| format!("cannot read {path}"))?;
    Ok((file, length))
}

/// All bytes are there; durable.
fn seal(path: &Utf8Path, size: u64) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path);
    let sealed = file.and_then(|file| {
        file.set_len(size)?;
        file.sync_all()
    });
    sealed.with_context(|| format!("cannot write {path}"))
}

/// Writes what comes into a new file, at most so much, and says how much came.
async fn receive(
    path: Utf8PathBuf,
    most: Bytes,
    mut content: impl AsyncRead + Send + Unpin,
) -> anyhow::Result<u64> {
    let new = path.clone();
    let file = aside(move || {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(&new)
    });
    let file = file.await?.with_context(|| format!("cannot make {path}"))?;
    let (mut file, mut at, mut buffer) = (file, 0, Vec::with_capacity(CHUNK));
    loop {
        buffer.clear();
        let mut part = (&mut content).take(CHUNK as u64);
        let count = part.read_to_end(&mut buffer).await;
        let count = count.map_err(|error| {
            Problem::new(
                Code::Invalid,
                format!("the content broke off after {at} bytes: {error}"),
            )
        })?;
        if count == 0 {
            return Ok(at);
        }
        if at + count as u64 > most.0 {
            let detail = format!("is larger than {most}");
            let mut problem = Problem::fields(vec![FieldError::new("content", detail)]);
            problem.hint = Some("give its size: --size".to_owned());
            return Err(problem.into());
        }
        let (folder, offset) = (path.clone(), at);
        let written = aside(move || {
            room_for(&folder, buffer.len() as u64)?;
            write_data(&file, &buffer, offset).with_context(|| format!("cannot write {folder}"))?;
            anyhow::Ok((file, buffer))
        });
        (file, buffer) = written.await??;
        at += count as u64;
    }
}

fn room_for(path: &Utf8Path, bytes: u64) -> anyhow::Result<()> {
    let room = Room::of(path.parent().unwrap_or(path))?;
    if room.free >= bytes.saturating_add(RESERVE) {
        return Ok(());
    }
    let detail = format!(
        "no room for the volume: {} are free",
        Bytes(room.free).human()
    );
    Err(Problem::new(Code::Exhausted, detail).into())
}
