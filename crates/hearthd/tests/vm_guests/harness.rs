//! What the stories are told with.
//!
//! | file | holds |
//! | --- | --- |
//! | `tools` | what must be installed, and where our own programs are |
//! | `template` | an image and a kernel, imported once and copied for each host |
//! | `programs` | an image with a program of this host in it |
//! | `registry` | a real registry on the host's loopback |
//! | `cores` | where the kernel writes cores |
//! | `small_disk` | a file system of its own for the data folder |
//! | `strangers` | what looks like ours and is not |
//! | `netns` | a network namespace that goes with its value |
//! | `traces` | everything a host could have left behind |
//! | `host` | a host: namespace, data folder, daemon |
//! | `vm` | one VM and what one does with it |

pub(crate) mod cores;
mod host;
mod netns;
mod programs;
mod registry;
mod small_disk;
pub(crate) mod strangers;
mod template;
mod tools;
mod traces;
mod vm;

use std::future::Future;
use std::time::Duration;

pub(crate) use host::{Host, kill};
pub(crate) use registry::Registry;
pub(crate) use tools::{our_program, run};
pub(crate) use traces::{Traces, processes_of};
pub(crate) use vm::{Ran, Vm, request, spec, words};

/// How long anything may take that needs a guest to boot or to end: emulated, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `probe` gives a value.
///
/// # Panics
/// When it does not in time.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < until,
            "not after {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(LOOK).await;
    }
}
