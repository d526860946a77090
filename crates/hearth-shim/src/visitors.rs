//! Guests that bring their exit report over a socket.
//!
//! ```text
//!   accept ──► reads ──► a line, or the end ──► fed to the reports, hung up on
//!                 └───── too much without a line ──► hung up on
//! ```
//! That it is hung up on tells the guest that its report has arrived.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::report::Reports;

/// Guests at once: there is one that reports, and one that may be hanging.
pub(crate) const VISITORS_MAX: usize = 4;
/// Most that one may bring, in bytes.
const BROUGHT_MAX: usize = 64 << 10;

/// The listening socket and who came.
#[derive(Debug)]
pub(crate) struct Visitors {
    listener: UnixListener,
    present: Vec<(UnixStream, Vec<u8>)>,
}

impl Visitors {
    pub(crate) fn new(listener: UnixListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            present: Vec::new(),
        })
    }

    /// What to poll at this position: the listener is the first.
    pub(crate) fn polled(&self, position: usize) -> Option<BorrowedFd<'_>> {
        match position.checked_sub(1) {
            // Who cannot come in waits outside.
            None if self.present.len() >= VISITORS_MAX => None,
            None => Some(self.listener.as_fd()),
            Some(index) => self.present.get(index).map(|(stream, _)| stream.as_fd()),
        }
    }

    /// Reads from those that are ready, in the order of [`Self::polled`].
    pub(crate) fn receive(&mut self, ready: &[bool], reports: &mut Reports) {
        let mut marks = ready.iter().skip(1);
        self.present.retain_mut(|(stream, brought)| {
            marks.next() != Some(&true) || listen(stream, brought, reports)
        });
        if ready.first() == Some(&true) {
            self.accept();
        }
    }

    /// Takes what has arrived by now: the VMM is dead, so nothing more will.
    pub(crate) fn finish(&mut self, reports: &mut Reports) {
        self.accept();
        for (stream, brought) in &mut self.present {
            while listen(stream, brought, reports) {
                let mut polled = [rustix::event::PollFd::new(
                    &*stream,
                    rustix::event::PollFlags::IN,
                )];
                let now = rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                if !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(1)) {
                    break;
                }
            }
        }
        self.present.clear();
    }

    fn accept(&mut self) {
        while self.present.len() < VISITORS_MAX
            && let Ok((stream, _)) = self.listener.accept()
        {
            if stream.set_nonblocking(true).is_ok() {
                self.present.push((stream, Vec::new()));
            }
        }
    }
}

/// Reads once. `false` when that was all of it.
fn listen(stream: &mut UnixStream, brought: &mut Vec<u8>, reports: &mut Reports) -> bool {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => {
            brought.push(b'\n');
            reports.feed(brought);
            false
        }
        Ok(count) => {
            brought.extend_from_slice(&buffer[..count]);
            let whole = brought.contains(&b'\n');
            if whole {
                reports.feed(brought);
            }
            !whole && brought.len() < BROUGHT_MAX
        }
        Err(error) => matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_report_arrives_and_is_acknowledged_by_hanging_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        let mut visitors = Visitors::new(UnixListener::bind(&path).unwrap()).unwrap();
        let mut reports = Reports::default();
        let mut idle = UnixStream::connect(&path).unwrap();
        idle.write_all(b"no report").unwrap();
        let mut guest = UnixStream::connect(&path).unwrap();
        visitors.receive(&[true, false], &mut reports);
        guest
            .write_all(b"{\"exit\":{\"code\":3},\"reason\":\"exited\"}\nrest")
            .unwrap();
        visitors.receive(&[false, true, true], &mut reports);
        assert_eq!(guest.read(&mut [0; 8]).unwrap(), 0, "hung up on");
        assert!(visitors.polled(1).is_some(), "the other one stays");
        assert!(visitors.polled(2).is_none());
        visitors.finish(&mut reports);
        assert_eq!(reports.finish().unwrap().reason, "exited");
    }

    #[test]
    fn who_brings_too_much_is_shown_the_door() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        let mut visitors = Visitors::new(UnixListener::bind(&path).unwrap()).unwrap();
        let mut reports = Reports::default();
        let mut guests: Vec<_> = (0..=VISITORS_MAX)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        visitors.receive(&[true], &mut reports);
        assert!(visitors.polled(0).is_none(), "the house is full");
        for _ in 0..=BROUGHT_MAX / 4096 {
            drop(guests[0].write_all(&[b'x'; 4096]));
            visitors.receive(&[false, true], &mut reports);
        }
        assert!(visitors.polled(0).is_some(), "one has gone");
        visitors.finish(&mut reports);
        assert!(reports.finish().is_none());
    }
}
