//! The kernel's events: low water, no room, a change of mode.
//!
//! A thread of its own polls the control device and wakes whoever looks at the pool. It ends with the
//! last of them.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use hearth_dm::Control;
use hearth_types::survey::chain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::Notify;

use crate::error::PoolError;
use crate::ground::Events;

/// How soon the thread sees that nobody listens any more.
const LISTENERS: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Who listens.
struct Watch(Arc<Notify>);

/// `None` where the kernel cannot tell: then looking from time to time has to do.
pub(super) fn events() -> Option<Box<dyn Events>> {
    let control = Control::open().ok()?;
    let wake = Arc::new(Notify::new());
    let listens = Arc::downgrade(&wake);
    let started = control.arm().map_err(|error| chain(&error)).and_then(|()| {
        std::thread::Builder::new()
            .name("pool-events".to_owned())
            .spawn(move || watch(&control, &listens))
            .map_err(|error| error.to_string())
    });
    match started {
        Ok(_) => Some(Box::new(Watch(wake))),
        Err(error) => {
            tracing::warn!(
                error,
                "the kernel's events cannot be waited for; the pool is looked at instead"
            );
            None
        }
    }
}

fn watch(control: &Control, listens: &Weak<Notify>) {
    loop {
        let mut polled = [PollFd::new(control, PollFlags::IN)];
        let ready = poll(&mut polled, Some(&LISTENERS));
        let Some(wake) = listens.upgrade() else {
            return;
        };
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            // Armed before anybody looks: what happens from now on is another event.
            Ok(_) if control.arm().is_ok() => wake.notify_one(),
            Ok(_) | Err(_) => {
                tracing::warn!("the kernel's events end; the pool is looked at instead");
                return;
            }
        }
    }
}

#[async_trait]
impl Events for Watch {
    async fn next(&mut self) -> Result<(), PoolError> {
        self.0.notified().await;
        Ok(())
    }
}
