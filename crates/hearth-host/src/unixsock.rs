//! Unix sockets whose path is longer than the kernel's `sun_path`.
//!
//! `sun_path` holds 108 bytes. A longer path is reached through its folder: the folder is
//! opened and the socket is named `/proc/self/fd/<n>/<name>`, which always fits.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;

/// Longest path that is used as it is, in bytes. `sun_path` is 108 with its final zero
/// (`linux/un.h`); the rest is slack.
const DIRECT: usize = 100;

/// Connects to the socket `name` in the folder `dir`, whatever the length of the path.
///
/// # Errors
/// The error of opening the folder or of the connection; `InvalidInput` when `name` is not
/// a plain file name.
pub async fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    with_short_path(dir, name, async |path| UnixStream::connect(path).await).await
}

/// Calls `act` with a path to `name` in `dir` that fits into a socket address.
///
/// # Errors
/// As [`connect`], and what `act` returns.
pub async fn with_short_path<T>(
    dir: &Path,
    name: &str,
    act: impl AsyncFnOnce(PathBuf) -> io::Result<T>,
) -> io::Result<T> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not a file name"),
        ));
    }
    let path = dir.join(name);
    if path.as_os_str().len() <= DIRECT {
        return act(path).await;
    }
    let folder = rustix::fs::open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    act(PathBuf::from(format!(
        "/proc/self/fd/{}/{name}",
        folder.as_raw_fd()
    )))
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn short_and_long_paths_are_reached() {
        let root = tempfile::tempdir().unwrap();
        let long = root.path().join("x".repeat(120)).join("y".repeat(120));
        std::fs::create_dir_all(&long).unwrap();
        for dir in [root.path(), &long] {
            let listener = with_short_path(dir, "s.sock", async |path| UnixListener::bind(path))
                .await
                .unwrap();
            let mut client = connect(dir, "s.sock").await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            server.write_all(b"hi").await.unwrap();
            drop(server);
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hi");
        }
    }

    #[tokio::test]
    async fn names_do_not_leave_the_folder() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../x", "a/b"] {
            let error = connect(root.path(), name).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        let error = connect(root.path(), "absent").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
