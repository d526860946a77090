//! What restrains recovery, read when asked: VMs with a breaker that is not closed, VMs that are held.

use hearth_plan::breaker::host::HostBreaker;
use hearth_store::VmRow;
use hearth_types::status::Cause;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::scrape::set;
use super::whole;

/// Gauges over the rows of the database.
pub(super) fn register(registry: &mut Registry, rows: &[VmRow], host: Option<&HostBreaker>) {
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
    let open = Family::default();
    for cause in Cause::SHARED {
        let is = host.is_some_and(|host| host.cause == cause);
        set(&open, "cause", cause.as_str(), usize::from(is));
    }
    let help = "1 where the host's circuit breaker is open: VMs failed at once for this cause";
    registry.register("host_breaker_open", help, open);
    let failed = host.map_or(0, |host| i64::from(host.failed_trials));
    let help = "trials of the host's circuit breaker that have failed since it opened; 0 when it is closed";
    registry.register("host_breaker_failed_trials", help, ConstGauge::new(failed));
    let half = host.is_some_and(|host| host.trial.is_some());
    let help = "1 while one VM is on trial for the host's circuit breaker, or about to be";
    registry.register(
        "host_breaker_half_open",
        help,
        ConstGauge::new(i64::from(half)),
    );
    let waits = rows.iter().filter(|row| row.status.pool_wait.is_some());
    let help =
        "VMs that are paused because the thin pool that their disk is in is about to run out";
    registry.register("vms_pool_wait", help, ConstGauge::new(whole(waits.count())));
    let held = rows.iter().filter(|row| row.status.recovery.hold.is_some());
    let help = "VMs that their operator holds: observed, and nothing is done to them automatically";
    registry.register("vms_held", help, ConstGauge::new(whole(held.count())));
}
