//! How each fault is made, and how those that last are taken away again.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use camino::Utf8PathBuf;
use hearth_types::api;
use hearth_types::names::tap_name;
use jiff::Timestamp;
use rustix::process::{Pid, Signal};

use super::draw::{Drawn, Fault};
use super::stage::Stage;
use crate::harness::{Vm, eventually, request, spec};

/// How long a guest may take to do itself a harm that it was told to do.
const HARM: Duration = Duration::from_secs(60);
/// Memory that the daemon shares with a program that wants all of it.
const CRAMPED: &str = "192M";
/// Memory that a VMM shares with one: less than it has taken already.
const SMALL: &str = "16M";
/// How often the daemon's neighbour tries.
const GREEDY: u32 = 5;

/// What a fault leaves to be taken away.
pub(super) enum Trap {
    /// A frozen VMM.
    Frozen(Cgroup),
    /// A file that takes all room.
    Filler(Utf8PathBuf),
    /// Somebody who talks rubbish.
    Babbler(Arc<AtomicBool>),
}

impl Drop for Trap {
    fn drop(&mut self) {
        match self {
            Self::Filler(file) => drop(std::fs::remove_file(file)),
            Self::Babbler(on) => on.store(false, Ordering::Relaxed),
            Self::Frozen(group) => drop(group.say(group.thawed)),
        }
    }
}

/// What came of the attempt.
pub(super) enum Injury {
    /// It happened at this moment.
    Done(Timestamp, Option<Trap>),
    /// This host lacks something.
    Skipped(&'static str),
}

impl Stage {
    /// Makes a fault. The daemon's own death comes later: see [`Stage::kill_daemon`].
    pub(super) async fn injure(&mut self, drawn: Drawn) -> Injury {
        match drawn.vm {
            Some(index) => {
                let vm = self.vms[index].clone();
                let seen = vm.look().await;
                self.injure_vm(drawn.fault, &vm, &seen).await
            }
            None => self.injure_host(drawn.fault).await,
        }
    }

    async fn injure_vm(&self, fault: Fault, vm: &Vm, seen: &api::Vm) -> Injury {
        let pid = seen.pid.expect("rounds begin with running VMs");
        let folder = self.host.data().join("vms").join(seen.id.to_string());
        let tap = tap_name(seen.id);
        let at = Timestamp::now();
        match fault {
            Fault::VmmKilled => signal(pid, Signal::KILL),
            Fault::VmmCrashed => signal(pid, Signal::SEGV),
            Fault::VmmStopped => signal(pid, Signal::STOP),
            Fault::GuestPanicked => return harm(vm, pid, "echo c > /proc/sysrq-trigger").await,
            Fault::GuestPoweredOff => return harm(vm, pid, "poweroff -f").await,
            Fault::VmmOutOfMemory => return starve(pid).await,
            Fault::VmmFrozen => {
                let Some(group) = Cgroup::freezer(pid) else {
                    return Injury::Skipped("no cgroup freezer");
                };
                group.say(group.frozen).unwrap();
                return Injury::Done(at, Some(Trap::Frozen(group)));
            }
            Fault::ShimKilled => signal(parent_of(pid), Signal::KILL),
            Fault::QmpRemoved | Fault::AgentRemoved => {
                std::fs::remove_file(folder.join(socket(fault))).unwrap();
            }
            Fault::QmpCorrupted | Fault::AgentCorrupted => {
                let trap = babble(&folder.join(socket(fault)));
                return Injury::Done(at, Some(trap));
            }
            Fault::TapDeleted => self.ip(&["link", "delete", &tap]),
            Fault::TapDown => self.ip(&["link", "set", &tap, "down"]),
            Fault::TapUnbridged => self.ip(&["link", "set", &tap, "nomaster"]),
            _ => unreachable!("{fault:?} happens to no VM"),
        }
        Injury::Done(at, None)
    }

    async fn injure_host(&mut self, fault: Fault) -> Injury {
        let at = Timestamp::now();
        match fault {
            Fault::BridgeDown => self.ip(&["link", "set", "hearth0", "down"]),
            Fault::RulesFlushed => self.nft("flush table"),
            Fault::TableDeleted => self.nft("delete table"),
            Fault::ElementsDeleted => {
                self.host
                    .netns
                    .run("nft", &["flush", "set", "bridge", "hearth", "guests"]);
            }
            Fault::NamesKilled => {
                for pid in self.processes("names") {
                    signal(pid, Signal::KILL);
                }
            }
            Fault::DaemonKilled => {}
            Fault::DaemonKilledMidway => self.die_midway().await,
            Fault::DiskFull => {
                let filler = fill(&self.host.data());
                // Who writes now finds no room, and must go on when there is some again.
                for vm in &self.vms {
                    let vm = vm.clone();
                    let line = "dd if=/dev/zero of=/root/more bs=1M count=2 conv=fsync";
                    tokio::spawn(async move { vm.exec(request(&["sh", "-c", line]), &[]).await });
                }
                return Injury::Done(at, Some(Trap::Filler(filler)));
            }
            Fault::MemoryPressure => {
                let daemon = self.host.daemon_pid().expect("it runs");
                return cramp(daemon).await;
            }
            _ => unreachable!("{fault:?} happens to a VM"),
        }
        Injury::Done(at, None)
    }

