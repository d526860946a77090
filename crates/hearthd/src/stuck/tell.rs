//! Telling of what is stuck, with what its threads wait for in the kernel.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hearth_host::waits::{self, KernelWait};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::process::ProcessIdentity;
use hearth_types::survey::Survey;
use tokio::sync::watch;

use super::{PASS, Work};
use crate::engine::Engine;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);
/// How long a look at `/proc` may take. It waits for nothing, but the threads that take it may be used up.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// So many looks that did not come mean that the runtime is held up.
const MISSED: u32 = 6;

impl Engine {
    /// Looks for what is stuck and tells it, until `stop` turns true.
    pub(crate) async fn watch_for_stuck(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let (stuck, went_on) = self.under_way.news();
            for work in stuck {
                let waits = self.waits_of(&work).await;
                let words = work.words();
                tracing::error!(step = work.what, "[reconcile] {words}: {}", said(&waits));
                self.under_way
                    .told
                    .get_or_create(&[("kind", work.what)])
                    .inc();
                self.tell_of(stuck_event(&work, &waits));
            }
            for work in went_on {
                self.tell_of(went_on_event(&work));
            }
        }
    }

    /// Nobody waits for it: what is stuck may be the database's disk.
    fn tell_of(self: &Arc<Self>, event: NewEvent) {
        let engine = Arc::clone(self);
        tokio::spawn(async move { engine.tell(event).await });
    }

    /// The threads that wait in the kernel: this daemon's, of the programs that it runs, and of the VM's VMM.
    pub(crate) async fn waits_of(self: &Arc<Self>, work: &Work) -> Survey<Vec<KernelWait>> {
        let row = match work.vm {
            Some(vm) => self.parts.store.vm(vm).await,
            None => None,
        };
        let vmm = row.and_then(|row| row.status.vmm);
        self.kernel_waits(vmm).await
    }

    /// The same of one VMM, or of none.
    pub(crate) async fn kernel_waits(
        self: &Arc<Self>,
        vmm: Option<ProcessIdentity>,
    ) -> Survey<Vec<KernelWait>> {
        let engine = Arc::clone(self);
        let look =
            tokio::task::spawn_blocking(move || engine.parts.processes.kernel_waits(vmm.as_ref()));
        match tokio::time::timeout(LOOK_DEADLINE, look).await {
            Ok(Ok(waits)) => waits,
            Ok(Err(error)) => Survey::Unknown(error.to_string()),
            Err(_) => Survey::Unknown("no thread was free to look".to_owned()),
        }
    }

    /// What is stuck at this moment, with what it waits for: a line for each.
    pub(crate) async fn stuck_words(self: &Arc<Self>) -> Vec<String> {
        let mut lines = Vec::new();
        for work in self.under_way.stuck() {
            let waits = self.waits_of(&work).await;
            lines.push(format!("{}: {}", work.words(), said(&waits)));
        }
        lines
    }
}

/// What threads wait for, for people.
pub(crate) fn said(waits: &Survey<Vec<KernelWait>>) -> String {
    match waits {
        Survey::Unknown(why) => format!("whether a thread waits in the kernel is unknown: {why}"),
        Survey::Known(waits) if waits.is_empty() => {
            "no thread of ours waits in the kernel".to_owned()
        }
        Survey::Known(waits) => {
            let waits: Vec<_> = waits.iter().map(ToString::to_string).collect();
            waits.join("; ")
        }
    }
}

fn stuck_event(work: &Work, waits: &Survey<Vec<KernelWait>>) -> NewEvent {
    let code = if work.what == PASS {
        "daemon.loop_stalled"
    } else {
        "daemon.step_stuck"
    };
    let message = format!("[reconcile] {}", work.words());
    let details = serde_json::json!({
        "step": work.what, "object": work.object, "since": work.since, "kernel": said(waits),
    });
    of(
        work,
        NewEvent::info(code, message).severity(Severity::Error),
    )
    .details(details)
}

fn went_on_event(work: &Work) -> NewEvent {
    let code = if work.what == PASS {
        "daemon.loop_goes_on"
    } else {
        "daemon.step_goes_on"
    };
    let (what, age) = (work.what, work.age().as_secs());
    let message = format!(
        "[reconcile] {what} ({}) has ended after about {age} s",
        work.object
    );
    of(work, NewEvent::info(code, message))
}

fn of(work: &Work, event: NewEvent) -> NewEvent {
    match (work.vm, &work.name) {
        (Some(vm), Some(name)) => event.vm(vm, name),
        _ => event,
    }
}

/// Says in the log, from a thread of its own, when the runtime itself is held up: all its threads
/// wait for the kernel, say. Ends with the engine.
///
/// # Errors
/// When the thread cannot be made.
pub fn guard_runtime(engine: &Arc<Engine>) -> std::io::Result<()> {
    let engine = Arc::downgrade(engine);
    std::thread::Builder::new()
        .name("hearthd-guard".to_owned())
        .spawn(move || guard(&engine))
        .map(drop)
}

fn guard(engine: &Weak<Engine>) {
    let mut told = false;
    loop {
        // A clock of its own: nothing that it could wait for would come.
        std::thread::sleep(LOOK);
        let Some(engine) = engine.upgrade() else {
            return;
        };
        let silent = engine.under_way.unwatched();
        if silent < LOOK * MISSED {
            told = false;
        } else if !std::mem::replace(&mut told, true) {
            let waits = engine.parts.processes.kernel_waits(None);
            tracing::error!(
                "[reconcile] the daemon is held up: nothing has moved for {} s: {}",
                silent.as_secs(),
                said(&waits)
            );
        }
    }
}

/// What the host's `/proc` says, for [`crate::host::Processes`].
#[must_use]
pub fn look(vmm: Option<i32>) -> Survey<Vec<KernelWait>> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let children = match waits::children() {
        Ok(children) => children,
        Err(error) => return Survey::Unknown(format!("/proc/self/task/*/children: {error}")),
    };
    let mut found = Vec::new();
    for pid in std::iter::once(own).chain(children).chain(vmm) {
        match waits::of_process(pid) {
            Ok(waits) => found.extend(waits),
            Err(error) => return Survey::Unknown(format!("/proc/{pid}/task: {error}")),
        }
    }
    Survey::Known(found)
}
