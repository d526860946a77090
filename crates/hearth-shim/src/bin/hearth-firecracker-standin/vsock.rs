//! The sockets of the guest's vsock device.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// The port on which the guest echoes.
const AGENT_PORT: &str = "1024";
/// The host's port for reports.
const REPORT_PORT: u32 = 1025;
const REPORT: &str = "{\"exit\":{\"code\":0},\"reason\":\"shutdown\"}\n";
/// Longest request for a connection, in bytes.
const LINE_MAX: usize = 32;

/// The listening socket and its connections.
#[derive(Debug)]
pub(super) struct Vsock {
    path: String,
    listener: UnixListener,
    streams: Vec<(UnixStream, Handshake)>,
    next_port: u32,
}

#[derive(Debug)]
enum Handshake {
    Line(Vec<u8>),
    Done,
}

impl Vsock {
    pub(super) fn listen(path: String) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::bind(&path)?,
            path,
            streams: Vec::new(),
            next_port: 1 << 30,
        })
    }

    /// What to poll: the listener first.
    pub(super) fn polled(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let streams = self.streams.iter().map(|(stream, _)| stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(streams)
    }

    /// Something is ready at this position.
    pub(super) fn handle(&mut self, position: usize) {
        let Some(at) = position.checked_sub(1) else {
            if let Ok((stream, _)) = self.listener.accept() {
                self.streams.push((stream, Handshake::Line(Vec::new())));
            }
            return;
        };
        let port = self.next_port;
        if let Some((stream, handshake)) = self.streams.get_mut(at)
            && !serve(stream, handshake, port)
        {
            self.streams.remove(at);
        }
        self.next_port = self.next_port.wrapping_add(1);
    }

    /// The guest's last word.
    pub(super) fn report(&self) {
        if let Ok(mut stream) = UnixStream::connect(format!("{}_{REPORT_PORT}", self.path)) {
            drop(stream.write_all(REPORT.as_bytes()));
        }
    }
}

/// Reads once and answers. `false` when the connection is over.
fn serve(stream: &mut UnixStream, handshake: &mut Handshake, port: u32) -> bool {
    let mut buffer = [0; 1024];
    let count = match stream.read(&mut buffer) {
        Ok(0) | Err(_) => return false,
        Ok(count) => count,
    };
    let Handshake::Line(line) = handshake else {
        return stream.write_all(&buffer[..count]).is_ok();
    };
    line.extend_from_slice(&buffer[..count]);
    let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
        return line.len() <= LINE_MAX;
    };
    let asked = String::from_utf8_lossy(&line[..end]).into_owned();
    let rest = line[end + 1..].to_vec();
    if asked.strip_prefix("CONNECT ") != Some(AGENT_PORT) {
        return false;
    }
    *handshake = Handshake::Done;
    let answer = format!("OK {port}\n");
    stream
        .write_all(answer.as_bytes())
        .and_then(|()| stream.write_all(&rest))
        .is_ok()
}
