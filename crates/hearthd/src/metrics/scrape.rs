//! Answering a scrape: what was counted, and what is read at this moment.

use std::fmt;

use hearth_plan::transition::elapsed;
use hearth_store::VmRow;
use hearth_types::api::Health;
use hearth_types::mode::{Mode, ModeRule};
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};
use jiff::Timestamp;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, breakers, process, whole};
use crate::engine::Engine;

/// What the text is (OpenMetrics 1.0, "Overall Structure").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Failures in a row from which a VM flaps.
const FLAPPING: u32 = 3;
/// Ports of a Linux bridge: numbers 1 to `BR_MAX_PORTS` - 1 (net/bridge/br_private.h).
const BRIDGE_PORTS: i64 = 1023;

const PHASES: [Phase; 10] = [
    Phase::Created,
    Phase::Starting,
    Phase::Running,
    Phase::Paused,
    Phase::Stopping,
    Phase::Exited,
    Phase::Failed,
    Phase::Backoff,
    Phase::Removing,
    Phase::Unknown,
];

/// Seconds since the epoch.
pub(super) fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

impl Engine {
    /// Everything as OpenMetrics text.
    ///
    /// # Errors
    /// None in practice: a text can always be written to.
    pub async fn scrape(&self) -> Result<String, fmt::Error> {
        self.scrape_with(|_| ()).await
    }

    /// The same, with what others have to tell: they add it to the registry.
    ///
    /// # Errors
    /// As [`Engine::scrape`].
    pub async fn scrape_with(
        &self,
        others: impl FnOnce(&mut Registry),
    ) -> Result<String, fmt::Error> {
        let rows = self.parts.store.vms().await;
        let mut read = Registry::with_prefix("hearth");
        self.register_daemon(&mut read);
        self.register_mode(&mut read);
        self.register_vms(&mut read, &rows);
        self.register_leases(&mut read, &rows);
        self.register_under_way(&mut read);
        self.backups.register(&mut read);
        self.register_bootstrap(&mut read);
        breakers::register(&mut read, &rows, self.host_breaker().as_ref());
        others(&mut read);
        let mut own = Registry::default();
        process::register(&mut own);
        let mut text = String::with_capacity(32 << 10);
        for registry in [&self.metrics.registry, &read, &own] {
            encode_registry(&mut text, registry)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }

    fn register_daemon(&self, registry: &mut Registry) {
        let labels = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("schema", self.parts.store.schema_version().to_string()),
            ("driver", self.parts.vmm.name().to_owned()),
        ];
        registry.register("build", "What this daemon is", Info::new(labels.to_vec()));
        let help = "When the last pass ended well, since the epoch; 0 before the first one";
        let last = ConstGauge::new(self.last_pass().map_or(0.0, seconds));
        registry.register_with_unit(
            "reconcile_last_success_timestamp",
            help,
            Unit::Seconds,
            last,
        );
        let help = "A pass is due at least this often";
        let interval = ConstGauge::new(self.settings.policy.resync.as_secs_f64());
        registry.register_with_unit("reconcile_interval", help, Unit::Seconds, interval);
    }

    fn register_under_way(&self, registry: &mut Registry) {
        let under_way = &self.under_way;
        let stuck = ConstGauge::new(whole(under_way.stuck().len()));
        let help = "Steps that have been under way for longer than they may, the pass included";
        registry.register("steps_stuck", help, stuck);
        let help = "Steps that were told to be stuck, by kind";
        registry.register("step_stuck", help, under_way.told.clone());
        let age = ConstGauge::new(under_way.pass_age().as_secs_f64());
        let help = "How long the pass that is under way has taken; 0 between two passes";
        registry.register_with_unit("pass_running", help, Unit::Seconds, age);
    }

    fn register_mode(&self, registry: &mut Registry) {
        let modes = Family::default();
        for mode in Mode::ALL {
            let in_force = usize::from(self.modes.mode() == mode);
            set(&modes, "mode", mode.as_str(), in_force);
        }
        registry.register("mode", "1 for the mode in force", modes);
        let rules = Family::default();
        let view = self.modes.view();
        for rule in ModeRule::ALL {
            let there = view.rules.iter().any(|cause| cause.rule == rule);
            set(&rules, "rule", rule.as_str(), usize::from(there));
        }
        let help = "1 where the cause of a rule for another mode is there, even if it is set aside";
        registry.register("mode_rule", help, rules);
    }

