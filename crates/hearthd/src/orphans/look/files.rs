//! What lies among the VMs' folders and in those of VMs of the database.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::ids::VmId;
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};
use hearth_vmm::{CONSOLE_LOG, VMM_LOG};

use super::{Scene, Wanted, changed, kept, unproven};
use crate::engine::paths::{DISKS_MARKER, INITRD, LAUNCH_RECORD, LENT, Paths, ROOT_DISK};
use crate::orphans::keepsake::KEEPSAKE;

/// What the daemon makes in a VM's folder, apart from data volumes.
const OURS: [&str; 8] = [
    DISKS_MARKER,
    INITRD,
    KEEPSAKE,
    LAUNCH_RECORD,
    ROOT_DISK,
    // A restore that is under way.
    "restore.json",
    // Crash dumps, and one that is being written.
    "dumps",
    "guest.dump",
];
/// Files that are being made: their names end so, or begin with a dot.
const DRAFT: &str = ".new";

/// The folder of a VM of the database.
struct Home<'a> {
    dir: &'a Utf8Path,
    vm: VmId,
    wanted: &'a Wanted,
    /// No process of its VM lives.
    quiet: bool,
    old_logs: u32,
}

impl Scene {
    pub(super) fn files(&self) -> anyhow::Result<Vec<Orphan>> {
        let mut found = Vec::new();
        let folder = self.paths.vms();
        let entries = folder.read_dir_utf8();
        for entry in entries.with_context(|| format!("cannot list {folder}"))? {
            let entry = entry.with_context(|| format!("cannot list {folder}"))?;
            let Ok(vm) = entry.file_name().parse::<VmId>() else {
                found.push(unproven(
                    format!("folder-{}", entry.file_name()),
                    OrphanKind::Folder,
                    entry.path().to_string(),
                    "it lies among the VMs' folders and its name is no VM's id".to_owned(),
                    "nothing proves that it is ours",
                ));
                continue;
            };
            // What no VM has is listed as a whole, by the survey.
            if let Some(wanted) = self.desired.get(&vm) {
                let home = Home {
                    dir: entry.path(),
                    vm,
                    wanted,
                    quiet: self.living.known && !self.living.any.contains(&vm),
                    old_logs: self.old_logs,
                };
                home.look(&mut found)?;
            }
        }
        Ok(found)
    }
}

