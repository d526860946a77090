//! What the host tells of real block devices that the pool's data could be on: loop devices here. Nothing is written to one
//! that is refused.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and skips are said"
)]

#[path = "kernel/file.rs"]
mod file;

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::loopdev::LoopDevice;
use hearth_pool::{Base, Ground as _, HostGround, Place, PoolError, Unfit};
use hearth_types::InstallationId;
use hearth_types::units::MIB;
use rustix::fs::OFlags;

use file::file;

const SIZE: u64 = 80 * MIB;

/// A device over a file.
struct Disk {
    file: File,
    device: LoopDevice,
    place: Place,
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, and a word, where there are no loop devices.
    fn new(bytes: u64) -> Option<Self> {
        let (folder, file) = file(bytes);
        match LoopDevice::attach(file.as_fd()) {
            Ok(device) => Some(Self {
                file,
                device,
                place: Place::new("/nowhere".into(), InstallationId::new()),
                folder,
            }),
            Err(error) => {
                println!("SKIP: {}", hearth_types::survey::chain(&error));
                None
            }
        }
    }

    fn name(&self) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.device.path().to_owned()).unwrap()
    }

    fn open(&self, flags: OFlags) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(self.device.path())
            .unwrap()
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let file = self.open(OFlags::empty());
        file.write_all_at(bytes, at).unwrap();
        file.sync_all().unwrap();
    }

    /// What is on its ends by now, as its file has it.
    fn ends(&self) -> Vec<u8> {
        self.open(OFlags::empty()).sync_all().unwrap();
        let mut ends = vec![0; 2 << 20];
        let (first, last) = ends.split_at_mut(1 << 20);
        self.file.read_exact_at(first, 0).unwrap();
        self.file.read_exact_at(last, SIZE - MIB).unwrap();
        ends
    }

    fn base(&self) -> Base {
        let candidate = HostGround.inspect(&self.place, &self.name(), false);
        Base::new(candidate.unwrap(), self.name())
    }

    /// Why it is refused, with force and without, also for being taken; it is as it was.
    fn refused(&self, forces: &[bool]) -> (Unfit, String) {
        let before = self.ends();
        let mut told = None;
        for force in forces {
            let error = HostGround
                .inspect(&self.place, &self.name(), *force)
                .unwrap_err();
            let base = Base {
                device: self.name(),
                given: self.name(),
                volume: None,
                id: uuid::Uuid::now_v7(),
            };
            assert!(HostGround.claim(&self.place, &base, *force).is_err());
            told = Some(why(error));
        }
        assert!(before == self.ends(), "something was written");
        told.unwrap()
    }
}

fn why(error: PoolError) -> (Unfit, String) {
    let said = error.to_string();
    let PoolError::Device { unfit, .. } = error else {
        panic!("{error:?}");
    };
    (unfit, said)
}

#[test]
fn an_empty_device_is_taken_and_given_back_and_is_empty_again() {
    let Some(disk) = Disk::new(SIZE) else { return };
    let candidate = HostGround
        .inspect(&disk.place, &disk.name(), false)
        .unwrap();
    assert_eq!((candidate.room, candidate.volume), (SIZE - 2 * MIB, None));
    let base = disk.base();
    HostGround.claim(&disk.place, &base, false).unwrap();
    assert!(disk.ends().starts_with(b"HEARTH-POOL 1\n"));
    // Cut off after that it is gone on with; anybody else finds something on it.
    HostGround.claim(&disk.place, &base, false).unwrap();
    let (unfit, said) = disk.refused(&[false]);
    assert_eq!(unfit, Unfit::Holds, "{said}");
    assert!(said.contains("a pool of Hearth"), "{said}");
    // Of what others have taken meanwhile nothing is wiped.
    let other = Base {
        id: uuid::Uuid::now_v7(),
        ..base.clone()
    };
    HostGround.release(&disk.place, &other).unwrap();
    assert!(disk.ends().starts_with(b"HEARTH-POOL 1\n"));
    HostGround.release(&disk.place, &base).unwrap();
    assert!(disk.ends().iter().all(|byte| *byte == 0));
    HostGround.release(&disk.place, &base).unwrap();
}

