//! What is counted and measured of data volumes of their own, and of moves between kinds of storage.

use std::time::Duration;

use hearth_types::volume::{Volume, VolumeState};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, Metrics, whole, zero};

/// The figures of volumes.
pub(super) struct Figures {
    states: Family<Label, Gauge>,
    size: Gauge,
    moves: Family<Label, Counter>,
    moving: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        let moves = Family::default();
        zero(&moves, "outcome", &["done", "failed"]);
        let states: Family<Label, Gauge> = Family::default();
        for state in VolumeState::ALL {
            states.get_or_create(&[("state", state.as_str())]).set(0);
        }
        Self {
            states,
            size: Gauge::default(),
            moves,
            moving: Histogram::new([0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 7200.0]),
        }
    }
}

impl Figures {
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("volumes", "Data volumes of their own", self.states.clone());
        registry.register_with_unit("volumes_size", "Size of all data volumes of their own, as guests see them", Unit::Bytes, self.size.clone());
        registry.register("storage_moves", "Moves of disks between files and the thin pool", self.moves.clone());
        registry.register_with_unit("storage_move_duration", "How long such a move took that went well", Unit::Seconds, self.moving.clone());
    }
}

impl Metrics {
    /// What there is now. A scrape does not wait for the database.
    pub(crate) fn volumes_are(&self, volumes: &[Volume]) {
        let figures = &self.volumes;
        for state in VolumeState::ALL {
            let count = volumes.iter().filter(|one| one.state == state).count();
            let label = [("state", state.as_str())];
            figures.states.get_or_create(&label).set(whole(count));
        }
        let bytes = volumes
            .iter()
            .fold(0, |sum: u64, one| sum.saturating_add(one.size.0));
        figures.size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Disks were moved, or were not.
    pub(crate) fn disks_moved(&self, well: bool, took: Duration) {
        let figures = &self.volumes;
        let outcome = if well { "done" } else { "failed" };
        figures.moves.get_or_create(&[("outcome", outcome)]).inc();
        if well {
            figures.moving.observe(took.as_secs_f64());
        }
    }
}
