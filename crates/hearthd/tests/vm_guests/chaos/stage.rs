//! The host that chaos comes over, with what must be there and what must not.

use std::time::Duration;

use hearth_types::api;
use hearth_types::ids::EventSeq;
use hearth_types::spec::health::{CheckKind, CheckSpec, OnFailure};
use hearth_types::spec::{RestartPolicy, VmSpec};
use hearth_types::units::Span;
use tokio::time::Instant;

use super::report::Report;
use crate::harness::strangers::Strangers;
use crate::harness::{Host, Traces, Vm, processes_of, spec, words};

/// VMs on the stage: one more than faults come at once.
const CAST: usize = 3;
/// Size of the data folder's file system, in MiB: kernel, image, the VMs' disks, and some room.
const DISK: u64 = 768;
/// What each guest does, and what shows that its network works.
const SERVE: &str = "mkdir -p /www; echo here > /www/index.html; exec httpd -f -p 8080 -h /www";
/// Keys that differ from their defaults, and what is said of that in the report.
const SETTINGS: [(&str, &str); 7] = [
    ("RESYNC_INTERVAL", "5s"),
    ("ORPHAN_GRACE", "0s"),
    ("STABLE_AFTER", "1s"),
    ("BACKOFF_MAX", "1s"),
    // A VM that dies every minute would rightly be left alone; so would the host.
    ("BREAKER_FAILURES", "0"),
    ("HOST_BREAKER_VMS", "0"),
    // Guests that boot under emulation are all the pressure that two cores can take.
    ("START_CPU_PRESSURE", "0"),
];
/// Health checks: `interval`, `timeout`; three failures in a row.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const THRESHOLD: u32 = 3;

/// The host and what is on it.
pub(super) struct Stage {
    pub(super) host: Host,
    pub(super) vms: Vec<Vm>,
    pub(super) strangers: Strangers,
    /// What is there when all is well.
    pub(super) well: Traces,
    pub(super) rules: Vec<String>,
    /// How long a guest took from the request to its health, before anything happened.
    pub(super) boot: Duration,
    /// The last event that a round has seen.
    pub(super) seen: EventSeq,
    /// How much of the daemon's log a round has seen.
    pub(super) logged: usize,
}

impl Stage {
    /// A host with running, healthy VMs and strangers beside them. `None`, with a printed
    /// reason, where real guests cannot run.
    pub(super) async fn set() -> Option<Self> {
        let mut host = Host::on_small_disk(DISK).await?;
        for (key, value) in SETTINGS {
            host.set(key, value);
        }
        host.start_daemon().await;
        let strangers = Strangers::move_in(&host);
        // The first one has the machine for itself; the others boot side by side.
        let begun = Instant::now();
        let mut vms = vec![host.run(player(0)).await];
        vms[0].healthy().await;
        let boot = begun.elapsed();
        for number in 1..CAST {
            vms.push(host.run(player(number)).await);
        }
        for vm in &vms {
            vm.healthy().await;
        }
        host.settled().await;
        let mut stage = Self {
            well: host.traces().that_stay(),
            rules: Vec::new(),
            seen: EventSeq(0),
            logged: 0,
            host,
            vms,
            strangers,
            boot,
        };
        stage.rules = stage.rules_now();
        Some(stage)
    }

    /// How many VMs there are.
    pub(super) const fn cast(&self) -> usize {
        self.vms.len()
    }

    /// The rules without what counts or has no order.
    pub(super) fn rules_now(&self) -> Vec<String> {
        let listed = self.host.netns.output("nft", &["-s", "list", "ruleset"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut words: Vec<String> = text
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        words.sort();
        words
    }

    /// Whether the guest's server answers over its network.
    pub(super) fn serves(&self, vm: &api::Vm) -> bool {
        let Some(ip) = vm.leases.ip else { return false };
        let url = format!("http://{ip}:8080/");
        let arguments = ["-sS", "--max-time", "5", url.as_str()];
        let got = self.host.netns.output("curl", &arguments);
        got.stdout == b"here\n"
    }

    /// Whether `ip link show` says all of these words of a link.
    pub(super) fn link_is(&self, link: &str, words: &[&str]) -> bool {
        let shown = self.host.netns.output("ip", &["-o", "link", "show", link]);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        shown.status.success() && words.iter().all(|word| text.contains(word))
    }

    /// Processes of ours with this role.
    pub(super) fn processes(&self, role: &str) -> Vec<i32> {
        let all = processes_of(self.host.installation());
        all.into_iter()
            .filter(|(_, of)| of == role)
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Full passes that this daemon has made.
    pub(super) fn full_passes(&self) -> Option<f64> {
        let metrics = self.host.metrics();
        let count = "hearth_reconcile_duration_seconds_count{pass=\"full\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(count))?;
        line.trim().parse().ok()
    }

    /// Takes everything down again: nothing may be left, and strangers are as they were.
    pub(super) async fn strike(mut self, report: &mut Report) {
        for broken in self.strangers.disturbed(&self.host) {
            report.broke(format!("a stranger was touched: {broken}"));
        }
        if report.broken().is_empty() {
            for vm in &self.vms {
                vm.remove().await;
            }
            report.leaks(&self.left().await);
        } else {
            let log = self.host.log();
            let lines: Vec<_> = log.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(150)..].join("\n"));
        }
    }

    /// What is left when every VM is removed, but for the strangers.
    async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for _ in 0..200 {
            left = self.host.leaks();
            left.retain(|leak| !self.strangers.own(leak));
            if left.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        left
    }
}

fn player(number: usize) -> VmSpec {
    let mut spec = spec(&format!("vm-{number}"));
    spec.command = Some(words(&["sh", "-c", SERVE]));
    spec.restart = RestartPolicy::Always;
    spec.stop_timeout = Span::secs(2);
    spec.health.interval = Some(Span::secs(INTERVAL.as_secs()));
    spec.health.timeout = Some(Span::secs(TIMEOUT.as_secs()));
    // A daemon that is new does not know that the guest has been up before.
    spec.health.start_period = Some(Span::secs(90));
    spec.health.failure_threshold = Some(THRESHOLD);
    spec.health.success_threshold = Some(1);
    spec.health.on_failure = Some(OnFailure::Restart);
    spec.health.checks = vec![CheckSpec {
        port: Some(8080),
        ..CheckSpec::new(CheckKind::Http)
    }];
    spec
}

/// What the settings were, for the report.
pub(super) fn settings() -> Vec<String> {
    let keys = SETTINGS.iter().map(|(key, value)| format!("{key}={value}"));
    let checks = format!(
        "checks every {INTERVAL:?}, {TIMEOUT:?} to answer, {THRESHOLD} failures in a row, 90 s to come up"
    );
    keys.chain([checks]).collect()
}
