//! A thin pool as LVM makes it, to measure beside ours.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use hearth_host::loopdev::LoopDevice;
use hearth_types::units::MIB;

use super::file::file;
use super::run::run;

/// A volume group on a file, removed with it.
pub(super) struct Lvm {
    group: String,
    _disk: LoopDevice,
    _folder: tempfile::TempDir,
}

impl Lvm {
    /// With a thin volume that is off; `None` where LVM is not installed.
    pub(super) fn new() -> Option<Self> {
        hearth_host::command::find("lvcreate")?;
        let (folder, file) = file(512 * MIB);
        let disk = LoopDevice::attach(file.as_fd()).unwrap();
        let group = format!("hearth-test-{}", std::process::id());
        run(
            "vgcreate",
            &["-q", &group, &disk.path().display().to_string()],
        );
        let made = Self {
            group,
            _disk: disk,
            _folder: folder,
        };
        let (group, pool) = (made.group.as_str(), format!("{}/pool", made.group));
        run("lvcreate", &["-q", "-T", "-L", "256M", &pool]);
        run("lvcreate", &["-q", "-T", "-V", "8M", "-n", "origin", &pool]);
        run("lvchange", &["-q", "-an", &format!("{group}/origin")]);
        Some(made)
    }

    /// How long one takes; it is removed, unmeasured.
    pub(super) fn snapshot(&self, number: u32) -> Duration {
        let (name, origin) = (
            format!("snapshot{number}"),
            format!("{}/origin", self.group),
        );
        let begun = Instant::now();
        run(
            "lvcreate",
            &["-q", "-s", "-kn", "-ay", "-n", &name, &origin],
        );
        let took = begun.elapsed();
        run("lvremove", &["-q", "-f", &format!("{}/{name}", self.group)]);
        took
    }
}

impl Drop for Lvm {
    fn drop(&mut self) {
        let removed = std::process::Command::new("vgremove")
            .args(["-q", "-f", &self.group])
            .status();
        drop(removed);
    }
}
