//! A guest that is booted once to see what the host can do.
//!
//! The boot is a task of its own: whoever asks meanwhile waits for the same answer and holds no lock, and
//! a caller that goes away leaves nothing half done. Its end has a deadline: a process that hangs in
//! the kernel does not die of a SIGKILL.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8Path;
use hearth_types::process::ProcessIdentity;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Signal;
use tokio::sync::watch;

/// What the folders of probes begin with; the probe's id follows.
pub(crate) const FOLDER: &str = "kvm-probe-";
/// How long a guest that was killed may take to be dead: it is small.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// The probe that runs, or ran last.
#[derive(Debug)]
pub(crate) struct Probing<K, T>(Mutex<Option<(K, watch::Receiver<Option<T>>)>>);

impl<K, T> Default for Probing<K, T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<K: Clone + PartialEq, T: Clone + Send + Sync + 'static> Probing<K, T> {
    /// Waits for the answer to `key`; `probe` finds it out unless that is being done already.
    /// `None` if the probe was interrupted.
    pub(crate) async fn run(
        &self,
        key: &K,
        probe: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mut answer = self.begin(key, probe);
        let answer = answer.wait_for(Option::is_some).await;
        answer.ok().and_then(|answer| answer.clone())
    }

    fn begin(
        &self,
        key: &K,
        probe: impl Future<Output = T> + Send + 'static,
    ) -> watch::Receiver<Option<T>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, answer)) = &*running
            && of == key
            && (answer.borrow().is_some() || answer.has_changed().is_ok())
        {
            return answer.clone();
        }
        let (told, answer) = watch::channel(None);
        tokio::spawn(async move { told.send_replace(Some(probe.await)) });
        *running = Some((key.clone(), answer.clone()));
        answer
    }
}

/// Kills a probe's guest and waits for its end.
///
/// # Errors
/// That it does not die, for people.
pub(crate) async fn kill(identity: &ProcessIdentity) -> Result<(), String> {
    use hearth_host::process::{NotProven, prove};
    let proven = match prove(identity) {
        Ok(proven) => proven,
        Err(NotProven::Gone | NotProven::Different { .. }) => return Ok(()),
        Err(error) => return Err(hearth_types::survey::chain(&error)),
    };
    let ended = async {
        proven
            .signal(Signal::KILL)
            .map_err(|error| error.to_string())?;
        let dead = proven.wait_dead(END_PATIENCE).await;
        dead.map_err(|error| hearth_types::survey::chain(&error))
    };
    ended.await.map_err(|why| {
        format!(
            "the probe's guest (pid {}) hangs and does not die: {why}",
            identity.pid
        )
    })
}

/// Removes what probes of an earlier daemon have left in this folder. A probe whose guest lives
/// holds its lock, and stays.
pub fn sweep(folder: &Utf8Path) {
    let Ok(entries) = folder.read_dir_utf8() else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if !entry.file_name().starts_with(FOLDER) || is_locked(path) {
            continue;
        }
        match std::fs::remove_dir_all(path) {
            Ok(()) => tracing::info!(%path, "what a KVM probe had left is removed"),
            Err(error) => {
                tracing::warn!(%path, %error, "what a KVM probe has left cannot be removed");
            }
        }
    }
}

fn is_locked(dir: &Utf8Path) -> bool {
    let path = dir.join(hearth_shim::LOCK);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::open(path.as_std_path(), flags, Mode::empty()) {
        Ok(file) => rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_err(),
        Err(error) => error != rustix::io::Errno::NOENT,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hearth_types::{InstallationId, OwnerMark, VmId};
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn one_probe_serves_all_and_outlives_who_asked() {
        let probing = Arc::new(Probing::<u32, u32>::default());
        let gate = Arc::new(Semaphore::new(0));
        let booted = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let ask = || {
            let (probing, gate, booted) = (probing.clone(), gate.clone(), booted.clone());
            async move {
                let probe = async move {
                    drop(gate.acquire().await);
                    booted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1
                };
                probing.run(&7, probe).await
            }
        };
        let first = tokio::spawn(ask());
        tokio::task::yield_now().await;
        first.abort();
        drop(first.await);
        let (second, third) = (tokio::spawn(ask()), tokio::spawn(ask()));
        tokio::task::yield_now().await;
        gate.add_permits(1);
        assert_eq!(second.await.unwrap(), Some(1));
        assert_eq!(third.await.unwrap(), Some(1));
        let interrupted = probing.run(&8, async { panic!("as a bug does") }).await;
        assert_eq!(interrupted, None);
        assert_eq!(probing.run(&8, async { 2 }).await, Some(2), "tried again");
    }

    #[tokio::test]
    async fn a_guest_that_is_gone_need_not_be_killed() {
        let vm = VmId::new();
        let gone = ProcessIdentity {
            boot_id: crate::boot_id(),
            pid: i32::MAX,
            start_time: 1,
            exe: "/none".into(),
            mark: OwnerMark::of_vm(InstallationId::new(), vm),
        };
        kill(&gone).await.unwrap();
    }

    #[test]
    fn what_nobody_holds_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let make = |name: &str| {
            let path = root.join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("initrd"), "").unwrap();
            path
        };
        let (bare, left) = (make("kvm-probe-1"), make("kvm-probe-2"));
        let (held, other) = (make("kvm-probe-3"), make("vms"));
        std::fs::write(left.join(hearth_shim::LOCK), "").unwrap();
        let lock = std::fs::File::create(held.join(hearth_shim::LOCK)).unwrap();
        lock.lock().unwrap();
        sweep(root);
        assert!(!bare.exists() && !left.exists());
        assert!(held.exists() && other.exists());
        drop(lock);
        sweep(root);
        assert!(!held.exists());
    }
}
