//! Garbage: what was found of it and cleaned, and the devices of the pool by state.

use hearth_plan::gc::schedule::Trigger;
use hearth_types::gc::{GcKind, GcOutcome, GcReport};
use hearth_types::thin::{ThinDevice, ThinState};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, Labels, Metrics, whole, zero_pairs};

/// How a run ended.
const OUTCOMES: [&str; 4] = ["found", "cleaned", "failed", "refused"];
/// What became of a piece.
const ENDS: [&str; 2] = ["cleaned", "failed"];

/// What is told of it.
#[derive(Default)]
pub(super) struct GcMetrics {
    runs: Family<Labels, Counter>,
    pieces: Family<Labels, Counter>,
    freed: Counter,
    devices: Family<Label, Gauge>,
}

impl GcMetrics {
    /// Each series is there from the beginning.
    pub(super) fn begin(&self) {
        let triggers = Trigger::ALL.map(Trigger::as_str);
        zero_pairs(&self.runs, ("trigger", &triggers), ("outcome", &OUTCOMES));
        let kinds = GcKind::ALL.map(GcKind::as_str);
        zero_pairs(&self.pieces, ("kind", &kinds), ("outcome", &ENDS));
        for state in ThinState::ALL {
            self.devices
                .get_or_create(&[("state", state.as_str())])
                .set(0);
        }
    }

    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("gc_runs", "Looks for garbage; found: without a change, refused: the host was not idle or not well", self.runs.clone());
        registry.register("gc_pieces", "Pieces of garbage that were cleaned, or could not be", self.pieces.clone());
        registry.register_with_unit("gc_freed", "What they took", Unit::Bytes, self.freed.clone());
        registry.register("pool_devices", "Devices of the thin pool as they are written down; orphaned: half made, kept until hearth gc --force", self.devices.clone());
    }
}

impl Metrics {
    /// Garbage was looked for; `None`: that was refused.
    pub(crate) fn gc_ran(&self, trigger: Trigger, report: Option<&GcReport>) {
        let outcome = match report {
            None => "refused",
            Some(report) if report.dry_run => "found",
            Some(report) if report.summary.failed > 0 => "failed",
            Some(_) => "cleaned",
        };
        let labels = [("trigger", trigger.as_str()), ("outcome", outcome)];
        self.gc.runs.get_or_create(&labels).inc();
        let Some(report) = report.filter(|report| !report.dry_run) else {
            return;
        };
        self.gc.freed.inc_by(report.bytes);
        for item in &report.items {
            let end = match item.outcome {
                GcOutcome::Cleaned => ENDS[0],
                GcOutcome::Failed => ENDS[1],
                GcOutcome::Found | GcOutcome::Skipped => continue,
            };
            let labels = [("kind", item.kind.as_str()), ("outcome", end)];
            self.gc.pieces.get_or_create(&labels).inc();
        }
    }

    /// The ledger was read.
    pub(crate) fn pool_devices(&self, devices: &[ThinDevice]) {
        for state in ThinState::ALL {
            let count = devices
                .iter()
                .filter(|device| device.state == state)
                .count();
            let label = [("state", state.as_str())];
            self.gc.devices.get_or_create(&label).set(whole(count));
        }
    }
}
