//! The disk: a file system whose every write the kernel logs, and copies of it as of any moment.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_dm::{Control, DmError, Key, Remove, Table};
use hearth_host::loopdev::LoopDevice;
use hearth_types::units::{GIB, MIB};

use crate::run::run;

/// Of the disk: sparse, in memory.
const DISK: u64 = 640 * MIB;
/// Of the log of its writes: likewise.
const LOG: u64 = GIB;
/// How long a device may be in somebody's use for a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where everything is, cleared away at the end.
pub(crate) struct Disk {
    control: Control,
    name: String,
    mounted: bool,
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, and a word, where it cannot be.
    pub(crate) fn new() -> Option<Self> {
        let control = match Control::open() {
            Ok(control) => control,
            Err(error) => return skip(&hearth_types::survey::chain(&error)),
        };
        for program in ["thin_check", "thin_ls", "mkfs.ext4"] {
            if hearth_host::command::find(program).is_none() {
                return skip(&format!("{program} is not installed"));
            }
        }
        // The log decides what is lost, so it need not be a disk that can lose anything.
        let folder = match tempfile::tempdir_in("/dev/shm") {
            Ok(folder) => folder,
            Err(error) => return skip(&format!("no folder in memory: {error}")),
        };
        let disk = Self {
            control,
            name: format!("hearth-test-cuts-{}", std::process::id()),
            mounted: false,
            folder,
        };
        for (name, size) in [("disk", DISK), ("log", LOG)] {
            disk.file(name).set_len(size).unwrap();
        }
        let quick = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-E",
                quick,
                "-J",
                "size=8",
                "-m",
                "0",
                disk.path("disk").as_str(),
            ],
        );
        std::fs::copy(disk.path("disk"), disk.path("first")).unwrap();
        std::fs::create_dir(disk.mount_point()).unwrap();
        Some(disk)
    }

    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        let folder = Utf8Path::from_path(self.folder.path()).unwrap();
        folder.join(name)
    }

    /// Where the file system is, whichever of them.
    pub(crate) fn mount_point(&self) -> Utf8PathBuf {
        self.path("mnt")
    }

    pub(crate) fn file(&self, name: &str) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(name))
            .unwrap()
    }

    fn key(&self) -> Key<'_> {
        Key::Name(&self.name)
    }

    /// Mounts the disk over a device that logs. False, and a word, where the kernel has none.
    pub(crate) fn record(&mut self) -> bool {
        let disk = LoopDevice::attach(self.file("disk").as_fd()).unwrap();
        let log = LoopDevice::attach(self.file("log").as_fd()).unwrap();
        let table = Table {
            start: 0,
            length: DISK / 512,
            kind: "log-writes".to_owned(),
            params: format!("{} {}", disk.path().display(), log.path().display()),
        };
        self.control.create(&self.name, &self.name).unwrap();
        match self.control.load(self.key(), &[table], false) {
            Ok(()) => {}
            Err(DmError::Invalid { .. } | DmError::Refused { .. }) => {
                println!("SKIP: the kernel has no dm-log-writes");
                return false;
            }
            Err(error) => panic!("{error:?}"),
        }
        let info = self.control.resume(self.key()).unwrap();
        self.mount(&info.device.node().display().to_string());
        true
    }

    /// Puts a word into the log.
    pub(crate) fn mark(&self, word: &str) {
        let said = self.control.message(self.key(), &format!("mark {word}"));
        said.unwrap();
    }

    /// The end of the record: what is on its way is logged.
    pub(crate) fn stop(&mut self) {
        self.unmount();
        let end = Instant::now() + PATIENCE;
        while let Err(error) = self.control.remove(self.key(), Remove::Now) {
            assert!(Instant::now() < end, "{error}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The disk as of a moment: `image` is copied, changed, and mounted in the recorded one's place.
    pub(crate) fn boot(&mut self, change: impl FnOnce(&File)) {
        run(
            "cp",
            &[
                "--sparse=always",
                self.path("image").as_str(),
                self.path("victim").as_str(),
            ],
        );
        let victim = self.file("victim");
        change(&victim);
        let device = LoopDevice::attach(victim.as_fd()).unwrap();
        self.mount(&device.path().display().to_string());
    }

    fn mount(&mut self, device: &str) {
        run(
            "mount",
            &["-t", "ext4", device, self.mount_point().as_str()],
        );
        self.mounted = true;
    }

    pub(crate) fn unmount(&mut self) {
        run("umount", &[self.mount_point().as_str()]);
        self.mounted = false;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed left it as it was.
        if self.mounted {
            drop(
                Command::new("umount")
                    .arg("-l")
                    .arg(self.mount_point())
                    .status(),
            );
        }
        drop(self.control.remove(self.key(), Remove::WhenClosed));
    }
}

fn skip<T>(why: &str) -> Option<T> {
    println!("SKIP: {why}");
    None
}
