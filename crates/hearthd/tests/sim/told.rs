//! What was logged, as those see it who read logs: the message, its own fields, and those of
//! the spans around it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use super::world::LIMIT;

/// How often the lines are looked at, in virtual time.
const LOOK: Duration = Duration::from_millis(10);

/// One line's fields; the message is one of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Line(BTreeMap<String, String>);

impl Line {
    /// A field, empty if there is none.
    pub(super) fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

/// Everything that this thread logs while it is kept.
pub(super) struct Told {
    lines: Arc<Mutex<Vec<Line>>>,
    _guard: DefaultGuard,
}

struct Listener(Arc<Mutex<Vec<Line>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut line = Line::default();
        attributes.record(&mut line);
        context.span(id).unwrap().extensions_mut().insert(line);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Line::default();
        for span in context.event_scope(event).into_iter().flatten() {
            let extensions = span.extensions();
            line.0.extend(extensions.get::<Line>().unwrap().0.clone());
        }
        event.record(&mut line);
        self.0.lock().push(line);
    }
}

impl Told {
    /// Listens from now on.
    pub(super) fn listen() -> Self {
        let lines = Arc::default();
        let listener = Listener(Arc::clone(&lines));
        let subscriber = tracing_subscriber::registry().with(listener);
        Self {
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The lines with this message.
    pub(super) fn of(&self, message: &str) -> Vec<Line> {
        let lines = self.lines.lock();
        let found = lines.iter().filter(|line| line.field("message") == message);
        found.cloned().collect()
    }

    /// Waits until this is what was told of a VM's recovery, word for word: a line follows
    /// what it tells.
    #[track_caller]
    pub(super) fn hears(&self, vm: &str, expected: &[&str]) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            let waited = tokio::time::timeout(LIMIT, async {
                while self.story(vm).len() < expected.len() {
                    tokio::time::sleep(LOOK).await;
                }
            });
            drop(waited.await);
            assert_eq!(self.story(vm), expected, "{caller}");
        }
    }

    /// The messages of a VM's recovery in their order.
    pub(super) fn story(&self, vm: &str) -> Vec<String> {
        let lines = self.lines.lock();
        let of_vm = lines.iter().filter(|line| line.field("vm_name") == vm);
        of_vm
            .map(|line| line.field("message").to_owned())
            .filter(|message| {
                message == "orphaned vm detected"
                    || message == "attempting vm recovery"
                    || message.starts_with("vm recover")
            })
            .collect()
    }
}