#[test]
fn what_holds_something_is_refused_by_name_and_only_with_force_written_over() {
    let Some(disk) = Disk::new(SIZE) else { return };
    for (at, bytes, word) in [
        (512, b"EFI PART".as_slice(), "GPT"),
        (4086, b"SWAPSPACE2", "swap"),
        (SIZE - 512, b"EFI PART", "GPT"),
        (SIZE - 1, &[7], "last MiB"),
        (MIB - 1, &[7], "is not zero"),
    ] {
        disk.write(at, bytes);
        let (unfit, said) = disk.refused(&[false]);
        assert_eq!(unfit, Unfit::Holds);
        assert!(said.contains(word), "{said}");
        disk.write(at, &vec![0; bytes.len()]);
    }
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(disk.name())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIP: mkfs.ext4 is not there");
        return;
    }
    let (unfit, said) = disk.refused(&[false]);
    assert_eq!(unfit, Unfit::Holds);
    assert!(said.contains("ext4"), "{said}");
    let candidate = HostGround.inspect(&disk.place, &disk.name(), true).unwrap();
    let base = Base::new(candidate, disk.name());
    assert!(HostGround.claim(&disk.place, &base, false).is_err());
    HostGround.claim(&disk.place, &base, true).unwrap();
    HostGround.release(&disk.place, &base).unwrap();
    assert!(disk.ends().iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_in_use_is_refused_also_with_force() {
    let Some(disk) = Disk::new(SIZE) else { return };
    {
        let _alone = disk.open(OFlags::EXCL);
        let (unfit, said) = disk.refused(&[false, true]);
        assert_eq!(unfit, Unfit::InUse, "{said}");
    }
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(disk.name())
        .status();
    let at = disk.folder.path().join("mounted");
    std::fs::create_dir(&at).unwrap();
    let mounted = Command::new("mount").arg(disk.name()).arg(&at).status();
    let well =
        |status: std::io::Result<std::process::ExitStatus>| status.is_ok_and(|it| it.success());
    if !well(made) || !well(mounted) {
        println!("SKIP: nothing can be mounted here");
        return;
    }
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ["plain", "forced"].map(|how| {
            let force = how == "forced";
            why(HostGround
                .inspect(&disk.place, &disk.name(), force)
                .unwrap_err())
        })
    }));
    assert!(well(Command::new("umount").arg(&at).status()));
    for (unfit, said) in refused.unwrap() {
        assert_eq!(unfit, Unfit::InUse, "{said}");
        assert!(said.contains("is mounted at"), "{said}");
    }
}

#[test]
fn what_is_no_device_or_of_no_use_is_refused() {
    let Some(disk) = Disk::new(SIZE) else { return };
    let refused = |name: &str| {
        let error = HostGround.inspect(&disk.place, Utf8Path::new(name), true);
        why(error.unwrap_err())
    };
    for name in [
        "",
        "disk",
        "/etc/passwd",
        "/dev/null",
        "/dev/none-of-this-name",
        "/dev/../etc/passwd",
        "/dev/\0",
        "/dev",
    ] {
        let (unfit, said) = refused(name);
        assert_eq!(unfit, Unfit::NoDevice, "{name:?}: {said}");
    }
    let Some(small) = Disk::new(65 * MIB) else {
        return;
    };
    assert_eq!(refused(small.name().as_str()).0, Unfit::Small);
    let set = |mode: &str| Command::new("blockdev").arg(mode).arg(disk.name()).status();
    if !set("--setro").is_ok_and(|status| status.success()) {
        println!("SKIP: nothing can be made read-only here");
        return;
    }
    let refused = HostGround.inspect(&disk.place, &disk.name(), true);
    // The kernel keeps that for whoever has the loop device next.
    assert!(set("--setrw").is_ok_and(|status| status.success()));
    let (unfit, said) = why(refused.unwrap_err());
    assert_eq!(unfit, Unfit::ReadOnly, "{said}");
}

#[test]
fn it_is_found_by_its_header_whatever_its_name_is_by_now() {
    let Some(disk) = Disk::new(SIZE) else { return };
    let base = disk.base();
    HostGround.claim(&disk.place, &base, false).unwrap();
    let moved = Base {
        device: "/dev/none-of-this-name".into(),
        given: "/dev/null".into(),
        ..base.clone()
    };
    // Two have it: nobody can tell which is it.
    let Some(copy) = Disk::new(SIZE) else { return };
    let mut header = vec![0; 4096];
    disk.file.read_exact_at(&mut header, 0).unwrap();
    copy.write(0, &header);
    HostGround.release(&disk.place, &moved).unwrap();
    assert!(
        disk.ends().starts_with(b"HEARTH-POOL"),
        "neither was touched"
    );
    copy.write(0, &vec![0; 4096]);
    HostGround.release(&disk.place, &moved).unwrap();
    assert!(disk.ends().iter().all(|byte| *byte == 0));
    let gone = HostGround.release(&disk.place, &moved).unwrap_err();
    assert!(gone.is_missing_device(), "{gone}");
}
