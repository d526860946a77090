//! Places where a test can end the daemon as `kill -9` would: before and after every
//! journaled effect. Compiled to nothing without the feature `failpoints`.
//!
//! `HEARTH_FAILPOINT=before:start_vmm` (or `after:start_vmm`, `after:start_vmm:2` for the
//! second time it is reached).

/// Marks a place; ends the process with SIGKILL if a test asked for it.
#[cfg(feature = "failpoints")]
pub fn hit(side: &str, step: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SEEN: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("HEARTH_FAILPOINT") else {
        return;
    };
    let mut parts = wanted.split(':');
    if parts.next() != Some(side) || parts.next() != Some(step) {
        return;
    }
    let nth = parts.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    if SEEN.fetch_add(1, Ordering::SeqCst) + 1 == nth {
        tracing::warn!(side, step, "failpoint reached");
        drop(rustix::process::kill_process(
            rustix::process::getpid(),
            rustix::process::Signal::KILL,
        ));
    }
}

/// Marks a place; does nothing in this build.
#[cfg(not(feature = "failpoints"))]
pub const fn hit(_side: &str, _step: &str) {}
