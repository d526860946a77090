//! Where the files of an installation are.

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::snapshot::SnapshotDisk;
use hearth_types::{VmId, VolumeId};

/// The folders of an installation.
#[derive(Debug, Clone)]
pub struct Paths {
    data: Utf8PathBuf,
}

/// In a VM's folder: says that all of its disks are whole, and which.
pub const DISKS_MARKER: &str = "disks.json";
/// In a VM's folder: what the current run was started with.
pub const LAUNCH_RECORD: &str = "launch.json";
/// In a VM's folder: locked as long as a VMM runs in it.
pub const VMM_LOCK: &str = hearth_vmm::VMM_LOCK;
/// In a VM's folder: the root disk.
pub const ROOT_DISK: &str = "root.img";
/// What the second names of volumes of their own begin with, in a VM's folder.
pub const LENT: &str = "attached-";
/// In a VM's folder: the initramfs of the current run.
pub const INITRD: &str = "initrd";

/// A disk's file, in a VM's folder and in a snapshot's.
#[must_use]
pub fn file_of(disk: &SnapshotDisk) -> String {
    match (&disk.volume, disk.attached) {
        (None, _) => ROOT_DISK.to_owned(),
        (Some(name), None) => Paths::volume_file(name.as_str()),
        (Some(name), Some(_)) => Paths::lent_file(name.as_str()),
    }
}

impl Paths {
    /// The installation under this data folder.
    #[must_use]
    pub const fn new(data: Utf8PathBuf) -> Self {
        Self { data }
    }

    /// The data folder itself.
    #[must_use]
    pub fn data(&self) -> &Utf8Path {
        &self.data
    }

    /// The folder of the thin pool.
    #[must_use]
    pub fn pool(&self) -> Utf8PathBuf {
        self.data.join("pool")
    }

    /// The folder of the database's backups.
    #[must_use]
    pub fn backups(&self) -> Utf8PathBuf {
        self.data.join("backups")
    }

    /// The folder of all VMs.
    #[must_use]
    pub fn vms(&self) -> Utf8PathBuf {
        self.data.join("vms")
    }

    /// The folder of one VM.
    #[must_use]
    pub fn vm(&self, vm: VmId) -> Utf8PathBuf {
        self.data.join("vms").join(vm.to_string())
    }

    /// The folder of all snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Utf8PathBuf {
        self.data.join("snapshots")
    }

    /// The folder of all volumes of their own.
    #[must_use]
    pub fn volumes(&self) -> Utf8PathBuf {
        self.data.join("volumes")
    }

    /// The folder of a volume of its own.
    #[must_use]
    pub fn volume(&self, volume: VolumeId) -> Utf8PathBuf {
        self.volumes().join(volume.to_string())
    }

    /// A disk in the folder of a volume of its own.
    #[must_use]
    pub fn volume_disk(&self, volume: VolumeId, number: u32) -> Utf8PathBuf {
        self.volume(volume).join(format!("disk-{number}.img"))
    }

    /// The second name that a volume of its own has in the folder of a VM that has it.
    #[must_use]
    pub fn lent_file(name: &str) -> String {
        format!("{LENT}{name}.img")
    }

    /// The file of a data volume in a VM's folder.
    #[must_use]
    pub fn volume_file(name: &str) -> String {
        format!("volume-{name}.img")
    }
}
