//! Looks that may not come back. What changes something goes through the operation guard.
//!
//! Each is made on a thread of its own, never on one of the runtime's: a runtime that ends waits for
//! those. The turn goes with the call, so as long as one is in the kernel no other is begun.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use crate::error::PoolError;

/// Whose turn it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hands(Arc<Mutex<()>>);

impl Hands {
    /// Does work that may not come back, and waits for it this long, the wait for its turn
    /// included. Work that is late goes on, and what it finds is dropped.
    pub(crate) async fn take<T: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let begun = Instant::now();
        let stuck = || PoolError::Stuck {
            what,
            waited: deadline,
        };
        let turn = timeout(deadline, Arc::clone(&self.0).lock_owned())
            .await
            .map_err(|_| stuck())?;
        let (tell, told) = oneshot::channel();
        std::thread::Builder::new()
            .name("pool".to_owned())
            .spawn(move || {
                let done = work();
                drop(turn);
                // Nobody may be waiting any more.
                drop(tell.send(done));
            })
            .map_err(PoolError::io("make a thread for", what))?;
        timeout(deadline.saturating_sub(begun.elapsed()), told)
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn work_that_hangs_holds_up_its_kind_alone_and_only_for_its_deadline() {
        let (hands, others) = (Hands::default(), Hands::default());
        let (free, held) = std::sync::mpsc::channel::<()>();
        let hung = hands
            .take("a load", MOMENT, move || held.recv().is_ok())
            .await;
        assert!(matches!(hung, Err(PoolError::Stuck { what: "a load", .. })));
        let behind = hands.take("a look", MOMENT, || 1).await;
        assert!(matches!(
            behind,
            Err(PoolError::Stuck { what: "a look", .. })
        ));
        assert_eq!(others.take("a look", LONG, || 2).await.unwrap(), 2);
        // It comes back: the next one has its turn.
        free.send(()).unwrap();
        assert_eq!(hands.take("a look", LONG, || 3).await.unwrap(), 3);
    }
}
