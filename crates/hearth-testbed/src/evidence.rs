//! What a run shows in the end: promises that held, figures, events, facts of the host.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: String,
}

/// Something that happened to the host.
#[derive(Debug, Clone, Serialize)]
pub struct Happening {
    /// Seconds since the run began.
    pub at: f64,
    /// What.
    pub what: String,
}

/// The file `target/testbed/NAME.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// What it is there to show.
    pub proves: String,
    /// `passed` or `failed`.
    pub outcome: String,
    /// Why it failed.
    pub error: Option<String>,
    /// When it began.
    pub began: jiff::Timestamp,
    /// How long it took, boot included.
    pub seconds: f64,
    /// What has been shown, in the order in which it was.
    pub promises: Vec<String>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What happened to the host.
    pub events: Vec<Happening>,
    /// Versions and other facts of the host.
    pub host: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Inner {
    begun: Instant,
    promises: Vec<String>,
    figures: Vec<Figure>,
    events: Vec<Happening>,
    facts: BTreeMap<String, String>,
}

/// What a run has shown so far. Shared with the threads of a scenario.
#[derive(Debug)]
pub struct Evidence(Mutex<Inner>);

impl Default for Evidence {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            begun: Instant::now(),
            promises: Vec::new(),
            figures: Vec::new(),
            events: Vec::new(),
            facts: BTreeMap::new(),
        }))
    }
}

impl Evidence {
    /// A promise that has just been seen to hold.
    pub fn promise(&self, text: &str) {
        say(&format!("  ✓ {text}"));
        self.with(|inner| inner.promises.push(text.to_owned()));
    }

    /// A figure.
    pub fn measure(&self, name: &str, value: f64, unit: &str) {
        say(&format!("    {name}: {value:.1} {unit}"));
        self.with(|inner| {
            inner.figures.push(Figure {
                name: name.to_owned(),
                value,
                unit: unit.to_owned(),
            });
        });
    }

    /// Something that happened to the host.
    pub fn event(&self, what: &str) {
        say(&format!("  · {what}"));
        self.with(|inner| {
            let at = inner.begun.elapsed().as_secs_f64();
            inner.events.push(Happening {
                at,
                what: what.to_owned(),
            });
        });
    }

    /// A fact of the host.
    pub fn fact(&self, name: &str, value: &str) {
        self.with(|inner| inner.facts.insert(name.to_owned(), value.to_owned()));
    }

    /// Writes the report of a run that is over.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(
        &self,
        to: &Path,
        scenario: (&str, &str),
        began: jiff::Timestamp,
        error: Option<&anyhow::Error>,
    ) -> anyhow::Result<()> {
        let report = self.with(|inner| Report {
            scenario: scenario.0.to_owned(),
            proves: scenario.1.to_owned(),
            outcome: if error.is_none() { "passed" } else { "failed" }.to_owned(),
            error: error.map(|error| format!("{error:#}")),
            began,
            seconds: inner.begun.elapsed().as_secs_f64(),
            promises: inner.promises.clone(),
            figures: inner.figures.clone(),
            events: inner.events.clone(),
            host: inner.facts.clone(),
        });
        let text = serde_json::to_vec_pretty(&report)?;
        std::fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // A thread that panicked with the lock held has left nothing half done.
        let mut inner = match self.0.lock() {
            Ok(inner) => inner,
            Err(poisoned) => poisoned.into_inner(),
        };
        act(&mut inner)
    }
}

/// Talks to whoever watches.
pub fn say(line: &str) {
    use std::io::Write as _;
    // Nobody may be watching any more.
    drop(writeln!(std::io::stderr(), "{line}"));
}
