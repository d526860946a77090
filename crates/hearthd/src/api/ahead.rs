//! What a client has sent and the guest has not taken yet.
//!
//! A guest that does not read holds up its input for ever. So the socket is read on beside the pending
//! write, up to a limit: that a client hangs up, signals or resizes is noticed all the same. Beyond
//! the limit the socket is not read any more, and pings tell whether anybody is still there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

/// How much may wait, in bytes; the largest message of a client is as long.
const AHEAD: usize = 1 << 20;
/// How often a client is pinged: only a write that fails tells that it has hung up while its
/// messages are not read.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Where the client's pieces go.
pub(super) struct Sender {
    room: Arc<Semaphore>,
    queue: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
}

/// Where they come from.
pub(super) struct Receiver {
    queue: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
    /// The room of the piece that is being written.
    taken: Option<OwnedSemaphorePermit>,
}

/// A queue with room for [`AHEAD`] bytes.
pub(super) fn channel() -> (Sender, Receiver) {
    let room = Arc::new(Semaphore::new(AHEAD));
    let (queue, pieces) = mpsc::unbounded_channel();
    let receiver = Receiver {
        queue: pieces,
        taken: None,
    };
    (Sender { room, queue }, receiver)
}

impl Sender {
    /// Waits for room. `false` when nobody takes it any more.
    pub(super) async fn send(&self, piece: Bytes) -> bool {
        let weight = u32::try_from(piece.len().clamp(1, AHEAD)).unwrap_or(u32::MAX);
        match Arc::clone(&self.room).acquire_many_owned(weight).await {
            Ok(permit) => self.queue.send((piece, permit)).is_ok(),
            Err(_) => false,
        }
    }
}

impl Receiver {
    /// The next piece; the one before has been written.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.taken = None;
        let (piece, permit) = self.queue.recv().await?;
        self.taken = Some(permit);
        Some(piece)
    }
}

/// Ticks when a client is to be pinged.
pub(super) fn pings() -> Interval {
    let mut pings = interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn pieces_wait_up_to_the_limit_and_make_room_once_they_are_written() {
        let (sender, mut receiver) = channel();
        let half = Bytes::from(vec![0; AHEAD / 2]);
        assert!(sender.send(half.clone()).await);
        assert!(sender.send(half.clone()).await, "nobody has taken any");
        assert!(
            sender
                .send(Bytes::from_static(b"x"))
                .now_or_never()
                .is_none()
        );
        assert_eq!(receiver.next().await.unwrap().len(), AHEAD / 2);
        assert!(
            sender.send(Bytes::new()).now_or_never().is_none(),
            "it is being written"
        );
        assert_eq!(receiver.next().await.unwrap().len(), AHEAD / 2);
        assert!(sender.send(half).await);
        drop(sender);
        assert!(receiver.next().await.is_some());
        assert!(receiver.next().await.is_none());
    }
}
