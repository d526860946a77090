//! Where a VMM's sockets are: in its cage, which is reached through its process.
//!
//! ```text
//!   vmm.lock ──► pid, start time ──► /proc/<pid>/root/run ──► still that process? ──► socket
//! ```
//! The VMM may do in that folder what it wants, so nothing is followed there: what is
//! connected to is the very socket that was looked at.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::dirwatch::DirWatch;
use hearth_shim::{CAGE_RUN, LOCK, LockHolder};
use hearth_types::process::ProcessIdentity;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The API's socket within the cage's folder.
pub(super) const API_SOCKET: &str = "api.sock";
/// The socket behind the guest's vsock device. Connections that the guest makes go to this
/// name with `_<port>` at its end.
pub(super) const VSOCK_SOCKET: &str = "vsock.sock";
/// The pipe of the VMM's log.
pub(super) const LOG_PIPE: &str = "log";
/// The pipe of the VMM's figures.
pub(super) const METRICS_PIPE: &str = "metrics";
/// Longest lock file that is read, in bytes.
const LOCK_MAX: u64 = 16 << 10;
/// How long a handshake is waited for in all. A guest that boots takes a part of it, a VMM that
/// is stopped all of it.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);
/// Longest answer to a connection request on vsock, in bytes: `OK ` and a port.
const OK_MAX: usize = 32;

/// Who holds the lock of a VM's folder, or held it last.
pub(crate) fn holder(dir: &Utf8Path) -> io::Result<LockHolder> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(dir.join(LOCK))?
        .take(LOCK_MAX)
        .read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(Into::into)
}

/// The cage's folder of this folder's living VMM.
fn run_folder(dir: &Utf8Path) -> io::Result<OwnedFd> {
    let gone = || io::Error::new(io::ErrorKind::ConnectionRefused, "no VMM lives here");
    let vmm = holder(dir)?.vmm.ok_or_else(gone)?;
    let path = format!("/proc/{}/root/{CAGE_RUN}", vmm.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    // In this order: a process of that pid which came later would not be this one.
    if vmm.lives() { Ok(folder) } else { Err(gone()) }
}

/// Connects to a socket in the VMM's cage.
pub(super) async fn connect(dir: &Utf8Path, name: &str) -> io::Result<UnixStream> {
    let folder = run_folder(dir)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = openat(&folder, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&socket)?.st_mode) != FileType::Socket {
        return Err(io::Error::other(format!("{name} is not a socket")));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

/// Connects to the API of a VMM that is starting, as soon as it listens.
pub(super) async fn connect_when_ready(
    identity: &ProcessIdentity,
    dir: &Utf8Path,
) -> io::Result<UnixStream> {
    /// A socket is made and listened on in two steps, and nothing tells of the second.
    const BETWEEN: Duration = Duration::from_millis(1);
    let folder = Utf8PathBuf::from(format!("/proc/{}/root/{CAGE_RUN}", identity.pid));
    let watch = DirWatch::new(&folder)?;
    loop {
        match connect(dir, API_SOCKET).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => watch.changed().await?,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if !holder(dir)?.vmm.is_some_and(|vmm| vmm.lives()) {
                    return Err(error);
                }
                tokio::time::sleep(BETWEEN).await;
            }
            done => return done,
        }
    }
}

/// Opens a connection to a port of the guest. A handshake that was begun is waited for to
/// its end: Firecracker does not take it well when it is hung up on before its `OK`. So the
/// waiting goes on by itself when the caller loses patience, up to [`HANDSHAKE_MAX`]: the callers come
/// again and again, and each time with a new one.
pub(super) async fn connect_vsock(dir: &Utf8Path, port: u32) -> io::Result<UnixStream> {
    let stream = connect(dir, VSOCK_SOCKET).await?;
    let handshake = tokio::spawn(shake_hands_in_time(stream, port));
    handshake.await.map_err(io::Error::other)?
}

async fn shake_hands_in_time(stream: UnixStream, port: u32) -> io::Result<UnixStream> {
    let handshake = tokio::time::timeout(HANDSHAKE_MAX, shake_hands(stream, port));
    handshake.await.unwrap_or_else(|_| {
        let seconds = HANDSHAKE_MAX.as_secs();
        let words = format!("the VMM did not answer CONNECT within {seconds} s");
        Err(io::Error::new(io::ErrorKind::TimedOut, words))
    })
}

async fn shake_hands(mut stream: UnixStream, port: u32) -> io::Result<UnixStream> {
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the line is the guest's.
    while answer.last() != Some(&b'\n') {
        if answer.len() >= OK_MAX {
            return Err(io::Error::other("the answer to CONNECT has no end"));
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    format!("nobody in the guest listens on vsock port {port} yet"),
                ));
            }
            Err(error) => return Err(error),
        }
    }
    if answer.starts_with(b"OK ") {
        Ok(stream)
    } else {
        let answer = String::from_utf8_lossy(&answer);
        Err(io::Error::other(format!("CONNECT was answered {answer:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &[u8]) -> io::Result<UnixStream> {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let shaken = shake_hands(near, 52).await;
        let mut asked = [0; 11];
        far.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"CONNECT 52\n");
        shaken
    }

    #[tokio::test]
    async fn the_guests_bytes_begin_after_the_line() {
        let mut stream = answered(b"OK 1073741824\nhello").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        let nobody = answered(b"").await.unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::ConnectionRefused);
        assert!(answered(b"NO\n").await.is_err());
        assert!(answered(&[b'x'; 100]).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_vmm_that_never_answers_is_hung_up_on() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let handshake = tokio::spawn(shake_hands_in_time(near, 52));
        let error = handshake.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"CONNECT 52\n", "and the connection is closed");
    }

    #[tokio::test]
    async fn a_folder_without_a_vmm_has_no_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        assert!(connect(path, API_SOCKET).await.is_err());
        let dead = serde_json::json!({
            "shim": {"boot_id": "b", "pid": 1, "start_time": 1}, "since": jiff::Timestamp::now(),
            "vmm": {"boot_id": "another boot", "pid": std::process::id(), "start_time": 1},
        });
        std::fs::write(path.join(LOCK), dead.to_string()).unwrap();
        let error = connect(path, API_SOCKET).await.unwrap_err();
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ),
            "{error}"
        );
    }
}
