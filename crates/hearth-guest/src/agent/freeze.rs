//! Stops all writes to the disks for a snapshot, and lets them go on by itself when the host
//! forgets to.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hearth_guest_proto::message::ErrorCode;
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::error::say;
use crate::spawn::Refusal;

/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)` of linux/fs.h.
const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// Longer than any snapshot takes, shorter than a guest's patience.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Freezer {
    frozen: Vec<(String, OwnedFd)>,
    until: Option<Instant>,
}

impl Freezer {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Freezes all of them or none.
    pub(super) fn freeze(&mut self, mounts: Vec<String>, longest: Duration) -> Result<(), Refusal> {
        if !self.frozen.is_empty() {
            return Err(Refusal::new(
                ErrorCode::Busy,
                "the disks are frozen already",
            ));
        }
        for mount in mounts {
            let frozen =
                rustix::fs::open(&mount, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .and_then(|folder| freeze(&folder).map(|()| folder));
            match frozen {
                Ok(folder) => self.frozen.push((mount, folder)),
                Err(error) => {
                    let _thawed = self.thaw();
                    let message = format!("cannot freeze {mount}: {error}");
                    return Err(Refusal::new(ErrorCode::Failed, message));
                }
            }
        }
        self.until = Some(Instant::now() + longest.min(LONGEST));
        Ok(())
    }

    /// Says so when nothing was frozen any more.
    pub(super) fn thaw(&mut self) -> Result<(), Refusal> {
        self.until = None;
        if self.frozen.is_empty() {
            return Err(Refusal::new(
                ErrorCode::Invalid,
                "the disks are not frozen (any more)",
            ));
        }
        let mut outcome = Ok(());
        // The reverse order: what is mounted inside goes first.
        for (mount, folder) in self.frozen.drain(..).rev() {
            if let Err(error) = thaw(&folder) {
                let message = format!("cannot thaw {mount}: {error}");
                outcome = Err(Refusal::new(ErrorCode::Failed, message));
            }
        }
        outcome
    }

    pub(super) fn thaw_if_due(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            say(&"the host did not thaw the disks in time: writes go on");
            if let Err(refusal) = self.thaw() {
                say(&refusal.message);
            }
        }
    }
}

fn freeze(folder: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: FIFREEZE takes an int's address and does not touch it.
    unsafe { ioctl(folder, Setter::<FIFREEZE, i32>::new(0)) }
}

fn thaw(folder: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: FITHAW takes an int's address and does not touch it.
    unsafe { ioctl(folder, Setter::<FITHAW, i32>::new(0)) }
}
