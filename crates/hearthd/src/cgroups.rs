//! What the kernel tells of the control groups of VMs' units: `cgroup.events` (cgroups(7)) changes when the last
//! process has left, and when somebody freezes or thaws them.
//!
//! One inotify for all: a user has few of them, and VMs may be many.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::VmId;
use hearth_types::names::unit_name;
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The slice of the units where systemd mounts cgroup v2 (`file-hierarchy(7)`).
const SLICE: &str = "/sys/fs/cgroup/hearth.slice";
/// The file that changes.
const EVENTS: &str = "cgroup.events";

/// The control group of a VM's unit; there is one only where systemd is the init.
fn group_of(vm: VmId) -> Utf8PathBuf {
    Utf8Path::new(SLICE).join(unit_name(vm))
}

/// What `cgroup.events` of a VM's unit says against it, while its VMM lives.
pub(crate) fn complaint(vm: VmId) -> Option<String> {
    let events = std::fs::read_to_string(group_of(vm).join(EVENTS)).ok()?;
    judge(&events, vm)
}

fn judge(events: &str, vm: VmId) -> Option<String> {
    let says = |word: &str| events.lines().any(|line| line == word);
    let unit = unit_name(vm);
    if says("populated 0") {
        return Some("is not in the cgroup of its unit: its limits do not hold".to_owned());
    }
    says("frozen 1")
        .then(|| format!("is frozen with its cgroup: `systemctl thaw {unit}` lets it go on"))
}

/// Watches of the control groups of VMs.
#[derive(Debug)]
pub(crate) struct CgroupWatch {
    inotify: AsyncFd<OwnedFd>,
    vms: Mutex<BTreeMap<i32, VmId>>,
}

impl CgroupWatch {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// When this user has no inotify left (`fs.inotify.max_user_instances`).
    #[expect(
        deprecated,
        reason = "its successor is unsafe for the sake of types that lie about their descriptor, and OwnedFd does not"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            inotify: AsyncFd::with_interest(inotify, Interest::READABLE)?,
            vms: Mutex::default(),
        })
    }

    /// Watches the control group of a VM's unit, if it has one.
    ///
    /// # Errors
    /// When the kernel has no watch left (`fs.inotify.max_user_watches`).
    pub(crate) fn add(&self, vm: VmId) -> io::Result<()> {
        self.add_group(vm, &group_of(vm))
    }

    fn add_group(&self, vm: VmId, group: &Utf8Path) -> io::Result<()> {
        // The answer cannot be heard before the VM is known.
        let mut vms = self.vms.lock();
        let file = group.join(EVENTS);
        match inotify::add_watch(self.inotify.get_ref(), file.as_str(), WatchFlags::MODIFY) {
            Ok(watch) => {
                vms.insert(watch, vm);
                Ok(())
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the kernel tells of some of them.
    ///
    /// # Errors
    /// When the runtime is ending.
    pub(crate) async fn changed(&self) -> io::Result<BTreeSet<VmId>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut found = BTreeSet::new();
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
            while let Ok(event) = reader.next() {
                let mut vms = self.vms.lock();
                found.extend(vms.get(&event.wd()));
                if event.events().contains(ReadFlags::IGNORED) {
                    // The group is gone, and its number will be another one's.
                    vms.remove(&event.wd());
                }
            }
            ready.clear_ready();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_frozen_or_outside_is_told() {
        let vm = VmId::new();
        assert_eq!(judge("populated 1\nfrozen 0\n", vm), None);
        assert_eq!(judge("", vm), None);
        let frozen = judge("populated 1\nfrozen 1\n", vm).unwrap();
        assert!(
            frozen.contains(&format!("systemctl thaw {}", unit_name(vm))),
            "{frozen}"
        );
        assert!(
            judge("populated 0\nfrozen 0\n", vm)
                .unwrap()
                .contains("not in the cgroup")
        );
    }

    /// A control group of our own, with a process in it.
    struct Group {
        path: Utf8PathBuf,
        process: std::process::Child,
    }

    impl Group {
        fn new() -> Option<Self> {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
            let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
            let root = Utf8Path::new(mount.split(' ').nth(4)?);
            let path = root.join(format!("hearth-test-{}", VmId::new()));
            std::fs::create_dir(&path).ok()?;
            let process = Command::new("sleep").arg("600").spawn().unwrap();
            let group = Self { path, process };
            let pid = group.process.id().to_string();
            std::fs::write(group.path.join("cgroup.procs"), pid).ok()?;
            group.path.join("cgroup.freeze").exists().then_some(group)
        }

        fn freeze(&self, frozen: bool) {
            let word = if frozen { "1" } else { "0" };
            std::fs::write(self.path.join("cgroup.freeze"), word).unwrap();
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            drop(std::fs::write(self.path.join("cgroup.freeze"), "0"));
            drop(self.process.kill());
            drop(self.process.wait());
            drop(std::fs::remove_dir(&self.path));
        }
    }

    #[tokio::test]
    async fn a_group_that_is_frozen_or_left_is_heard_of() {
        let Some(mut group) = Group::new() else {
            println!("SKIP: no control group of version 2 can be made here");
            return;
        };
        let (watch, vm) = (CgroupWatch::new().unwrap(), VmId::new());
        watch.add_group(vm, &group.path).unwrap();
        let soon = Duration::from_secs(30);
        let events = group.path.join(EVENTS);
        for (frozen, said) in [(true, "frozen 1"), (false, "frozen 0")] {
            group.freeze(frozen);
            let heard = tokio::time::timeout(soon, async {
                // It may be told of a step on the way.
                while !std::fs::read_to_string(&events).unwrap().contains(said) {
                    assert_eq!(watch.changed().await.unwrap(), [vm].into());
                }
            });
            heard.await.unwrap();
        }
        group.process.kill().unwrap();
        group.process.wait().unwrap();
        let heard = tokio::time::timeout(soon, async {
            while !std::fs::read_to_string(&events)
                .unwrap()
                .contains("populated 0")
            {
                assert_eq!(watch.changed().await.unwrap(), [vm].into());
            }
        });
        heard.await.unwrap();
        assert!(watch.add_group(vm, Utf8Path::new("/no/such/group")).is_ok());
    }
}
