//! A disk with a file system on it that can be made to hang, to fail or to be slow.

use std::os::fd::AsFd as _;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_dm::{Control, Key, Remove, Suspend, Table};
use hearth_host::loopdev::LoopDevice;
use hearth_types::units::MIB;

use crate::file::file;
use crate::kernel;
use crate::run::run;

const SIZE: u64 = 512 * MIB;
/// What a slow disk takes for each request, in milliseconds.
const SLOW: u32 = 200;

/// How a disk is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Below {
    /// As it should be.
    Sound,
    /// Its requests wait, and do not end.
    Hanging,
    /// Each request fails.
    Failing,
    /// Each request takes its time.
    Slow,
}

/// The disk, cleared away at the end.
pub(crate) struct Disk {
    control: Control,
    name: String,
    below: LoopDevice,
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, and a word, where it cannot be.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let control = kernel::control()?;
        let (folder, file) = file(SIZE);
        let disk = Self {
            control,
            name: format!("hearth-test-{name}-{}", std::process::id()),
            below: LoopDevice::attach(file.as_fd()).unwrap(),
            folder,
        };
        disk.control.create(&disk.name, &disk.name).unwrap();
        disk.put(Below::Sound);
        std::fs::create_dir(disk.mount_point()).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &disk.node()]);
        disk.mount();
        Some(disk)
    }

    pub(crate) fn mount_point(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.folder.path()).unwrap().join("mnt")
    }

    fn key(&self) -> Key<'_> {
        Key::Name(&self.name)
    }

    fn node(&self) -> String {
        let info = self.control.info(self.key()).unwrap();
        info.device.node().display().to_string()
    }

    /// From now on it is like this.
    pub(crate) fn put(&self, how: Below) {
        let device = self.below.path().display();
        let (kind, params) = match how {
            Below::Sound => ("linear", format!("{device} 0")),
            Below::Failing => ("error", String::new()),
            Below::Slow => ("delay", format!("{device} 0 {SLOW}")),
            Below::Hanging => {
                self.control.suspend(self.key(), Suspend::NoFreeze).unwrap();
                return;
            }
        };
        let table = Table {
            start: 0,
            length: SIZE / 512,
            kind: kind.to_owned(),
            params,
        };
        self.control.load(self.key(), &[table], false).unwrap();
        // What stands on it is not asked first: no disk does.
        self.control.swap(self.key()).unwrap();
    }

    fn mount(&self) {
        run("mount", &[&self.node(), self.mount_point().as_str()]);
    }

    /// A file system whose disk has failed takes nothing more before it is mounted again.
    pub(crate) fn mount_again(&mut self) {
        run("umount", &[self.mount_point().as_str()]);
        // It says by itself that it has seen errors, and is put right first.
        drop(
            Command::new("fsck.ext4")
                .args(["-p", "-f", &self.node()])
                .status(),
        );
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed left it as it was: what hangs has to come back first.
        drop(self.control.resume(self.key()));
        drop(
            Command::new("umount")
                .arg("-l")
                .arg(self.mount_point())
                .status(),
        );
        drop(self.control.remove(self.key(), Remove::WhenClosed));
    }
}
