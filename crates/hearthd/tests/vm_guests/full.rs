//! A guest whose writes find no room on the host waits for it, and loses nothing.

use std::process::Command;

use camino::Utf8PathBuf;
use hearth_types::status::Phase;
use rustix::fs::{FallocateFlags, fallocate};

use crate::harness::{Host, eventually, spec, words};

/// The size of the file system that the disks are on.
const SIZE: u64 = 512 << 20;

/// A small file system over the folder of all VMs: the database has room all the time.
struct Small {
    at: Utf8PathBuf,
}

impl Small {
    fn over_vms(host: &Host) -> Self {
        let (file, at) = (host.dir().join("small.img"), host.data().join("vms"));
        std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
        std::fs::create_dir_all(&at).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", file.as_str()])
            .status();
        assert!(made.unwrap().success());
        let mount = ["-o", "loop", file.as_str(), at.as_str()];
        assert!(
            Command::new("mount")
                .args(mount)
                .status()
                .unwrap()
                .success()
        );
        Self { at }
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let free = hearth_disk::Room::of(&self.at).unwrap().free;
        let ballast = self.at.join("ballast");
        let file = std::fs::File::create(&ballast).unwrap();
        // As much as there is: the file system needs some for itself.
        for length in [free >> 1, free >> 2, 1 << 20, 1 << 16, 1 << 12] {
            let mut end = file.metadata().unwrap().len();
            while fallocate(&file, FallocateFlags::empty(), end, length).is_ok() {
                end += length;
            }
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.at.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .args(["-l", self.at.as_str()])
            .status();
        drop(unmounted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_finds_no_room_goes_on_when_there_is() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    let small = Small::over_vms(&host);
    host.set("RESYNC_INTERVAL", "1s");
    host.start_daemon().await;
    let mut writer = spec("writer");
    writer.command = Some(words(&[
        "sh",
        "-c",
        "until test -e /go; do sleep 0.1; done; \
         dd if=/dev/urandom of=/blob bs=1M count=16 && sync && sha256sum /blob >/sum && touch /done; \
         sleep 100000",
    ]));
    let vm = host.run(writer).await;
    vm.must("true").await;
    let pid = vm.pid().await;
    small.fill();
    vm.must("touch /go").await;
    let waits = |now: &hearth_types::api::Vm| {
        let reason = now.reason.as_deref().unwrap_or_default();
        now.phase == Phase::Paused && reason.contains("no room")
    };
    vm.until("stopped at a write", waits).await;
    assert_eq!(vm.pid().await, pid);
    small.free();
    let runs = |now: &hearth_types::api::Vm| now.phase == Phase::Running && now.reason.is_none();
    vm.until("running again", runs).await;
    let made = || async { (vm.sh("test -e /done").await.code == 0).then_some(()) };
    eventually("its write was made", made).await;
    vm.must("sha256sum -c /sum").await;
    assert_eq!(vm.pid().await, pid);
    assert_eq!(vm.look().await.restarts, 0);
    vm.remove().await;
    drop(small);
}
