//! How far a pull or import is, told to whoever asked for it.

use hearth_types::api::Progress;
use tokio::sync::mpsc;

/// Receives what happens during a pull or import: `Stage` and `Item` only.
pub trait ProgressSink: Send + Sync {
    /// Takes one report. Must not block.
    fn report(&self, progress: Progress);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn report(&self, _: Progress) {}
}

/// The sending half that workers on other threads own; reports after the asker has gone are
/// dropped.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(Option<mpsc::UnboundedSender<Progress>>);

impl Reporter {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Progress>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// A reporter that nobody listens to.
    pub(crate) fn silent() -> Self {
        Self(None)
    }

    pub(crate) fn stage(&self, message: impl Into<String>) {
        self.send(Progress::Stage {
            message: message.into(),
        });
    }

    pub(crate) fn item(&self, id: &str, state: &str, done: u64, total: Option<u64>) {
        self.send(Progress::Item {
            id: id.to_owned(),
            state: state.to_owned(),
            done,
            total,
        });
    }

    fn send(&self, progress: Progress) {
        if let Some(sender) = &self.0 {
            drop(sender.send(progress));
        }
    }
}

/// Runs `work` and hands every report to `sink` meanwhile, the last ones included.
pub(crate) async fn relay<T>(
    work: impl Future<Output = T>,
    mut reports: mpsc::UnboundedReceiver<Progress>,
    sink: &dyn ProgressSink,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            Some(report) = reports.recv() => sink.report(report),
            result = &mut work => {
                while let Ok(report) = reports.try_recv() {
                    sink.report(report);
                }
                return result;
            }
        }
    }
}
