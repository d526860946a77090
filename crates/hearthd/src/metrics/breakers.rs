//! What restrains recovery, read when asked: VMs with a breaker that is not closed, VMs that are held.

use hearth_store::VmRow;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::scrape::set;
use super::whole;

/// Gauges over the rows of the database.
pub(super) fn register(registry: &mut Registry, rows: &[VmRow]) {
    let breakers = Family::default();
    let open = |row: &&VmRow| {
        let breaker = row.status.recovery.breaker.as_ref();
        breaker.is_some_and(|breaker| breaker.trial.is_none())
    };
    let trial = |row: &&VmRow| {
        let breaker = row.status.recovery.breaker.as_ref();
        breaker.is_some_and(|breaker| breaker.trial.is_some())
    };
    set(&breakers, "state", "open", rows.iter().filter(open).count());
    set(
        &breakers,
        "state",
        "half_open",
        rows.iter().filter(trial).count(),
    );
    registry.register(
        "vms_breaker",
        "VMs whose circuit breaker is open (no automatic start) or half open (one on trial)",
        breakers,
    );
    let held = rows.iter().filter(|row| row.status.recovery.hold.is_some());
    let help = "VMs that their operator holds: observed, and nothing is done to them automatically";
    registry.register("vms_held", help, ConstGauge::new(whole(held.count())));
}
