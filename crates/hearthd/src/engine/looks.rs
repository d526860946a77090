//! Looks at the host that end: one that takes too long is "unknown", and none of its kind is
//! begun while it goes on.
//!
//! The kernel can hold up a read of `/proc`, a netlink dump or a folder's listing for as long as it
//! likes. The thread that reads cannot be ended, but nobody has to wait for it, and no second
//! one has to wait beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_types::Survey;
use parking_lot::Mutex;

/// How long a look may take; as long as a tool that looks may.
pub(super) const LOOK_DEADLINE: Duration = Duration::from_secs(20);

/// Looks that have overrun their deadline and go on, by kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Looks(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Looks {
    /// Looks in a task of its own, for [`LOOK_DEADLINE`] at the longest.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        kind: &'static str,
        looking: impl Future<Output = Survey<T>> + Send + 'static,
    ) -> Survey<T> {
        if self.0.lock().contains_key(kind) {
            let why = "an earlier look at them has not ended; the kernel may hold it up";
            return Survey::Unknown(why.to_owned());
        }
        let mut looking = tokio::spawn(looking);
        match tokio::time::timeout(LOOK_DEADLINE, &mut looking).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => Survey::Unknown(format!("the look did not end well: {error}")),
            Err(_) => {
                *self.0.lock().entry(kind).or_default() += 1;
                let looks = self.clone();
                tokio::spawn(async move {
                    // Nobody wants any more what it has seen.
                    drop(looking.await);
                    looks.ended(kind);
                });
                let seconds = LOOK_DEADLINE.as_secs();
                Survey::Unknown(format!("the look took longer than {seconds} s"))
            }
        }
    }

    fn ended(&self, kind: &'static str) {
        let mut overdue = self.0.lock();
        if let Some(count) = overdue.get_mut(kind) {
            *count -= 1;
            if *count == 0 {
                overdue.remove(kind);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_given_up_and_not_begun_again_until_it_ends() {
        let looks = Looks::default();
        let (go_on, held) = tokio::sync::oneshot::channel::<()>();
        let hangs = looks.look("taps", async move {
            drop(held.await);
            Survey::Known(1)
        });
        let began = tokio::time::Instant::now();
        assert!(hangs.await.known().is_none());
        assert_eq!(began.elapsed(), LOOK_DEADLINE);
        let began_again = async { panic!("it is not begun again") };
        let again: Survey<i32> = looks.look("taps", began_again).await;
        assert!(again.known().is_none());
        let other = looks.look("rules", async { Survey::Known(2) }).await;
        assert_eq!(other.known(), Some(&2), "each kind has its own");
        go_on.send(()).unwrap();
        // Its task ends it as soon as it can.
        while !looks.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let well = looks.look("taps", async { Survey::Known(3) }).await;
        assert_eq!(well.known(), Some(&3));
        let wrong = looks.look::<i32>("taps", async { panic!("as a bug does") });
        assert!(wrong.await.known().is_none());
    }
}
