//! The loop of the shim while the VMM lives.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdin};
use std::time::Instant;

use hearth_types::process::GuestReport;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::journal::Journal;
use crate::log::Log;
use crate::outside::Outside;
use crate::report::Reports;

/// Bytes moved at once. One round handles this much of each source, so that no source
/// starves the others.
const CHUNK: usize = 8 << 10;
/// Most that is still read of a source after the VMM is dead, in bytes: more than a pipe
/// holds (64 KiB), and an end if somebody else should hold the pipe's other side.
const DRAIN_MAX: usize = 1 << 20;

/// Everything that is moved while the VMM lives.
#[derive(Debug)]
pub(crate) struct Pump {
    pidfd: OwnedFd,
    sources: [Option<OwnedFd>; 3],
    stdin: Option<ChildStdin>,
    outside: Outside,
    console: Log,
    vmm_log: Log,
    journal: Journal,
    reports: Reports,
    deadline: Option<Instant>,
}

/// Which of [`Pump::sources`] is which.
const CONSOLE: usize = 0;
const VMM_LOG: usize = 1;
const REPORT: usize = 2;

impl Pump {
    pub(crate) fn new(
        child: &mut Child,
        listener: UnixListener,
        report: OwnedFd,
        (console, vmm_log): (Log, Log),
        journal: Journal,
        deadline: Option<Instant>,
    ) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the child has no pid"))?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let sources = [
            child.stdout.take().map(OwnedFd::from),
            child.stderr.take().map(OwnedFd::from),
            Some(report),
        ];
        let stdin = child.stdin.take();
        for fd in sources.iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        if let Some(stdin) = &stdin {
            rustix::io::ioctl_fionbio(stdin, true)?;
        }
        Ok(Self {
            pidfd,
            sources,
            stdin,
            outside: Outside::new(listener)?,
            console,
            vmm_log,
            journal,
            reports: Reports::default(),
            deadline,
        })
    }

    /// Moves bytes until the VMM is dead; returns what the guest reported.
    pub(crate) fn run(mut self) -> Option<GuestReport> {
        let mut ready = Vec::new();
        loop {
            if let Err(error) = self.wait(&mut ready) {
                // Only a lack of kernel memory gets here. The VMM must not be left alone.
                self.vmm_log
                    .write(format!("hearth-shim: cannot poll: {error}\n").as_bytes());
                std::thread::sleep(std::time::Duration::from_millis(100));
                continue;
            }
            let dead = ready[0];
            self.round(&ready);
            if dead {
                break;
            }
            self.enforce_deadline();
        }
        for which in [CONSOLE, VMM_LOG, REPORT] {
            let mut moved = 0;
            while moved < DRAIN_MAX {
                match self.take(which) {
                    0 => break,
                    count => moved += count,
                }
            }
        }
        self.journal.finish();
        self.reports.finish()
    }

    /// Waits for something to do. `ready` gets: the pidfd, the three sources, the console's
    /// listener, the VMM's input, then each client.
    fn wait(&self, ready: &mut Vec<bool>) -> rustix::io::Result<()> {
        fn slot<'f>(fds: &mut Vec<PollFd<'f>>, fd: Option<BorrowedFd<'f>>, flags: PollFlags) {
            // A slot without a descriptor keeps the positions; the pidfd stands in for it.
            match fd {
                Some(fd) => fds.push(PollFd::from_borrowed_fd(fd, flags)),
                None => {
                    let first = fds[0].clone();
                    fds.push(first);
                }
            }
        }
        let mut fds = Vec::with_capacity(8);
        fds.push(PollFd::new(&self.pidfd, PollFlags::IN));
        for source in &self.sources {
            slot(&mut fds, source.as_ref().map(AsFd::as_fd), PollFlags::IN);
        }
        fds.push(PollFd::from_borrowed_fd(
            self.outside.listener(),
            PollFlags::IN,
        ));
        let has_input = self.outside.has_input();
        let stdin = self.stdin.as_ref().filter(|_| has_input).map(AsFd::as_fd);
        slot(&mut fds, stdin, PollFlags::OUT);
        if !has_input {
            for client in self.outside.clients() {
                fds.push(PollFd::from_borrowed_fd(client, PollFlags::IN));
            }
        }
        match rustix::event::poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => fds.iter_mut().for_each(PollFd::clear_revents),
            Err(error) => return Err(error),
        }
        ready.clear();
        ready.extend(fds.iter().map(|fd| !fd.revents().is_empty()));
        Ok(())
    }

    fn round(&mut self, ready: &[bool]) {
        for which in [CONSOLE, VMM_LOG, REPORT] {
            if ready[1 + which] {
                self.take(which);
            }
        }
        // Clients first: those that are let in now are not in `ready`.
        self.outside.receive(&ready[6..]);
        if ready[4] {
            self.outside.accept();
        }
        self.outside.flush(self.stdin.as_ref());
    }

    /// Moves one chunk of a source and returns its size; 0 when there is nothing now.
    fn take(&mut self, which: usize) -> usize {
        let Some(source) = &self.sources[which] else {
            return 0;
        };
        let mut buffer = [0; CHUNK];
        let count = match rustix::io::read(source, &mut buffer) {
            Ok(0) => {
                self.sources[which] = None;
                return 0;
            }
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return 0,
            Err(_) => {
                self.sources[which] = None;
                return 0;
            }
        };
        let bytes = &buffer[..count];
        match which {
            CONSOLE => {
                self.console.write(bytes);
                self.journal.feed(bytes);
                self.outside.send(bytes);
            }
            VMM_LOG => self.vmm_log.write(bytes),
            _ => self.reports.feed(bytes),
        }
        count
    }

    fn timeout(&self) -> Option<Timespec> {
        let left = self.deadline?.saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    fn enforce_deadline(&mut self) {
        if self.deadline.is_some_and(|at| Instant::now() >= at) {
            self.deadline = None;
            rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
        }
    }
}
