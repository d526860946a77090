//! How a guest is asked to go down. Runs in a thread of its own: everything here may block.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hearth_guest_proto::message::{Hello, PROTOCOL, Request, ShutdownKind, StreamReply};
use hearth_guest_proto::mux::{Mux, MuxEvent};
use rustix::fs::{FileType, Mode, OFlags};

use super::News;
use crate::{Stop, Words};

/// How long the agent gets to agree before the power button is pressed as well.
const AGENT_FIRST: Duration = Duration::from_secs(2);
/// How often it is greeted while it does not answer.
const HELLO_EVERY: Duration = Duration::from_millis(250);
/// Each so many-th hello goes behind padding, for a guest that waits in a half frame.
const FLUSH_EVERY: u32 = 4;
/// Pause before a connection that failed is tried again: the guest may still boot.
const AGAIN: Duration = Duration::from_millis(250);
/// How long the VMM's own socket may take to take a few words, and to answer them.
const WORDS_DEADLINE: Duration = Duration::from_secs(2);
/// Longest answer to them that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;
/// How systemd is asked.
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// How long systemd may take to say in which state it is. While the host goes down it may be
/// busy, and nobody waits for it.
const SYSTEMD_DEADLINE: Duration = Duration::from_secs(2);
/// Longest first line of an answer to `CONNECT`: `OK ` and a port.
const OK_MAX: usize = 32;

/// Where the VMM's sockets are.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// The folder in the VMM's cage; without one they are in the VM's folder.
    pub(super) cage: Option<OwnedFd>,
    /// The VMM's uid, which owns what is in the cage.
    pub(super) user: Option<u32>,
}

