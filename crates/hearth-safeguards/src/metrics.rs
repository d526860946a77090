//! What the guard counts.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::check::Check;

type Label = [(&'static str, &'static str); 1];

/// How operations end.
const OUTCOMES: [&str; 5] = ["done", "failed", "refused", "not_in_turn", "timed_out"];

/// Counters of the guard.
#[derive(Debug)]
pub(crate) struct Metrics {
    operations: Family<Label, Counter>,
    duration: Histogram,
    check_duration: Histogram,
    refused: Family<Label, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            operations: Family::default(),
            duration: Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                60.0,
            ]),
            check_duration: Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
            ]),
            refused: Family::default(),
        };
        for outcome in OUTCOMES {
            drop(metrics.operations.get_or_create(&[("outcome", outcome)]));
        }
        for check in Check::ALL {
            let label = [("check", check.as_str())];
            drop(metrics.refused.get_or_create(&label));
        }
        metrics
    }
}

impl Metrics {
    pub(crate) fn ended(&self, outcome: &'static str) {
        self.operations.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn took(&self, time: Duration) {
        self.duration.observe(time.as_secs_f64());
    }

    pub(crate) fn looked(&self, time: Duration) {
        self.check_duration.observe(time.as_secs_f64());
    }

    pub(crate) fn refused(&self, check: Check) {
        let label = [("check", check.as_str())];
        self.refused.get_or_create(&label).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Device-mapper operations by outcome: refused by a check, not in turn, not back in time, or ended";
        registry.register("dm_operations", help, self.operations.clone());
        let help = "How long device-mapper operations took, without their wait";
        registry.register_with_unit(
            "dm_operation_duration",
            help,
            Unit::Seconds,
            self.duration.clone(),
        );
        let help = "How long the system health check before an operation took";
        registry.register_with_unit(
            "dm_health_check_duration",
            help,
            Unit::Seconds,
            self.check_duration.clone(),
        );
        let help = "Device-mapper operations that a check refused, by check";
        registry.register("dm_refusals", help, self.refused.clone());
    }
}
