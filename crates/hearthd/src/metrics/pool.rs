//! The thin pool, as its keeper saw it last. Where there is none all of it is 0.

use hearth_types::pool::{PoolState, PoolView};
use hearth_types::thin::PoolDifference;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Label, Metrics, zero};

/// What is told of it.
#[derive(Default)]
pub(super) struct PoolMetrics {
    size: Family<Label, Gauge>,
    used: Family<Label, Gauge>,
    most: Gauge,
    provisioned: Gauge,
    state: Family<Label, Gauge>,
    needs_check: Gauge,
    checked: Gauge,
    backed_up: Gauge,
    extensions: Family<Label, Counter>,
    differences: Family<Label, Gauge>,
    compared: Gauge,
}

/// In what ledger, kernel and metadata can differ: see docs/storage.md.
const DIFFERENCES: [&str; 8] = [
    "unsettled",
    "unrecorded",
    "lost",
    "gone",
    "stray",
    "table",
    "suspended",
    "behind",
];

/// Which part of it is meant.
const PARTS: [&str; 2] = ["data", "metadata"];

impl PoolMetrics {
    /// Each series is there from the beginning.
    pub(super) fn begin(&self) {
        for part in PARTS {
            for family in [&self.size, &self.used] {
                family.get_or_create(&[("part", part)]).set(0);
            }
        }
        for state in PoolState::ALL {
            let label = [("state", state.as_str())];
            self.state.get_or_create(&label).set(0);
        }
        zero(&self.extensions, "outcome", &["done", "failed"]);
        for kind in DIFFERENCES {
            self.differences.get_or_create(&[("kind", kind)]).set(0);
        }
    }

    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("pool_bytes", "How large the thin pool's data and metadata are", self.size.clone());
        registry.register("pool_used_bytes", "How much of them is used", self.used.clone());
        registry.register("pool_most_bytes", "The most data that the pool may have by itself", self.most.clone());
        registry.register("pool_provisioned_bytes", "The sizes of all volumes and snapshots in the pool together", self.provisioned.clone());
        registry.register("pool_state", "1 for the state that the pool is in", self.state.clone());
        registry.register("pool_needs_check", "1 while nobody can write to the pool because its metadata must be checked", self.needs_check.clone());
        registry.register("pool_checked_timestamp_seconds", "When the pool's metadata was checked last; 0: never", self.checked.clone());
        registry.register("pool_backup_timestamp_seconds", "When the pool's metadata was backed up last; 0: never", self.backed_up.clone());
        registry.register("pool_differences", "In how many thin devices database, kernel and metadata do not agree, of what was not repaired", self.differences.clone());
        registry.register("pool_compared_timestamp_seconds", "When they were compared last; 0: never", self.compared.clone());
        registry.register("pool_extensions", "Growths of the pool by itself", self.extensions.clone());
    }

    fn seen(&self, view: &PoolView) {
        let usage = [view.data, view.metadata];
        for (part, usage) in PARTS.into_iter().zip(usage) {
            let label = [("part", part)];
            let (size, used) = usage.map_or((0, 0), |usage| (usage.size, usage.used.unwrap_or(0)));
            self.size.get_or_create(&label).set(whole(size));
            self.used.get_or_create(&label).set(whole(used));
        }
        let space = view.space.as_ref();
        self.most.set(space.map_or(0, |space| whole(space.most)));
        self.provisioned
            .set(space.map_or(0, |space| whole(space.provisioned)));
        for state in PoolState::ALL {
            let label = [("state", state.as_str())];
            let is = i64::from(state == view.state);
            self.state.get_or_create(&label).set(is);
        }
        self.needs_check.set(i64::from(view.needs_check));
        let seconds = |at: Option<jiff::Timestamp>| at.map_or(0, |at| at.as_second());
        self.checked
            .set(seconds(view.last_check.as_ref().map(|check| check.at)));
        self.backed_up
            .set(seconds(view.backup.as_ref().map(|backup| backup.at)));
    }
}

impl Metrics {
    /// The pool was looked at.
    pub(crate) fn pool_seen(&self, view: &PoolView) {
        self.pool.seen(view);
    }

    /// What is written down of it was compared with what is.
    pub(crate) fn pool_compared(&self, found: &[PoolDifference], at: jiff::Timestamp) {
        for kind in DIFFERENCES {
            let stand = found.iter().filter(|it| it.kind == kind && !it.repaired);
            let count = i64::try_from(stand.count()).unwrap_or(i64::MAX);
            let label = [("kind", kind)];
            self.pool.differences.get_or_create(&label).set(count);
        }
        self.pool.compared.set(at.as_second());
    }

    /// The pool has grown by itself, or could not.
    pub(crate) fn pool_extended(&self, well: bool) {
        let outcome = if well { "done" } else { "failed" };
        let label = [("outcome", outcome)];
        self.pool.extensions.get_or_create(&label).inc();
    }
}

fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
