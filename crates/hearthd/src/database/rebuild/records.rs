//! Volumes, snapshots and templates, made again of what is kept of them in files, as far as their disks are
//! there. Images are files of their own, and are as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::Volumes as _;
use hearth_pool::{Expected, ThinVolumes, kind_of};
use hearth_store::Store;
use hearth_types::ids::{ImageId, InstallationId, SnapshotId, VolumeId};
use hearth_types::snapshot::Snapshot;
use hearth_types::survey::chain;
use hearth_types::template::Template;
use hearth_types::thin::ThinKind;
use hearth_types::units::Bytes;
use hearth_types::volume::{Attachment, Volume, VolumeState, VolumeView};
use jiff::Timestamp;

use super::{is_conflict, line};
use crate::engine::paths::{Paths, file_of};
use crate::keepsakes::{self, Kept};

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Records {
    volumes: Vec<String>,
    snapshots: Vec<String>,
    templates: Vec<String>,
    images: BTreeSet<String>,
    /// Volumes that have a name of ours, because nobody knows theirs.
    unnamed: Vec<String>,
    /// What gave no record, and why.
    pub(super) left: Vec<(Utf8PathBuf, String)>,
    /// What else is not known.
    unknown: Vec<String>,
}

/// The disks of volumes and snapshots that may be in the pool.
pub(super) fn expected(paths: &Paths) -> anyhow::Result<Vec<Expected>> {
    let mut disks = Vec::new();
    let volumes = folders::<VolumeId>(&paths.volumes())?.into_values();
    let snapshots = folders::<SnapshotId>(&paths.snapshots())?.into_values();
    for folder in volumes.chain(snapshots) {
        for name in names(&folder)?.iter().filter(|name| name.ends_with(".img")) {
            let path = folder.join(name);
            let kind = kind_of(&path, ThinKind::Data);
            disks.push(Expected { path, kind });
        }
    }
    Ok(disks)
}

/// Whose volumes, snapshots and templates these are, as they say.
pub(super) fn installations(paths: &Paths) -> anyhow::Result<BTreeSet<InstallationId>> {
    let volumes = folders::<VolumeId>(&paths.volumes())?.into_keys();
    let snapshots = folders::<SnapshotId>(&paths.snapshots())?.into_keys();
    let volumes = volumes.map(|id| keepsakes::of_volume(paths, id));
    let snapshots = snapshots.map(|id| keepsakes::of_snapshot(paths, id));
    let folder = keepsakes::templates(paths);
    let templates = names(&folder)?;
    let templates = templates.iter().map(|name| folder.join(name));
    let all = volumes.chain(snapshots).chain(templates);
    let kept = all.filter_map(|path| keepsakes::read::<serde_json::Value>(&path).ok());
    Ok(kept.map(|kept| kept.installation).collect())
}

/// Makes them. The VMs are recorded, and so are the devices of the pool.
pub(super) async fn run(
    paths: &Paths,
    store: &Store,
    volumes: &ThinVolumes,
) -> anyhow::Result<Records> {
    let mut records = Records::default();
    let maker = Maker {
        paths,
        store,
        volumes,
    };
    for (id, folder) in folders::<VolumeId>(&paths.volumes())? {
        maker.volume(id, folder, &mut records).await?;
    }
    for (id, folder) in folders::<SnapshotId>(&paths.snapshots())? {
        maker.snapshot(id, folder, &mut records).await?;
    }
    maker.templates(&mut records).await?;
    maker.images(&mut records).await?;
    Ok(records)
}

/// The folders in a folder that are named by ids, the oldest first.
fn folders<Id: FromStr + Ord>(folder: &Utf8Path) -> anyhow::Result<BTreeMap<Id, Utf8PathBuf>> {
    let named = names(folder)?.into_iter();
    let named = named.filter_map(|name| Some((name.parse().ok()?, folder.join(name))));
    Ok(named.collect())
}

