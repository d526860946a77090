//! From a VMM's SIGKILL to the moment a client with an open event stream is told.

use std::cell::RefCell;
use std::io::BufRead;
use std::rc::Rc;
use std::time::Instant;

use anyhow::ensure;

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
        cases.push(told(&Rc::new(RefCell::new(rig)), name));
    }
    Ok(cases)
}

/// A death as a client with an open event stream sees it.
pub(crate) fn told(rig: &Shared, name: &str) -> Case {
    let (before, work, after) = (Rc::clone(rig), Rc::clone(rig), Rc::clone(rig));
    Case::measured(name, Unit::Seconds, move || {
        let rig = work.borrow();
        let (status, mut stream) =
            http::send(&rig.socket, "GET", "/v1/events", "text/event-stream", None)?;
        ensure!(status == 200, "the events answer {status}");
        let vmm = rig.vmm(NAME)?;
        let begun = Instant::now();
        kill(vmm)?;
        let mut line = String::new();
        while line.trim_end() != "event: vm.exited" {
            line.clear();
            ensure!(stream.read_line(&mut line)? > 0, "the stream ended");
        }
        Ok(begun.elapsed().as_secs_f64())
    })
    .before(move || {
        let rig = before.borrow();
        rig.create(NAME, "none", true)?;
        rig.wait_running(NAME)
    })
    .after(move || after.borrow().remove(NAME))
    .target(TARGET)
}

/// Kills a process that the bench's own daemon or libvirt has just named.
pub(crate) fn kill(pid: i32) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| anyhow::anyhow!("pid 0"))?;
    Ok(rustix::process::kill_process(
        pid,
        rustix::process::Signal::KILL,
    )?)
}
