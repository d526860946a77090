//! Work that blocks, where it holds up nobody.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

/// Does work that blocks for a moment on a thread for such work.
///
/// A runtime of one thread has no others to hold up for long: there it is done on the spot, so
/// that what a simulated daemon does follows from its seed alone. So the work must not wait for
/// another task.
///
/// # Errors
/// When the work panicked, or the runtime ended before it began.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Ok(work());
    }
    spawn_blocking(work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_does_it_itself_and_several_do_not() {
        let done_by = |mut builder: tokio::runtime::Builder| {
            let runtime = builder.build().expect("a runtime");
            let by = runtime.block_on(aside(|| std::thread::current().id()));
            by.expect("it is done")
        };
        let here = std::thread::current().id();
        assert_eq!(done_by(tokio::runtime::Builder::new_current_thread()), here);
        let mut several = tokio::runtime::Builder::new_multi_thread();
        several.worker_threads(1);
        assert_ne!(done_by(several), here);
    }
}
