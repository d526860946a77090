//! The journal around steps: each effect is written down before it is done and marked after.
//!
//! ```text
//! begin_all (one commit) ──► take_begun: failpoint ► effect ► failpoint ──► finish
//!                 └──────── not taken in the end ──► abandon
//! ```

use std::sync::Arc;

use anyhow::Context as _;
use hearth_plan::{PlannedStep, Step};
use hearth_store::{StoreError, VmRow};
use hearth_types::ids::IntentId;
use parking_lot::Mutex;

use super::Engine;

/// Journal entries of a list of steps, by the step's index; each is taken once.
pub(super) struct Intents(Mutex<Vec<Result<Option<IntentId>, StoreError>>>);

impl Intents {
    fn take(&self, index: usize) -> Result<Option<IntentId>, StoreError> {
        self.0
            .lock()
            .get_mut(index)
            .map_or(Ok(None), |intent| std::mem::replace(intent, Ok(None)))
    }
}

impl Engine {
    /// Writes the effects of several steps into the journal, in one commit.
    pub(super) async fn begin_all(&self, steps: &[PlannedStep]) -> Intents {
        let begin = steps.iter().map(|planned| async move {
            if planned.step.only_stores() {
                return Ok(None);
            }
            let view = hearth_plan::view::step(planned, None);
            let entry = serde_json::json!({ "step": view.step, "object": view.object, "reason": planned.reason });
            self.parts.store.begin(view.vm, entry, self.now()).await.map(Some)
        });
        Intents(Mutex::new(futures::future::join_all(begin).await))
    }

    /// Stores the status that a list of steps begins with, if it begins with one. Beside
    /// [`Engine::begin_all`] both are one commit.
    pub(super) async fn leading_status(&self, steps: &[PlannedStep]) -> Option<anyhow::Result<()>> {
        match steps.first().map(|planned| &planned.step) {
            Some(Step::SetStatus { vm, status, event }) => {
                let stored = self.set_status(*vm, status, event.as_deref()).await;
                self.metrics.step_taken("set_status", stored.is_ok());
                Some(stored)
            }
            _ => None,
        }
    }

    /// Closes the entries of steps that were not taken in the end.
    pub(super) async fn abandon(&self, intents: Intents) {
        let open: Vec<_> = intents
            .0
            .into_inner()
            .into_iter()
            .filter_map(|intent| intent.ok().flatten())
            .collect();
        if open.is_empty() {
            return;
        }
        if let Err(error) = self
            .parts
            .store
            .close_intents(open, "not taken", self.now())
            .await
        {
            tracing::warn!(error = %error, "journal entries stay open until the next full survey");
        }
    }

    /// Takes a step whose journal entry is written.
    pub(super) async fn take_begun(
        self: &Arc<Self>,
        planned: &PlannedStep,
        row: Option<&VmRow>,
        intents: &Intents,
        index: usize,
    ) -> anyhow::Result<()> {
        let (step, kind) = (&planned.step, planned.step.kind());
        let intent = intents.take(index).context("cannot write the journal")?;
        let name = row.map(|row| row.spec.name.as_str());
        let _taking = self.under_way.step(step, name, self.now());
        self.failpoints.hit("before", kind).await;
        let result = if let Step::SetStatus { vm, status, event } = step {
            self.set_status(*vm, status, event.as_deref()).await
        } else {
            tracing::info!(
                step = kind,
                object = step.object(),
                "[reconcile] {}",
                planned.reason
            );
            self.effect(step, row).await
        };
        self.metrics.step_taken(kind, result.is_ok());
        self.failpoints.hit("after", kind).await;
        if let Some(intent) = intent {
            self.finish(intent, &result);
        }
        result
    }

    /// Marks a journal entry. Nobody waits for it: an entry that a crash leaves open is
    /// settled by the next full survey.
    fn finish(self: &Arc<Self>, intent: IntentId, result: &anyhow::Result<()>) {
        let outcome = match result {
            Ok(()) => "done".to_owned(),
            Err(error) => format!("failed: {error:#}"),
        };
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = engine
                .parts
                .store
                .finish(intent, &outcome, engine.now())
                .await
            {
                tracing::warn!(error = %error, "a journal entry could not be marked");
            }
        });
    }
}