    fn ip(&self, arguments: &[&str]) {
        self.host.netns.run("ip", arguments);
    }

    /// Does this to both of our tables.
    fn nft(&self, what: &str) {
        let words: Vec<&str> = what.split(' ').collect();
        for family in ["bridge", "inet"] {
            let arguments = [words.as_slice(), &[family, "hearth"]].concat();
            self.host.netns.run("nft", &arguments);
        }
    }

    /// Kills the daemon and starts it again, as a service manager would.
    pub(super) async fn kill_daemon(&mut self) {
        self.host.kill_daemon().await;
        self.host.start_daemon().await;
    }

    /// The daemon dies while a VM is made, and while it is removed.
    async fn die_midway(&mut self) {
        // A name is a key: of one that was there before, the answer would be the old one.
        let wanted = spec(&format!("midway-{}", self.seen.0));
        let folders = || {
            let listed = self.host.data().join("vms").read_dir().unwrap();
            listed.count()
        };
        let before = folders();
        // It may die before the answer is out; the same request has the same key.
        let (_, ()) = tokio::join!(
            self.host.create(wanted.clone(), true, None),
            eventually("its folder", || std::future::ready(
                (folders() > before).then_some(())
            ))
        );
        self.kill_daemon().await;
        let vm = self.host.ask_for(wanted).await;
        vm.healthy().await;
        vm.ask_to_remove().await;
        self.kill_daemon().await;
        eventually("its removal", || async {
            let vms = self.host.client.all_vms(&[]).await.unwrap();
            (vms.len() == self.vms.len()).then_some(())
        })
        .await;
    }
}

/// Which socket a fault is about.
const fn socket(fault: Fault) -> &'static str {
    match fault {
        Fault::QmpRemoved | Fault::QmpCorrupted => "qmp.sock",
        _ => "agent.sock",
    }
}

fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid");
    // One that has ended by itself meanwhile is as good.
    rustix::process::kill_process(pid, signal).ok();
}

fn parent_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.unwrap().trim().parse().unwrap()
}

/// Has the guest do something that ends it; it happened when the VMM was gone.
async fn harm(vm: &Vm, pid: i32, line: &'static str) -> Injury {
    let dead = death_of(pid);
    let vm = vm.clone();
    // There is nobody left to answer.
    tokio::spawn(async move { vm.exec(request(&["sh", "-c", line]), &[]).await });
    dead.await
        .unwrap()
        .map_or(Injury::Skipped("the guest did not end"), |at| {
            Injury::Done(at, None)
        })
}

/// The VMM shares a cgroup without memory with a program that wants all of it, and is the one that
/// the kernel kills first.
async fn starve(pid: i32) -> Injury {
    let Some(group) = Cgroup::memory(SMALL) else {
        return Injury::Skipped("no memory cgroup");
    };
    let dead = death_of(pid);
    group.take(pid);
    // Its neighbour's score cannot be lowered everywhere; its own can be raised.
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
    let mut greedy = group.greedy(0);
    let died = dead.await.unwrap();
    greedy.kill().unwrap();
    greedy.wait().unwrap();
    died.map_or(Injury::Skipped("the kernel killed nothing"), |at| {
        Injury::Done(at, None)
    })
}

/// When a process ends; `None` if it does not in time.
fn death_of(pid: i32) -> tokio::task::JoinHandle<Option<Timestamp>> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let flags = rustix::process::PidfdFlags::empty();
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid).expect("a pid"), flags);
    tokio::task::spawn_blocking(move || {
        let pidfd = pidfd.ok()?;
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let patience = Timespec::try_from(HARM).expect("a minute");
        let ended = poll(&mut fds, Some(&patience)).ok()?;
        (ended > 0).then(Timestamp::now)
    })
}