impl Asking {
    /// Asks until the guest has agreed or `until`.
    pub(super) fn run(self, stop: &Stop, until: Instant, teller: &Sender<News>) {
        let tell = |line: String| drop(teller.send(News::Line(line)));
        if std::path::Path::new("/run/systemd/system").is_dir() {
            ask_systemd(SYSTEMCTL, teller);
        }
        let first = (Instant::now() + AGENT_FIRST).min(until);
        match self.agent(stop, first) {
            Ok(()) => return tell("its agent has agreed".to_owned()),
            Err(error) => tell(format!("its agent has not agreed: {error}")),
        }
        for words in &stop.words {
            match self.say(words) {
                Ok(()) => tell(format!("said {} to the VMM", words.name)),
                Err(error) => tell(format!("{} cannot be said to the VMM: {error}", words.name)),
            }
        }
        // A guest that has no power button may still be booting, and its agent may come.
        while Instant::now() < until {
            if self.agent(stop, until).is_ok() {
                return tell("its agent has agreed".to_owned());
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn agent(&self, stop: &Stop, until: Instant) -> io::Result<()> {
        let Some(agent) = &stop.agent else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let stream = self.connect(&agent.socket)?;
        stream.set_read_timeout(Some(HELLO_EVERY))?;
        stream.set_write_timeout(Some(left(until)?))?;
        if let Some(port) = agent.vsock_port {
            shake_hands(&stream, port, until)?;
        }
        shut_down(stream, stop.patience_millis, until)
    }

    /// Says something to the VMM's own socket, and reads what it answers: who hangs up
    /// too early may not be heard.
    fn say(&self, words: &Words) -> io::Result<()> {
        let until = Instant::now() + WORDS_DEADLINE;
        let mut stream = self.connect(&words.socket)?;
        stream.set_write_timeout(Some(WORDS_DEADLINE))?;
        stream.set_read_timeout(Some(WORDS_DEADLINE))?;
        stream.write_all(words.text.as_bytes())?;
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while heard.len() < ANSWER_MAX && !says(&heard, &words.until, words.answers) {
            stream.set_read_timeout(Some(left(until)?))?;
            match stream.read(&mut buffer)? {
                0 => break,
                count => heard.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(())
    }

    /// Connects to a socket of the VMM's. What is in its cage it may have replaced: nothing is
    /// followed there, and it is done with its own rights, so nothing is gained by that.
    fn connect(&self, name: &str) -> io::Result<UnixStream> {
        crate::setup::check_name(name)
            .map_err(|failure| io::Error::new(io::ErrorKind::InvalidInput, failure.detail))?;
        let Some(cage) = &self.cage else {
            return UnixStream::connect(name);
        };
        let _as_vmm = self.user.map(AsUser::new);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::openat(cage, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) != FileType::Socket {
            return Err(io::Error::other(format!("{name} is not a socket")));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))
    }
}

/// Whether an answer is complete: the mark has come so many times.
fn says(heard: &[u8], mark: &str, times: usize) -> bool {
    let text = String::from_utf8_lossy(heard);
    text.matches(mark).count() >= times
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// This thread looks at files as another user, until it is dropped.
struct AsUser;

impl AsUser {
    fn new(user: u32) -> Self {
        set_file_ids(user);
        Self
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        set_file_ids(rustix::process::geteuid().as_raw());
    }
}

fn set_file_ids(id: u32) {
    // SAFETY: both calls take plain numbers and change the calling thread's view of files
    // only. They have no failure that matters: without the right nothing changes, and then
    // opening fails.
    unsafe {
        libc::setfsgid(id);
        libc::setfsuid(id);
    }
}

/// Asks a VMM for a connection to a port of its guest, and waits for its `OK`: hanging up
/// before that is taken badly by some.
fn shake_hands(mut stream: &UnixStream, port: u32, until: Instant) -> io::Result<()> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    // Byte by byte: what follows the line is the guest's.
    while answer.last() != Some(&b'\n') {
        left(until)?;
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Ok(_) if answer.len() < OK_MAX => answer.push(byte[0]),
            Ok(_) => return Err(io::Error::other("the answer to CONNECT has no end")),
            Err(error) if waits(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if answer.starts_with(b"OK ") {
        Ok(())
    } else {
        Err(io::Error::other("CONNECT was refused"))
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Asks the agent; returns when it has agreed.
fn shut_down(mut stream: UnixStream, timeout_ms: u64, until: Instant) -> io::Result<()> {
    let mut mux = Mux::host(random()? | 1);
    let hello = Hello {
        protocol: PROTOCOL,
        nonce: random()?,
    };
    let request = Request::Shutdown {
        timeout_ms,
        kind: ShutdownKind::Poweroff,
    };
    let request = serde_json::to_vec(&request)?;
    let (mut greetings, mut asked) = (0, None);
    let mut greet_at = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        if asked.is_none() && Instant::now() >= greet_at {
            let flush = greetings % FLUSH_EVERY == FLUSH_EVERY - 1;
            mux.hello(&hello, flush).map_err(io::Error::other)?;
            greetings += 1;
            greet_at = Instant::now() + HELLO_EVERY;
        }
        while !mux.output().is_empty() {
            let count = stream.write(mux.output())?;
            mux.sent(count);
        }
        left(until)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => mux.receive(&buffer[..count]),
            Err(error) if waits(&error) => {}
            Err(error) => return Err(error),
        }
        while let Some(event) = mux.next_event() {
            match event {
                MuxEvent::Established(ack) if asked.is_none() && ack.nonce == hello.nonce => {
                    asked = Some(mux.open(&request).map_err(io::Error::other)?);
                }
                MuxEvent::Control { stream, payload } if Some(stream) == asked => {
                    return match serde_json::from_slice(&payload)? {
                        StreamReply::Done { .. } => Ok(()),
                        _ => Err(io::Error::other("it answered something else")),
                    };
                }
                MuxEvent::Reset { stream, error } if Some(stream) == asked => {
                    return Err(io::Error::other(error.message));
                }
                MuxEvent::Closed { stream } if Some(stream) == asked => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                _ => {}
            }
        }
    }
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Asks systemd in a thread of its own, beside the guest: which of them answers first must not
/// matter to the other.
fn ask_systemd(systemctl: &'static str, teller: &Sender<News>) {
    let told = teller.clone();
    let asking = move || {
        if host_goes_down(systemctl) {
            drop(told.send(News::HostDown));
        }
    };
    let thread = std::thread::Builder::new().name("systemd".to_owned());
    if let Err(error) = thread.spawn(asking) {
        let line = format!("nobody can ask systemd whether the host goes down: {error}");
        drop(teller.send(News::Line(line)));
    }
}

/// Whether systemd is taking the host down: its state is `stopping` from the moment that
/// the shutdown is decided (`systemctl(1)`, `is-system-running`). No answer means no.
fn host_goes_down(systemctl: &str) -> bool {
    let asked = Command::new(systemctl)
        .arg("is-system-running")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = asked else {
        return false;
    };
    let answer = child.stdout.take().and_then(first_words);
    // It may have ended by itself.
    drop(child.kill());
    drop(child.wait());
    answer.is_some_and(|answer| answer.starts_with(b"stopping"))
}

/// What is said first, if anything is in time.
fn first_words(mut from: std::process::ChildStdout) -> Option<Vec<u8>> {
    let until = rustix::event::Timespec {
        tv_sec: SYSTEMD_DEADLINE.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut waiting = [rustix::event::PollFd::new(
        &from,
        rustix::event::PollFlags::IN,
    )];
    if rustix::event::poll(&mut waiting, Some(&until)).ok()? == 0 {
        return None;
    }
    let mut words = [0; 64];
    let count = from.read(&mut words).ok()?;
    Some(words[..count].to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use hearth_guest_proto::message::{HelloAck, Response};

    use super::*;

    /// A guest that answers the third greeting, and says what it was asked.
    fn guest(mut stream: UnixStream) -> (Request, u32) {
        let mut mux = Mux::guest();
        let mut greetings = 0;
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).unwrap();
            mux.receive(&buffer[..count]);
            while let Some(event) = mux.next_event() {
                match event {
                    MuxEvent::Hello { hello, .. } => {
                        greetings += 1;
                        if greetings >= 3 {
                            let ack = HelloAck {
                                protocol: PROTOCOL,
                                nonce: hello.nonce,
                                vm_id: String::new(),
                                boot_nonce: String::new(),
                                agent_version: String::new(),
                            };
                            mux.acknowledge(&ack).unwrap();
                        }
                    }
                    MuxEvent::Opened {
                        stream: id,
                        request,
                    } => {
                        let done = StreamReply::Done {
                            response: Response::Ok,
                        };
                        mux.control(id, &serde_json::to_vec(&done).unwrap())
                            .unwrap();
                        stream.write_all(mux.output()).unwrap();
                        return (serde_json::from_slice(&request).unwrap(), greetings);
                    }
                    _ => {}
                }
            }
            let count = mux.output().len();
            stream.write_all(mux.output()).unwrap();
            mux.sent(count);
        }
    }

    #[test]
    fn a_guest_that_is_slow_to_answer_agrees_in_the_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let guest = std::thread::spawn(move || guest(theirs));
        ours.set_read_timeout(Some(HELLO_EVERY)).unwrap();
        shut_down(ours, 7000, Instant::now() + Duration::from_secs(30)).unwrap();
        let (request, greetings) = guest.join().unwrap();
        assert_eq!(
            request,
            Request::Shutdown {
                timeout_ms: 7000,
                kind: ShutdownKind::Poweroff
            }
        );
        assert!(greetings >= 3);
    }

    #[test]
    fn a_guest_that_does_not_answer_is_given_up_at_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let given_up = shut_down(ours, 1, Instant::now() + Duration::from_millis(30));
        assert_eq!(given_up.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// A program that stands in for systemctl.
    fn systemctl(dir: &tempfile::TempDir, says: &str) -> &'static str {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.path().join("systemctl");
        std::fs::write(&path, format!("#!/bin/sh\n{says}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned().leak()
    }

    #[test]
    fn systemd_is_asked_beside_the_guest_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        // A pipe that nobody writes to: it never answers.
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let silent = systemctl(&dir, &format!("read -r answer < {}", fifo.display()));
        let (teller, news) = std::sync::mpsc::channel();
        ask_systemd(silent, &teller);
        drop(teller);
        // The caller has come back although nothing was answered; the thread ends by its deadline.
        assert!(matches!(
            news.try_recv(),
            Err(std::sync::mpsc::TryRecvError::Empty)
        ));
        news.recv().unwrap_err();
        let (teller, news) = std::sync::mpsc::channel();
        ask_systemd(systemctl(&dir, "echo stopping; exit 1"), &teller);
        assert!(matches!(news.recv(), Ok(News::HostDown)));
        assert!(!host_goes_down(systemctl(&dir, "echo running")));
        assert!(!host_goes_down("/nonexistent/systemctl"));
    }

    #[test]
    fn words_are_said_and_the_answer_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("vmm.sock")).unwrap();
        let vmm = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).unwrap();
            stream.write_all(b"ok\n").unwrap();
            stream.write_all(b"ok\n").unwrap();
            heard
        });
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cage = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
        let asking = Asking {
            cage: Some(cage),
            user: None,
        };
        let mut words = Words {
            name: "hello".to_owned(),
            socket: "vmm.sock".to_owned(),
            text: "hello".to_owned(),
            until: "ok".to_owned(),
            answers: 2,
        };
        asking.say(&words).unwrap();
        assert_eq!(&vmm.join().unwrap(), b"hello");
        words.socket = "../vmm.sock".to_owned();
        assert_eq!(
            asking.say(&words).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn what_is_no_socket_is_not_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let _listener = UnixListener::bind(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cage = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
        let asking = Asking {
            cage: Some(cage),
            user: None,
        };
        asking.connect("real").unwrap();
        asking.connect("file").unwrap_err();
        asking.connect("link").unwrap_err();
    }
}
