//! From a VMM's SIGKILL to the moment a client with an open event stream is told.

use std::cell::RefCell;
use std::io::BufRead;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use super::rig::{Rig, Shared, Vmm};
use super::{Case, Context, Unit, http};

const NAME: &str = "detect";
const TARGET: &str = "5 ms";

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (name, vmm) in [
        ("hearth, QEMU", Vmm::Qemu),
        ("hearth, stand-in VMM", Vmm::Standin),
    ] {
        let rig = Rig::new(context, &context.folder.join(format!("{vmm:?}")), vmm)?;
        let rig = Rc::new(RefCell::new(rig));
        cases.push(told(&rig, name, Since::Kill).target("-"));
        let noticing = format!("{name}, from the kernel's word on");
        cases.push(told(&rig, &noticing, Since::KernelsWord));
    }
    Ok(cases)
}

/// What the time is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// The signal. The kernel takes back the VMM's memory before it says that it is dead.
    Kill,
    /// A pidfd of the bench's own is readable, as everybody's is at that moment.
    KernelsWord,
}

/// A death as a client with an open event stream sees it.
pub(crate) fn told(rig: &Shared, name: &str, since: Since) -> Case {
    let (before, work, after) = (Rc::clone(rig), Rc::clone(rig), Rc::clone(rig));
    Case::measured(name, Unit::Seconds, move || {
        let rig = work.borrow();
        let (status, mut stream) =
            http::send(&rig.socket, "GET", "/v1/events", "text/event-stream", None)?;
        ensure!(status == 200, "the events answer {status}");
        let vmm = rig.vmm(NAME)?;
        let kernels_word = watch(vmm)?;
        let begun = Instant::now();
        kill(vmm)?;
        let mut line = String::new();
        while line.trim_end() != "event: vm.exited" {
            line.clear();
            ensure!(stream.read_line(&mut line)? > 0, "the stream ended");
        }
        let told = Instant::now();
        let dead = kernels_word
            .join()
            .map_err(|_| anyhow::anyhow!("the watch of pid {vmm} ended early"))??;
        let from = if since == Since::Kill { begun } else { dead };
        Ok(told.saturating_duration_since(from).as_secs_f64())
    })
    .before(move || {
        let rig = before.borrow();
        rig.create(NAME, "none", true)?;
        rig.wait_running(NAME)
    })
    .after(move || after.borrow().remove(NAME))
    .target(TARGET)
}

/// When the kernel says that a process is dead.
fn watch(pid: i32) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<Instant>>> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    Ok(std::thread::spawn(move || {
        let mut poll = [PollFd::new(&pidfd, PollFlags::IN)];
        rustix::event::poll(&mut poll, None)?;
        Ok(Instant::now())
    }))
}

/// Kills a process that the bench's own daemon or libvirt has just named.
pub(crate) fn kill(pid: i32) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    Ok(rustix::process::kill_process(
        pid,
        rustix::process::Signal::KILL,
    )?)
}