/// Takes a socket's place and answers whoever comes with rubbish.
fn babble(path: &camino::Utf8Path) -> Trap {
    std::fs::remove_file(path).unwrap();
    let folder = std::fs::File::open(path.parent().expect("a folder")).unwrap();
    // The path may be longer than a socket's name can be.
    let name = path.file_name().expect("a name");
    let short = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    let listener = UnixListener::bind(short).unwrap();
    listener.set_nonblocking(true).unwrap();
    let on = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&on);
    std::thread::spawn(move || {
        let mut guests = Vec::new();
        while still.load(Ordering::Relaxed) {
            if let Ok((mut stream, _)) = listener.accept() {
                stream.write_all(b"{\"rubbish\": [[[ \x00\xff\n").ok();
                guests.push(stream);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    Trap::Babbler(on)
}

/// Takes every byte of the file system.
fn fill(data: &camino::Utf8Path) -> Utf8PathBuf {
    let path = data.join("somebody-elses.bin");
    let file = std::fs::File::create(&path).unwrap();
    let (mut end, mut piece) = (0, 1 << 30);
    let flags = rustix::fs::FallocateFlags::empty();
    while piece >= 4096 {
        match rustix::fs::fallocate(&file, flags, end, piece) {
            Ok(()) => end += piece,
            Err(_) => piece /= 2,
        }
    }
    path
}

/// The daemon among too many. What it starts meanwhile would be in there, too; so this is over
/// before anything else happens.
async fn cramp(daemon: i32) -> Injury {
    let Some(group) = Cgroup::memory(CRAMPED) else {
        return Injury::Skipped("no memory cgroup");
    };
    let at = Timestamp::now();
    group.take(daemon);
    for _ in 0..GREEDY {
        let mut greedy = group.greedy(1000);
        eventually("the kernel to kill it", || {
            std::future::ready(greedy.try_wait().unwrap())
        })
        .await;
    }
    Injury::Done(at, None)
}

/// A cgroup of this run's own, of either version.
pub(super) struct Cgroup {
    path: Utf8PathBuf,
    /// File and word.
    frozen: (&'static str, &'static str),
    thawed: (&'static str, &'static str),
}

impl Cgroup {
    fn make(parent: &str) -> Option<Self> {
        let first = parent != "/sys/fs/cgroup";
        let path = Utf8PathBuf::from(format!("{parent}/hearth-chaos-{}", uuid()));
        std::fs::create_dir(&path).ok()?;
        let file = if first {
            "freezer.state"
        } else {
            "cgroup.freeze"
        };
        Some(Self {
            path,
            frozen: (file, if first { "FROZEN" } else { "1" }),
            thawed: (file, if first { "THAWED" } else { "0" }),
        })
    }

    fn of(controller: &str, second: impl Fn() -> bool) -> Option<Self> {
        let first = format!("/sys/fs/cgroup/{controller}");
        if std::path::Path::new(&first).is_dir() {
            return Self::make(&first);
        }
        second().then(|| Self::make("/sys/fs/cgroup")).flatten()
    }

    fn freezer(pid: i32) -> Option<Self> {
        let unified = || std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let group = Self::of("freezer", unified)?;
        group.take(pid);
        Some(group)
    }

    fn memory(limit: &str) -> Option<Self> {
        let given = || {
            std::fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control")
                .is_ok_and(|given| given.contains("memory"))
        };
        let group = Self::of("memory", given)?;
        let files = ["memory.limit_in_bytes", "memory.max"];
        let said = files.iter().any(|file| group.say((file, limit)).is_ok());
        said.then_some(group)
    }

    fn take(&self, pid: i32) {
        self.say(("cgroup.procs", &pid.to_string())).unwrap();
    }

    /// A program in it that wants all of its memory; `score` says how gladly the kernel kills it.
    fn greedy(&self, score: i32) -> Child {
        // One that cannot enter takes nothing, and none can take more than this many KiB.
        let enter = "ulimit -v 1048576 && echo $$ > $0 && echo $1 > /proc/self/oom_score_adj \
                     && exec tail /dev/zero";
        let procs = self.path.join("cgroup.procs");
        Command::new("sh")
            .args(["-c", enter, procs.as_str(), &score.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn say(&self, (file, word): (&str, &str)) -> std::io::Result<()> {
        // Opened, not made: a file that is not there says which version this is.
        let path = self.path.join(file);
        let mut file = std::fs::File::options().write(true).open(path)?;
        file.write_all(word.as_bytes())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let parent = self.path.parent().expect("a folder").join("cgroup.procs");
        // Whoever ends in there is gone in a moment.
        for _ in 0..100 {
            let left = std::fs::read_to_string(self.path.join("cgroup.procs"));
            for pid in left.unwrap_or_default().lines() {
                drop(std::fs::write(&parent, pid));
            }
            if std::fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A name that nobody else has.
fn uuid() -> String {
    hearth_types::VmId::new().to_string()
}
