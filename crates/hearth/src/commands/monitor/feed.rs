//! What the daemon tells: overviews, asked for; events, as they happen; orphans, now and then.
//!
//! ```text
//!              ┌── answered ── interval ──┐
//!  overviews ──┤                          ├──► asked again
//!              └── failed ──── back-off ──┘         (`look` cuts either short)
//!  events ── stream from where the last one ended; taken up again when an overview was answered
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use hearth_client::{Client, ClientError};
use hearth_monitor::News;
use hearth_types::ids::EventSeq;

/// News that wait to be taken in; who brings more waits, too.
const QUEUE: usize = 256;
/// Events from before the start that are shown.
const TAIL: u64 = 200;
/// A daemon that takes longer does not answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between tries to reach it: doubled each time, up to the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// The host is surveyed for orphans no more often by itself.
const ORPHANS: Duration = Duration::from_secs(60);

/// The tasks that ask, and what they bring. They end with it.
#[derive(Debug)]
pub(super) struct Feed {
    news: mpsc::Receiver<News>,
    look: Arc<Notify>,
    look_for_orphans: Arc<Notify>,
    tasks: JoinSet<()>,
    /// What the person has asked for, and the daemon has not answered.
    requests: JoinSet<Result<String, String>>,
}

/// The event after which the shown ones begin.
pub(super) fn tail_after(last: EventSeq) -> EventSeq {
    EventSeq(last.0.saturating_sub(TAIL))
}

impl Feed {
    /// Begins to ask.
    pub(super) fn start(client: &Client, interval: Duration) -> Self {
        let (sender, news) = mpsc::channel(QUEUE);
        let look = Arc::new(Notify::new());
        let look_for_orphans = Arc::new(Notify::new());
        // The newest event, each time the daemon has answered.
        let (answered, heard) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let asker = Asker {
            client: client.clone(),
            news: sender,
        };
        tasks.spawn(overviews(asker.clone(), interval, look.clone(), answered));
        tasks.spawn(events(asker.clone(), heard.clone()));
        tasks.spawn(orphans(asker, look_for_orphans.clone(), heard));
        Self {
            news,
            look,
            look_for_orphans,
            tasks,
            requests: JoinSet::new(),
        }
    }

    /// What became known next. A task's panic is ours: it has given the terminal back already.
    pub(super) async fn next(&mut self) -> News {
        loop {
            tokio::select! {
                // The askers hold senders until all of it ends.
                Some(news) = self.news.recv() => return news,
                Some(done) = self.requests.join_next() => {
                    if let Some(done) = unless_panicked(done) {
                        self.look();
                        return News::Acted(done);
                    }
                }
                Some(ended) = self.tasks.join_next() => drop(unless_panicked(ended)),
                else => return News::Tick,
            }
        }
    }

    /// What is known and was not taken in.
    pub(super) fn ready(&mut self) -> Option<News> {
        self.news.try_recv().ok()
    }

    /// Asks now.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// Asks for orphans now.
    pub(super) fn look_for_orphans(&self) {
        self.look_for_orphans.notify_one();
    }

    /// What came of a request is told when it is done; then it is looked again.
    pub(super) fn tell_when_done(
        &mut self,
        asked: impl Future<Output = Result<String, String>> + Send + 'static,
    ) {
        self.requests.spawn(asked);
    }

    /// Who leaves has what was asked for done all the same: waits for the daemon's answers, and says what
    /// was refused.
    pub(super) async fn finish(&mut self) -> Vec<String> {
        let mut refused = Vec::new();
        let answers = async {
            while let Some(done) = self.requests.join_next().await {
                refused.extend(unless_panicked(done).and_then(Result::err));
            }
        };
        if tokio::time::timeout(DEADLINE, answers).await.is_err() {
            refused.push("the daemon did not answer in time: see hearth events".to_owned());
        }
        refused
    }
}

/// `None`: it was cancelled.
fn unless_panicked<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(done) => Some(done),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_cancelled)) => None,
    }
}

#[derive(Debug, Clone)]
struct Asker {
    client: Client,
    news: mpsc::Sender<News>,
}

impl Asker {
    /// Nobody listens any more only when all of it ends.
    async fn tell(&self, news: News) {
        drop(self.news.send(news).await);
    }
}

async fn overviews(
    asker: Asker,
    interval: Duration,
    look: Arc<Notify>,
    answered: watch::Sender<Option<EventSeq>>,
) {
    let mut back_off = BACK_OFF.0;
    loop {
        let asked = tokio::time::timeout(DEADLINE, asker.client.overview()).await;
        let pause = match asked {
            Ok(Ok(overview)) => {
                back_off = BACK_OFF.0;
                answered.send_replace(Some(overview.last_event));
                asker.tell(News::Overview(Box::new(overview))).await;
                interval
            }
            failed => {
                let why = match &failed {
                    Ok(Err(error)) => no_overview(error),
                    _ => format!("No answer in {} s", DEADLINE.as_secs()),
                };
                let pause = back_off;
                back_off = (back_off * 2).min(BACK_OFF.1);
                let wait = SignedDuration::try_from(pause).unwrap_or_default();
                let again = Timestamp::now().checked_add(wait).unwrap_or_default();
                asker.tell(News::Lost { why, again }).await;
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = look.notified() => {}
        }
    }
}

fn no_overview(error: &ClientError) -> String {
    if error.is_not_found() {
        return "This hearthd is older than the dashboard and has no overview".to_owned();
    }
    super::why(error)
}

async fn events(asker: Asker, mut heard: watch::Receiver<Option<EventSeq>>) {
    let mut last = None;
    loop {
        // A daemon that does not answer is asked by one task only.
        if heard.changed().await.is_err() {
            return;
        }
        let Some(newest) = *heard.borrow_and_update() else {
            continue;
        };
        // A database that was restored counts anew.
        let after = match last {
            Some(last) if last <= newest => last,
            _ => tail_after(newest),
        };
        last = Some(after);
        // Why it ended is told by what asks for overviews.
        drop(follow(&asker, &mut last).await);
    }
}

async fn follow(asker: &Asker, last: &mut Option<EventSeq>) -> Result<(), ClientError> {
    let mut events = pin!(asker.client.follow_events(*last).await?);
    while let Some(event) = events.try_next().await? {
        *last = Some(event.seq);
        asker.tell(News::Event(Box::new(event))).await;
    }
    Ok(())
}

async fn orphans(asker: Asker, asked: Arc<Notify>, mut heard: watch::Receiver<Option<EventSeq>>) {
    loop {
        if heard.changed().await.is_err() {
            return;
        }
        match asker.client.orphans().await {
            Ok(list) => asker.tell(News::Orphans(list)).await,
            // A daemon that has gone is told of already.
            Err(error) if error.is_connection() => {}
            Err(error) => {
                let text = format!("Orphans are not known: {}", super::why(&error));
                asker.tell(News::Acted(Err(text))).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ORPHANS) => {}
            () = asked.notified() => {}
        }
    }
}
