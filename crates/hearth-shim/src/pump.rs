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

use crate::cage::Outlets;
use crate::evidence::Tail;
use crate::identity::Instance;
use crate::journal::Journal;
use crate::log::Log;
use crate::outside::Outside;
use crate::report::Reports;
use crate::stop::{Stopper, Told};
use crate::totals::Totals;
use crate::visitors::{VISITORS_MAX, Visitors};
use crate::{LAUNCHED, Stop};

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
    sources: [Option<OwnedFd>; SOURCES],
    stdin: Option<ChildStdin>,
    outside: Outside,
    console: Log,
    tail: Tail,
    vmm_log: Log,
    journal: Journal,
    metrics: Totals,
    reports: Reports,
    visitors: Option<Visitors>,
    /// Who has to complete the launch; none when it is complete.
    caller: Option<OwnedFd>,
    undone: bool,
    deadline: Option<Instant>,
    stopper: Stopper,
}

/// The ends of everything that comes from the VMM beside its standard streams.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) console: UnixListener,
    pub(crate) report: OwnedFd,
    pub(crate) outlets: Outlets,
    pub(crate) caller: Option<Instance>,
    pub(crate) stop: Option<Stop>,
    pub(crate) user: Option<u32>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The VMM is dead; this is what its guest reported, the end of its console, and
    /// whether it was told to end.
    Run(Option<GuestReport>, Tail, Told),
    /// Whoever launched it died before the launch was complete, so it was killed.
    Undone,
}

/// Which of [`Pump::sources`] is which.
const CONSOLE: usize = 0;
const VMM_LOG: usize = 1;
const REPORT: usize = 2;
const VMM_PIPE: usize = 3;
const METRICS: usize = 4;
const SOURCES: usize = 5;

/// Positions among what is polled. The pidfd is the first, the sources follow.
const LISTENER: usize = 1 + SOURCES;
const STDIN: usize = LISTENER + 1;
const CALLER: usize = STDIN + 1;
const STOP: usize = CALLER + 1;
const VISITORS: usize = STOP + 1;
const CLIENTS: usize = VISITORS + 1 + VISITORS_MAX;

impl Pump {
    pub(crate) fn new(
        child: &mut Child,
        channels: Channels,
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
            Some(channels.report),
            channels.outlets.log,
            channels.outlets.metrics,
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
            outside: Outside::new(channels.console)?,
            console,
            tail: Tail::default(),
            vmm_log,
            journal,
            metrics: Totals::new(crate::METRICS),
            reports: Reports::default(),
            visitors: channels.outlets.report.map(Visitors::new).transpose()?,
            caller: channels.caller.map(|caller| watch(&caller)).transpose()?,
            undone: false,
            deadline,
            stopper: Stopper::new(channels.stop, channels.outlets.run, channels.user)?,
        })
    }

    /// Moves bytes until the VMM is dead.
    pub(crate) fn run(mut self) -> End {
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
            self.obey();
        }
        for which in 0..SOURCES {
            let mut moved = 0;
            while moved < DRAIN_MAX {
                match self.take(which) {
                    0 => break,
                    count => moved += count,
                }
            }
        }
        self.journal.finish();
        if let Some(visitors) = &mut self.visitors {
            visitors.finish(&mut self.reports);
        }
        if self.undone {
            return End::Undone;
        }
        let vmm_log = &mut self.vmm_log;
        let told = self.stopper.finish(&mut |line| note(vmm_log, line));
        End::Run(self.reports.finish(), self.tail, told)
    }

    /// Waits for something to do. `ready` gets: the pidfd, the sources, the console's
    /// listener, the VMM's input, the caller, SIGTERM, the visitors, then each client.
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
        let caller = self.caller.as_ref().map(AsFd::as_fd);
        slot(&mut fds, caller, PollFlags::IN);
        fds.push(PollFd::from_borrowed_fd(
            self.stopper.polled(),
            PollFlags::IN,
        ));
        for position in 0..=VISITORS_MAX {
            let visitors = self.visitors.as_ref();
            let visitor = visitors.and_then(|visitors| visitors.polled(position));
            slot(&mut fds, visitor, PollFlags::IN);
        }
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
        for which in 0..SOURCES {
            if ready[1 + which] {
                self.take(which);
            }
        }
        if let Some(visitors) = &mut self.visitors {
            visitors.receive(&ready[VISITORS..CLIENTS], &mut self.reports);
        }
        if self.caller.is_some() && ready[CALLER] && is_over(self.caller.as_ref()) {
            self.caller_is_dead();
        }
        // Clients first: those that are let in now are not in `ready`.
        self.outside.receive(&ready[CLIENTS.min(ready.len())..]);
        if ready[LISTENER] {
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
                self.tail.add(bytes);
                self.journal.feed(bytes);
                self.outside.send(bytes);
            }
            VMM_LOG | VMM_PIPE => self.vmm_log.write(bytes),
            METRICS => self.metrics.feed(bytes),
            REPORT => self.reports.feed(bytes),
            _ => {}
        }
        count
    }

    fn timeout(&self) -> Option<Timespec> {
        let next = [self.deadline, self.stopper.deadline()];
        let next = next.into_iter().flatten().min()?;
        let left = next.saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    /// A launch that is not complete by now never will be.
    fn caller_is_dead(&mut self) {
        self.caller = None;
        if !std::path::Path::new(LAUNCHED).exists() {
            self.undone = true;
            rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
        }
    }

    /// What has to be done because the shim was told to end.
    fn obey(&mut self) {
        let vmm_log = &mut self.vmm_log;
        if let Some(signal) = self.stopper.step(&mut |line| note(vmm_log, line)) {
            rustix::process::pidfd_send_signal(&self.pidfd, signal).ok();
        }
    }

    fn enforce_deadline(&mut self) {
        if self.deadline.is_some_and(|at| Instant::now() >= at) {
            self.deadline = None;
            rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
        }
    }
}

/// A line of the shim's own in the VMM's log.
fn note(log: &mut Log, line: &str) {
    log.write(format!("hearth-shim: {line}\n").as_bytes());
}

/// A descriptor that becomes readable when that process is dead.
fn watch(caller: &Instance) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(caller.pid).ok_or_else(|| io::Error::other("no pid of the caller"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| io::Error::other(format!("the caller cannot be watched: {error}")))?;
    if caller.lives() {
        Ok(pidfd)
    } else {
        Err(io::Error::other("the caller is dead"))
    }
}

/// The pidfd itself says so: a slot may have been filled in with another descriptor.
fn is_over(caller: Option<&OwnedFd>) -> bool {
    let Some(caller) = caller else {
        return false;
    };
    let mut fds = [PollFd::new(caller, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