/// What is in a folder; nothing if there is none.
fn names(folder: &Utf8Path) -> anyhow::Result<Vec<String>> {
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {folder}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {folder}"))?;
        names.push(entry.file_name().to_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// The number of a volume's disk.
fn number(file: &str) -> Option<u32> {
    let number = file.strip_prefix("disk-")?.strip_suffix(".img")?;
    number.parse().ok()
}

/// A disk of a volume that is whole.
struct Disk {
    number: u32,
    size: Bytes,
}

struct Maker<'a> {
    paths: &'a Paths,
    store: &'a Store,
    volumes: &'a ThinVolumes,
}

impl Maker<'_> {
    fn own<T>(&self, kept: &Kept<T>) -> Result<(), String> {
        match kept.installation {
            own if own == self.store.installation() => Ok(()),
            other => Err(format!("it belongs to installation {other}")),
        }
    }

    async fn volume(
        &self,
        id: VolumeId,
        folder: Utf8PathBuf,
        records: &mut Records,
    ) -> anyhow::Result<()> {
        let kept = keepsakes::read::<VolumeView>(&keepsakes::of_volume(self.paths, id));
        let kept = kept.ok().filter(|kept| kept.record.volume.id == id);
        if let Some(Err(why)) = kept.as_ref().map(|kept| self.own(kept)) {
            records.left.push((folder, why));
            return Ok(());
        }
        let unnamed = kept.is_none();
        let (mut volume, attached) = match kept {
            Some(kept) => (kept.record.volume, kept.record.attached),
            None => (unnamed_volume(id, &folder)?, Vec::new()),
        };
        let disk = match self.disk(id, volume.disk, &folder).await? {
            Ok(disk) => disk,
            Err(why) => {
                records.left.push((folder, why));
                return Ok(());
            }
        };
        let path = self.paths.volume_disk(id, disk.number);
        (volume.disk, volume.size, volume.draft) = (disk.number, disk.size, None);
        volume.state = VolumeState::Ready;
        volume.storage = match self.volumes.kind(&path).await {
            Ok(kind) => kind,
            Err(error) => {
                records.left.push((folder, chain(&error)));
                return Ok(());
            }
        };
        let name = volume.name.to_string();
        match self.store.begin_volume(volume.clone()).await {
            Ok(()) => {}
            Err(error) if is_conflict(&error) => {
                records.left.push((folder, error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        for attachment in attached {
            self.attach(&volume, attachment, records).await?;
        }
        if unnamed {
            records.unnamed.push(name.clone());
        }
        records.volumes.push(name);
        Ok(())
    }

    /// The disk that a volume has: the one of this number, or the only one that is whole.
    async fn disk(
        &self,
        id: VolumeId,
        wanted: u32,
        folder: &Utf8Path,
    ) -> anyhow::Result<Result<Disk, String>> {
        let mut numbers: BTreeSet<u32> = BTreeSet::from([wanted]);
        numbers.extend(names(folder)?.iter().filter_map(|name| number(name)));
        let (mut whole, mut why) = (Vec::new(), String::new());
        for number in numbers {
            match self.volumes.size(&self.paths.volume_disk(id, number)).await {
                Ok(size) if number == wanted => return Ok(Ok(Disk { number, size })),
                Ok(size) => whole.push(Disk { number, size }),
                Err(error) => why = chain(&error),
            }
        }
        Ok(match (whole.pop(), whole.len()) {
            (Some(disk), 0) => Ok(disk),
            (None, _) => Err(format!("it has no disk that is whole: {why}")),
            (Some(_), others) => Err(format!(
                "it has {} disks, and nothing says which of them counts",
                others + 1
            )),
        })
    }

    async fn attach(
        &self,
        volume: &Volume,
        kept: Attachment,
        records: &mut Records,
    ) -> anyhow::Result<()> {
        let name = &volume.name;
        let Some(row) = self.store.vm(kept.vm).await else {
            let words = format!(
                "who has volume {name}: {} had it at {}, and has no record",
                kept.vm_name, kept.mount
            );
            records.unknown.push(words);
            return Ok(());
        };
        let attachment = Attachment {
            name: name.clone(),
            vm_name: row.spec.name.clone(),
            ..kept
        };
        match self.store.attach_volume(attachment).await {
            Ok(()) => Ok(()),
            Err(error) if is_conflict(&error) => {
                let words = format!("who has volume {name}: {error}");
                records.unknown.push(words);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn snapshot(
        &self,
        id: SnapshotId,
        folder: Utf8PathBuf,
        records: &mut Records,
    ) -> anyhow::Result<()> {
        let kept = match keepsakes::read::<Snapshot>(&keepsakes::of_snapshot(self.paths, id)) {
            Ok(kept) if kept.record.id == id => kept,
            Ok(_) => {
                let why = "what it keeps is of another snapshot".to_owned();
                records.left.push((folder, why));
                return Ok(());
            }
            Err(error) => {
                let why = format!("whose disks these are nobody knows: {error:#}");
                records.left.push((folder, why));
                return Ok(());
            }
        };
        if let Err(why) = self.own(&kept) {
            records.left.push((folder, why));
            return Ok(());
        }
        for disk in &kept.record.disks {
            let there = self.volumes.size(&folder.join(file_of(disk))).await;
            if let Err(error) = there {
                let why = format!("its disk {} is not there: {}", disk.name(), chain(&error));
                records.left.push((folder, why));
                return Ok(());
            }
        }
        let (name, environment) = (kept.record.name.to_string(), kept.environment);
        match self.store.begin_snapshot(kept.record).await {
            Ok(()) => {
                records.lacks("snapshot", &name, &environment);
                records.snapshots.push(name);
                Ok(())
            }
            Err(error) if is_conflict(&error) => {
                records.left.push((folder, error.to_string()));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn templates(&self, records: &mut Records) -> anyhow::Result<()> {
        let folder = keepsakes::templates(self.paths);
        let files = names(&folder)?;
        for file in files.iter().filter(|name| name.ends_with(".json")) {
            let path = folder.join(file);
            let kept = match keepsakes::read::<Template>(&path) {
                Ok(kept) => kept,
                Err(error) => {
                    records.left.push((path, format!("{error:#}")));
                    continue;
                }
            };
            if let Err(why) = self.own(&kept) {
                records.left.push((path, why));
                continue;
            }
            let (name, environment) = (kept.record.name.to_string(), kept.environment);
            match self.store.put_template(kept.record, false).await {
                Ok(_) => {
                    records.lacks("template", &name, &environment);
                    records.templates.push(name);
                }
                Err(error) if is_conflict(&error) => {
                    records.left.push((path, error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Images are as they were; who needs one that is not there is told.
    async fn images(&self, records: &mut Records) -> anyhow::Result<()> {
        let folder = self.paths.data().join("images/images");
        let sealed = |name: &String| folder.join(name).join("image.json").is_file();
        records.images = names(&folder)?.into_iter().filter(sealed).collect();
        let mut needed: Vec<(ImageId, String)> = Vec::new();
        for row in self.store.vms().await {
            needed.push((row.image, row.spec.name.to_string()));
        }
        for one in self.store.snapshots().await? {
            needed.push((one.image, format!("snapshot {}", one.name)));
        }
        for one in self.store.templates().await? {
            needed.push((one.image_id, format!("template {}", one.name)));
        }
        needed.retain(|(image, _)| !records.images.contains(image.hex()));
        let mut missing: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
        for (image, who) in needed {
            missing.entry(image).or_default().push(who);
        }
        for (image, who) in missing {
            let words = format!(
                "image {image}, which {} came from: it is not here; pull or import it again",
                who.join(", ")
            );
            records.unknown.push(words);
        }
        Ok(())
    }
}

/// A volume of which there is nothing but its disk.
fn unnamed_volume(id: VolumeId, folder: &Utf8Path) -> anyhow::Result<Volume> {
    let made = folder.metadata().and_then(|meta| meta.modified());
    let made = made.with_context(|| format!("cannot look at {folder}"))?;
    Ok(Volume {
        id,
        name: format!("recovered-{}", id.short()).parse()?,
        size: Bytes(0),
        storage: hearth_types::volume::StorageKind::Files,
        snapshot_of: None,
        consistency: None,
        created_at: Timestamp::try_from(made).unwrap_or(Timestamp::UNIX_EPOCH),
        state: VolumeState::Ready,
        disk: 0,
        draft: None,
    })
}

impl Records {
    fn lacks(&mut self, what: &str, name: &str, environment: &[String]) {
        if !environment.is_empty() {
            let lost = environment.join(", ");
            let words = format!("the values of the environment that {what} {name} has: {lost}");
            self.unknown.push(words);
        }
    }

    pub(super) fn count(&self) -> String {
        format!(
            "{} volume(s), {} snapshot(s), {} template(s)",
            self.volumes.len(),
            self.snapshots.len(),
            self.templates.len()
        )
    }

    /// What was done, for a person.
    pub(super) fn done(&self, text: &mut String) {
        for (what, names) in [
            ("volumes", &self.volumes),
            ("snapshots", &self.snapshots),
            ("templates", &self.templates),
        ] {
            if !names.is_empty() {
                line(text, format_args!("  {what}: {}", names.join(" ")));
            }
        }
        let images = self.images.len();
        line(
            text,
            format_args!("  images: {images}, as they were: they are not in the database"),
        );
    }

    /// What could not be known, for a person.
    pub(super) fn unknown(&self, text: &mut String) {
        if !self.unnamed.is_empty() {
            line(
                text,
                format_args!(
                    "  what these volumes were called, and who had them: {}",
                    self.unnamed.join(" ")
                ),
            );
        }
        for words in &self.unknown {
            line(text, format_args!("  {words}"));
        }
    }
}