    fn register_bootstrap(&self, registry: &mut Registry) {
        let outcomes = Family::default();
        for (outcome, count) in self.bootstrap_counts() {
            set(&outcomes, "outcome", outcome, count);
        }
        let help = "VMs that the host's last reboot had stopped or found stopped, by what has become of them";
        registry.register("vms_bootstrap", help, outcomes);
    }

    fn register_vms(&self, registry: &mut Registry, rows: &[VmRow]) {
        let phases: Family<Label, Gauge> = Family::default();
        for phase in PHASES {
            let count = rows.iter().filter(|row| row.status.phase == phase).count();
            phases
                .get_or_create(&[("phase", phase.as_str())])
                .set(whole(count));
        }
        registry.register("vms", "VMs by phase", phases);
        let down = Family::default();
        for (state, phases) in [
            ("waiting", &[Phase::Starting, Phase::Backoff][..]),
            ("given_up", &[Phase::Failed][..]),
        ] {
            // Nobody is asked to bring a VM back whose policy is `no`: its end is its end.
            let is_down = |row: &&VmRow| {
                (state == "waiting" || row.spec.restart != RestartPolicy::No)
                    && matches!(row.goal, Goal::Running | Goal::Paused)
                    && row.status.vmm.is_none()
                    && phases.contains(&row.status.phase)
            };
            set(&down, "state", state, rows.iter().filter(is_down).count());
        }
        let help = "VMs that should run and have no VMM: on their way up, or given up by their restart policy";
        registry.register("vms_down", help, down);
        let now = self.now();
        let flapping = rows.iter().filter(|row| self.flaps(row, now)).count();
        let help = "VMs that should run and have failed three or more times in a row, until a run is stable";
        registry.register("vms_flapping", help, ConstGauge::new(whole(flapping)));
        let health = Family::default();
        for state in [
            Health::Healthy,
            Health::Degraded,
            Health::Unhealthy,
            Health::Starting,
            Health::Unknown,
            Health::None,
        ] {
            let alive = rows.iter().filter(|row| row.status.vmm.is_some());
            let count = alive.filter(|row| self.health_of(row) == state).count();
            set(&health, "health", state.as_str(), count);
        }
        registry.register(
            "vms_health",
            "VMs that run, by what the checks of their health say",
            health,
        );
    }

    fn flaps(&self, row: &VmRow, now: Timestamp) -> bool {
        let status = &row.status;
        let stable = status.vmm.is_some()
            && status
                .started_at
                .is_some_and(|at| elapsed(at, now) >= self.settings.policy.stable_after);
        status.failures >= FLAPPING && !stable && matches!(row.goal, Goal::Running | Goal::Paused)
    }

    fn register_leases(&self, registry: &mut Registry, rows: &[VmRow]) {
        let (used, limit) = (Family::default(), Family::default());
        let ranges = &self.settings.leases;
        let addresses = rows.iter().filter(|row| row.leases.ip.is_some()).count();
        set(&used, "kind", "address", addresses);
        // Without the network's, the bridge's and the broadcast address.
        let all = 1_u64 << (32 - u32::from(ranges.subnet.prefix_len()));
        set(
            &limit,
            "kind",
            "address",
            usize::try_from(all.saturating_sub(3)).unwrap_or(usize::MAX),
        );
        if ranges.uid_base != 0 {
            set(&used, "kind", "user_id", rows.len());
            set(
                &limit,
                "kind",
                "user_id",
                usize::try_from(ranges.uid_count).unwrap_or(usize::MAX),
            );
        }
        registry.register("leases_used", "What VMs have leased", used);
        registry.register("leases_limit", "How much there is to lease", limit);
        let help = "How many ports a Linux bridge can have";
        registry.register("bridge_ports_limit", help, ConstGauge::new(BRIDGE_PORTS));
    }
}

pub(super) fn set(
    family: &Family<Label, Gauge>,
    label: &'static str,
    value: &'static str,
    count: usize,
) {
    family.get_or_create(&[(label, value)]).set(whole(count));
}
