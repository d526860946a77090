//! What is counted and measured of snapshots.

use std::time::Duration;

use hearth_types::snapshot::{Snapshot, SnapshotState};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, Metrics, whole, zero};

/// From a snapshot in a pool to the copy of a large disk.
fn seconds() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
    ])
}

/// The figures of snapshots.
pub(super) struct Figures {
    made: Family<Label, Counter>,
    creation: Histogram,
    frozen: Histogram,
    restore: Histogram,
    states: Family<Label, Gauge>,
    size: Gauge,
}

impl Default for Figures {
    fn default() -> Self {
        let made = Family::default();
        zero(&made, "outcome", &["done", "failed"]);
        let states: Family<Label, Gauge> = Family::default();
        for state in SnapshotState::ALL {
            states.get_or_create(&[("state", state.as_str())]).set(0);
        }
        Self {
            made,
            creation: seconds(),
            frozen: seconds(),
            restore: seconds(),
            states,
            size: Gauge::default(),
        }
    }
}

impl Figures {
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("snapshot_creations", "Snapshots of VMs' disks that were made, or failed", self.made.clone());
        registry.register_with_unit("snapshot_creation_duration", "How long a snapshot took that was made", Unit::Seconds, self.creation.clone());
        registry.register_with_unit("snapshot_frozen", "For how long a guest that ran could not write", Unit::Seconds, self.frozen.clone());
        registry.register_with_unit("snapshot_restore_duration", "How long a restore took", Unit::Seconds, self.restore.clone());
        registry.register("snapshots", "Snapshots of VMs' disks", self.states.clone());
        registry.register_with_unit("snapshot_size", "Size of all disks of snapshots, as guests see them", Unit::Bytes, self.size.clone());
    }
}

impl Metrics {
    /// A snapshot was made, or was not.
    pub(crate) fn snapshot_made(&self, well: bool, took: Duration, frozen_ms: Option<u64>) {
        let figures = &self.snapshots;
        let outcome = if well { "done" } else { "failed" };
        figures.made.get_or_create(&[("outcome", outcome)]).inc();
        if well {
            figures.creation.observe(took.as_secs_f64());
        }
        if let Some(millis) = frozen_ms {
            figures
                .frozen
                .observe(Duration::from_millis(millis).as_secs_f64());
        }
    }

    /// What there is now. A scrape does not wait for the database.
    pub(crate) fn snapshots_are(&self, snapshots: &[Snapshot]) {
        let figures = &self.snapshots;
        for state in SnapshotState::ALL {
            let count = snapshots.iter().filter(|one| one.state == state).count();
            let label = [("state", state.as_str())];
            figures.states.get_or_create(&label).set(whole(count));
        }
        let bytes: u64 = snapshots.iter().map(|one| one.bytes().0).sum();
        figures.size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A VM has got the disks of a snapshot.
    pub(crate) fn snapshot_restored(&self, took: Duration) {
        self.snapshots.restore.observe(took.as_secs_f64());
    }
}