impl Home<'_> {
    fn look(&self, found: &mut Vec<Orphan>) -> anyhow::Result<()> {
        let entries = self.dir.read_dir_utf8();
        let entries = match entries {
            Ok(entries) => entries,
            // It was removed between two looks.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot list {}", self.dir)),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", self.dir))?;
            // Files come and go while a VM starts.
            if let Ok(meta) = entry.path().symlink_metadata() {
                found.extend(self.judge(entry.file_name(), entry.path(), &meta));
            }
        }
        found.extend(self.missing());
        Ok(())
    }

    fn judge(&self, name: &str, path: &Utf8Path, meta: &Metadata) -> Option<Orphan> {
        if meta.file_type().is_socket() {
            let why = "its VM's next start takes its place; it goes with its VM";
            return self
                .quiet
                .then(|| self.unwanted(OrphanKind::Socket, name, path, meta, kept(why)))
                .map(|it| with_reason(it, "no process of its VM lives"));
        }
        if let Some(number) = old_log(name) {
            return (number > self.old_logs).then(|| {
                let fate = kept("it goes with its VM");
                let log = self.unwanted(OrphanKind::Log, name, path, meta, fate);
                with_reason(log, "more old logs are there than are kept now")
            });
        }
        if let Some(volume) = volume(name) {
            return (!self.wanted.volumes.contains(volume)).then(|| {
                let fate = Fate {
                    what: FateKind::Reported,
                    at: None,
                    why: "it holds data: give it back with hearth apply, or wait for hearth rm"
                        .to_owned(),
                };
                let disk = self.unwanted(OrphanKind::Volume, name, path, meta, fate);
                with_reason(disk, "its VM has no volume of this name any more")
            });
        }
        let known =
            OURS.contains(&name) || name.starts_with(LENT) || hearth_vmm::FILES.contains(&name);
        let draft = name.starts_with('.') || name.ends_with(DRAFT);
        // A VMM makes what it needs while it runs, and drafts are soon renamed.
        if known || !self.quiet {
            return None;
        }
        if draft {
            let fate = kept("the next start or the next write takes its place");
            let file = self.unwanted(OrphanKind::File, name, path, meta, fate);
            return Some(with_reason(
                file,
                "it was being written when its writer died",
            ));
        }
        let fate = Fate {
            what: FateKind::Never,
            at: None,
            why: "nothing proves that it is ours; it goes with its VM".to_owned(),
        };
        let file = self.unwanted(OrphanKind::File, name, path, meta, fate);
        let mut file = with_reason(file, "nothing of Hearth makes a file of this name here");
        file.state = OrphanState::Unproven;
        Some(file)
    }

    fn unwanted(
        &self,
        kind: OrphanKind,
        name: &str,
        path: &Utf8Path,
        meta: &Metadata,
        fate: Fate,
    ) -> Orphan {
        Orphan {
            state: OrphanState::Unwanted,
            vm: Some(self.vm),
            name: Some(self.wanted.name.clone()),
            since: changed(meta),
            bytes: Some(meta.blocks() * 512).filter(|_| meta.is_file()),
            fate,
            ..unproven(
                format!("{}-{}-{name}", kind.as_str(), self.vm),
                kind,
                path.to_string(),
                String::new(),
                "",
            )
        }
    }

    /// Disks that were whole once and are not there.
    fn missing(&self) -> Vec<Orphan> {
        let whole = self.dir.join(DISKS_MARKER);
        let Ok(marker) = std::fs::read(&whole) else {
            return Vec::new();
        };
        let made = made_volumes(&marker);
        let volumes = self.wanted.volumes.iter().filter(|it| made.contains(*it));
        let files = volumes.map(|name| Paths::volume_file(name));
        let files = std::iter::once(ROOT_DISK.to_owned()).chain(files);
        let gone = files.map(|file| self.dir.join(file)).filter(is_gone);
        gone.map(|path| self.missing_disk(&path)).collect()
    }

    fn missing_disk(&self, path: &Utf8PathBuf) -> Orphan {
        Orphan {
            state: OrphanState::Missing,
            vm: Some(self.vm),
            name: Some(self.wanted.name.clone()),
            fate: Fate {
                what: FateKind::Reported,
                at: None,
                why: "what was on it is lost: put a copy back, or remove the VM".to_owned(),
            },
            ..unproven(
                format!(
                    "missing-volume-{}-{}",
                    self.wanted.name,
                    path.file_name().unwrap_or_default()
                ),
                OrphanKind::Volume,
                path.to_string(),
                "the disk was made and its file is gone".to_owned(),
                "",
            )
        }
    }
}

fn is_gone(path: &Utf8PathBuf) -> bool {
    matches!(path.symlink_metadata(), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}

fn with_reason(orphan: Orphan, reason: &str) -> Orphan {
    Orphan {
        reason: reason.to_owned(),
        ..orphan
    }
}

/// The number of an old log: `console.log.2` is 2.
fn old_log(name: &str) -> Option<u32> {
    let logs = [CONSOLE_LOG, VMM_LOG].into_iter();
    let mut numbers = logs.filter_map(|log| name.strip_prefix(log)?.strip_prefix('.'));
    numbers.next()?.parse().ok()
}

/// The volume that a file of this name holds.
fn volume(name: &str) -> Option<&str> {
    name.strip_prefix("volume-")?.strip_suffix(".img")
}

/// The volumes that the marker of whole disks names.
fn made_volumes(marker: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Volume {
        name: String,
    }
    #[derive(serde::Deserialize)]
    struct Marker {
        #[serde(default)]
        volumes: Vec<Volume>,
    }
    let marker = serde_json::from_slice::<Marker>(marker);
    let volumes = marker.map(|marker| marker.volumes).unwrap_or_default();
    volumes.into_iter().map(|volume| volume.name).collect()
}
