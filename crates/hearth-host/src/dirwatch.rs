//! Waiting for changes in a folder, by inotify.

use std::io;
use std::mem::MaybeUninit;

use camino::Utf8Path;
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Watches one folder for files that are written, made or renamed in it.
#[derive(Debug)]
pub struct DirWatch {
    events: AsyncFd<OwnedFd>,
}

impl DirWatch {
    /// Begins to watch. A folder that is not there is never heard of: ask again later.
    ///
    /// # Errors
    /// When the kernel has no watch left for this user (`fs.inotify.max_user_watches`).
    pub fn new(folder: &Utf8Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let wanted = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        match inotify::add_watch(&fd, folder.as_str(), wanted) {
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        // SAFETY: an `OwnedFd` keeps its descriptor open until it is dropped, and the
        // registration owns it.
        let events = unsafe { AsyncFd::register(fd) }?;
        Ok(Self { events })
    }

    /// Returns when something has changed since the last call.
    ///
    /// # Errors
    /// When the runtime is ending.
    pub async fn changed(&self) -> io::Result<()> {
        let mut ready = self.events.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.events.get_ref(), &mut buffer);
        // Which files changed does not matter: the caller looks at the ones it knows.
        while reader.next().is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap();
        let watch = DirWatch::new(path).unwrap();
        std::fs::write(path.join("file"), "x").unwrap();
        watch.changed().await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_folder_is_no_error() {
        assert!(DirWatch::new(Utf8Path::new("/no/such/folder")).is_ok());
    }
}
