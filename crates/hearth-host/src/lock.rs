//! A lock file: one process at a time owns a data folder.
//!
//! The lock is the kernel's (`flock`), so it ends with its holder however that ends. The
//! content only tells people who the holder is; without the lock it means nothing.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The most that is read of a lock file: what we write is far shorter, others' is ignored.
const MAX_CONTENT: u64 = 64 * 1024;

/// Who holds a lock, as it wrote itself down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Since when.
    pub since: Timestamp,
    /// Its program and arguments.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} ({}) since {:.0}",
            self.pid, self.command, self.since
        )
    }
}

/// A lock that was not obtained.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{path} is locked by {}: stop it first, or use another data folder",
        holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string)
    )]
    Held {
        /// The lock file.
        path: Utf8PathBuf,
        /// Who has it; `None` if it has not written itself down.
        holder: Option<Holder>,
    },
    /// The file system refused.
    #[error("cannot {what} the lock file {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A lock that is held; dropping it lets go. The file stays: removing it would let two
/// processes lock two files of the same name.
#[derive(Debug)]
#[must_use = "dropping it lets go of the lock"]
pub struct LockFile {
    file: File,
    path: Utf8PathBuf,
}

impl LockFile {
    /// Takes the lock and writes down who has it, or says at once who else does.
    ///
    /// # Errors
    /// [`LockError::Held`]; [`LockError::Io`] if the file cannot be made, locked or written.
    pub fn acquire(path: &Utf8Path, since: Timestamp) -> Result<Self, LockError> {
        let io = |what| {
            move |source| LockError::Io {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .map_err(io("open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    path: path.to_owned(),
                    holder: read_holder(&mut file),
                });
            }
            Err(errno) => return Err(io("lock")(errno.into())),
        }
        write_holder(&mut file, since).map_err(io("write"))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Takes the lock of a file that may be there, without waiting and without a word in it;
    /// `None` when there is no such file.
    ///
    /// # Errors
    /// [`LockError::Held`]; [`LockError::Io`] if it cannot be opened (a symbolic link is not
    /// followed) or locked.
    pub fn of_existing(path: &Utf8Path) -> Result<Option<Self>, LockError> {
        let io = |what| {
            move |source| LockError::Io {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        let mut file = match opened {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io("open"))?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self {
                file,
                path: path.to_owned(),
            })),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held {
                path: path.to_owned(),
                holder: read_holder(&mut file),
            }),
            Err(errno) => Err(io("lock")(errno.into())),
        }
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// The locked file, for a child that shall share the lock.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn write_holder(file: &mut File, since: Timestamp) -> std::io::Result<()> {
    let command: Vec<_> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let holder = Holder {
        pid: std::process::id(),
        since,
        command: command.join(" "),
    };
    let mut text = serde_json::to_vec(&holder)?;
    text.push(b'\n');
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&text)
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = Vec::new();
    file.take(MAX_CONTENT).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests;
