//! The wire to the host.
//!
//! A virtio-serial port says POLLHUP for as long as no host is connected, so a plain poll
//! would spin. Each change of the host's side wakes the port's waiters, though, and an
//! edge-triggered epoll turns that into one event: while nobody is there, that is polled.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hearth_guest_proto::mux::{Mux, OUTPUT_HIGH_WATER};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

/// What is read or written at once.
const PIECE: usize = 64 * 1024;

#[derive(Debug)]
pub(super) enum Transport {
    Port {
        port: OwnedFd,
        edges: OwnedFd,
        connected: bool,
    },
    Listener {
        listener: OwnedFd,
        peer: Option<OwnedFd>,
    },
}

impl Transport {
    pub(super) fn open_port(path: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = rustix::fs::open(path, flags, Mode::empty())?;
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wanted = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&edges, &port, epoll::EventData::new_u64(0), wanted)?;
        let connected = !hung_up(&port);
        Ok(Self::Port {
            port,
            edges,
            connected,
        })
    }

    pub(super) fn listen_unix(path: &str) -> rustix::io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&listener, &SocketAddrUnix::new(path)?)?;
        listen(&listener, 4)?;
        Ok(Self::Listener {
            listener,
            peer: None,
        })
    }

    pub(super) fn listen_vsock(port: u32) -> rustix::io::Result<Self> {
        Ok(Self::Listener {
            listener: crate::vsock::listen(port)?,
            peer: None,
        })
    }

    /// What to poll, and for what.
    pub(super) fn interest(&self, mux: &Mux) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        // A host that floods us and reads nothing is not listened to before it does.
        if mux.output().len() < 4 * OUTPUT_HIGH_WATER {
            flags |= PollFlags::IN;
        }
        if !mux.output().is_empty() {
            flags |= PollFlags::OUT;
        }
        match self {
            Self::Port {
                port,
                connected: true,
                ..
            } => (port.as_fd(), flags),
            Self::Port { edges, .. } => (edges.as_fd(), PollFlags::IN),
            Self::Listener {
                peer: Some(peer), ..
            } => (peer.as_fd(), flags),
            Self::Listener { listener, .. } => (listener.as_fd(), PollFlags::IN),
        }
    }

    /// Moves bytes. `false` when the host has gone.
    pub(super) fn pump(&mut self, mux: &mut Mux, flags: PollFlags) -> rustix::io::Result<bool> {
        match self {
            Self::Port {
                port,
                edges,
                connected,
            } if !*connected => {
                let mut events = [epoll::Event {
                    flags: epoll::EventFlags::empty(),
                    data: epoll::EventData::new_u64(0),
                }];
                let _woken = epoll::wait(
                    &*edges,
                    &mut events,
                    Some(&Timespec {
                        tv_sec: 0,
                        tv_nsec: 0,
                    }),
                );
                *connected = !hung_up(&*port);
                return Ok(true);
            }
            Self::Listener {
                listener,
                peer: peer @ None,
            } => {
                match crate::vsock::accept_host(listener) {
                    Ok(accepted) => *peer = Some(accepted),
                    Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                    Err(error) => return Err(error),
                }
                return Ok(true);
            }
            _ => {}
        }
        let readable = flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        if (readable && !self.read(mux)) || !self.flush(mux) {
            self.disconnect();
            return Ok(false);
        }
        Ok(true)
    }

    fn wire(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Port {
                port,
                connected: true,
                ..
            } => Some(port.as_fd()),
            Self::Listener {
                peer: Some(peer), ..
            } => Some(peer.as_fd()),
            _ => None,
        }
    }

    fn disconnect(&mut self) {
        match self {
            Self::Port { connected, .. } => *connected = false,
            Self::Listener { peer, .. } => *peer = None,
        }
    }

    fn read(&mut self, mux: &mut Mux) -> bool {
        let Some(wire) = self.wire() else {
            return true;
        };
        let mut buffer = [0_u8; PIECE];
        match rustix::io::read(wire, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                mux.receive(&buffer[..count]);
                true
            }
            Err(error) => matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }

    /// Writes what there is room for. `false` when the host has gone.
    pub(super) fn flush(&mut self, mux: &mut Mux) -> bool {
        let Some(wire) = self.wire() else {
            return true;
        };
        while !mux.output().is_empty() {
            let count = mux.output().len().min(PIECE);
            match rustix::io::write(wire, &mux.output()[..count]) {
                Ok(0) | Err(Errno::AGAIN | Errno::INTR) => return true,
                Ok(count) => mux.sent(count),
                Err(_) => return false,
            }
        }
        true
    }
}

fn hung_up(port: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(port, PollFlags::empty())];
    match poll(
        &mut polled,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    ) {
        Ok(_) => polled[0].revents().contains(PollFlags::HUP),
        Err(_) => false,
    }
}
