//! A part of a specification: what a template has as defaults, and what somebody says beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    BootstrapPolicy, BreakerSpec, CrashDump, DriverChoice, HealthSpec, InitMode, Machine,
    NetworkSpec, PortSpec, RestartPolicy, VmSpec, VolumeSpec,
};
use crate::names::VmName;
use crate::resources::{Priority, Resources};
use crate::units::{Bytes, Span};

/// The fields of a [`VmSpec`] but its name and its image. What is absent is not spoken of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PartialSpec {
    /// The kernel's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Number of virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Guest memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Size of the root disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// Environment of the entrypoint. Variables of other names stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Instead of the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Instead of the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// `user[:group]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working folder of the entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Who runs as the image's first program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<InitMode>,
    /// How the VM is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
    /// Ports of the host that lead to the guest: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortSpec>>,
    /// Data volumes: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<VolumeSpec>>,
    /// Free labels. Those of other names stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What happens when the VM ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// How long a clean stop may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<Span>,
    /// Which VMM runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverChoice>,
    /// Which machine model QEMU shows to the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Its share of the host, field by field.
    #[serde(skip_serializing_if = "Resources::is_default")]
    pub resources: Resources,
    /// How its health is judged, field by field; checks are all of them.
    #[serde(skip_serializing_if = "HealthSpec::is_default")]
    pub health: HealthSpec,
    /// What happens to it after a reboot of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapPolicy>,
    /// VMs that an automatic start waits for: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 32)]
    pub after: Option<Vec<VmName>>,
    /// When its circuit breaker opens, field by field.
    #[serde(skip_serializing_if = "BreakerSpec::is_default")]
    pub breaker: BreakerSpec,
    /// What is kept of it when it crashes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash_dump: Option<CrashDump>,
    /// Remove the VM as soon as it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_remove: Option<bool>,
}

impl PartialSpec {
    /// A specification in which this part is as it says, and the rest as it was.
    ///
    /// All fields are named here, so that none is forgotten when one is added.
    #[must_use]
    pub fn over(self, spec: VmSpec) -> VmSpec {
        VmSpec {
            name: spec.name,
            image: spec.image,
            template: spec.template,
            kernel: self.kernel.or(spec.kernel),
            vcpus: self.vcpus.unwrap_or(spec.vcpus),
            memory: self.memory.unwrap_or(spec.memory),
            disk: self.disk.or(spec.disk),
            env: both(spec.env, self.env),
            entrypoint: self.entrypoint.or(spec.entrypoint),
            command: self.command.or(spec.command),
            user: self.user.or(spec.user),
            workdir: self.workdir.or(spec.workdir),
            init: self.init.unwrap_or(spec.init),
            network: self.network.unwrap_or(spec.network),
            ports: self.ports.unwrap_or(spec.ports),
            volumes: self.volumes.unwrap_or(spec.volumes),
            labels: both(spec.labels, self.labels),
            restart: self.restart.unwrap_or(spec.restart),
            stop_timeout: self.stop_timeout.unwrap_or(spec.stop_timeout),
            driver: self.driver.unwrap_or(spec.driver),
            machine: self.machine.unwrap_or(spec.machine),
            resources: resources(self.resources, spec.resources),
            health: health(self.health, spec.health),
            bootstrap: self.bootstrap.or(spec.bootstrap),
            after: self.after.unwrap_or(spec.after),
            breaker: breaker(&self.breaker, &spec.breaker),
            crash_dump: self.crash_dump.unwrap_or(spec.crash_dump),
            auto_remove: self.auto_remove.unwrap_or(spec.auto_remove),
        }
    }
}

fn both(
    mut base: BTreeMap<String, String>,
    over: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    base.extend(over);
    base
}

fn resources(over: Resources, base: Resources) -> Resources {
    Resources {
        cpu_weight: over.cpu_weight.or(base.cpu_weight),
        cpu_quota: over.cpu_quota.or(base.cpu_quota),
        io_weight: over.io_weight.or(base.io_weight),
        io_read_bps: over.io_read_bps.or(base.io_read_bps),
        io_write_bps: over.io_write_bps.or(base.io_write_bps),
        io_read_iops: over.io_read_iops.or(base.io_read_iops),
        io_write_iops: over.io_write_iops.or(base.io_write_iops),
        priority: match over.priority {
            Priority::Normal => base.priority,
            other => other,
        },
    }
}

fn health(over: HealthSpec, base: HealthSpec) -> HealthSpec {
    HealthSpec {
        interval: over.interval.or(base.interval),
        timeout: over.timeout.or(base.timeout),
        start_period: over.start_period.or(base.start_period),
        failure_threshold: over.failure_threshold.or(base.failure_threshold),
        success_threshold: over.success_threshold.or(base.success_threshold),
        on_failure: over.on_failure.or(base.on_failure),
        ignore_image: over.ignore_image || base.ignore_image,
        without: said(over.without, base.without),
        checks: said(over.checks, base.checks),
    }
}

fn said<T>(over: Vec<T>, base: Vec<T>) -> Vec<T> {
    if over.is_empty() { base } else { over }
}

fn breaker(over: &BreakerSpec, base: &BreakerSpec) -> BreakerSpec {
    BreakerSpec {
        failures: over.failures.or(base.failures),
        window: over.window.or(base.window),
        cooldown: over.cooldown.or(base.cooldown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(text: &str) -> PartialSpec {
        serde_json::from_str(text).unwrap()
    }

    fn base() -> VmSpec {
        VmSpec::new("web".parse().unwrap(), "demo:1")
    }

    #[test]
    fn what_is_not_said_changes_nothing() {
        let nothing = PartialSpec::default();
        assert_eq!(serde_json::to_string(&nothing).unwrap(), "{}");
        let full = partial(FULL).over(base());
        assert_eq!(nothing.over(full.clone()), full);
    }

    /// Each field with another value than the default.
    const FULL: &str = r#"{"kernel":"k","vcpus":3,"memory":"1GiB","disk":"2GiB","env":{"A":"1"},
        "entrypoint":["e"],"command":["c"],"user":"u","workdir":"/w","init":"image",
        "network":{"mode":"none"},"ports":[{"host_port":1,"guest_port":2}],
        "volumes":[{"name":"d","mount":"/d","size":"64MiB"}],"labels":{"l":"1"},
        "restart":"always","stop_timeout":"3s","driver":"qemu","machine":"q35",
        "resources":{"cpu_weight":7,"priority":"high"},"health":{"interval":"9s","without":["agent"]},
        "bootstrap":"manual","after":["db"],"breaker":{"failures":2},
        "crash_dump":{"guest_memory":true},"auto_remove":true}"#;

    #[test]
    fn every_field_but_those_of_identity_is_taken() {
        let spec = serde_json::to_value(partial(FULL).over(base())).unwrap();
        let plain = serde_json::to_value(base()).unwrap();
        for (field, value) in spec.as_object().unwrap() {
            let same = plain.get(field) == Some(value);
            assert_eq!(same, ["name", "image"].contains(&field.as_str()), "{field}");
        }
        let said: serde_json::Value = serde_json::from_str(FULL).unwrap();
        let count = said.as_object().unwrap().len();
        assert_eq!(spec.as_object().unwrap().len(), count + 2);
    }

    #[test]
    fn maps_and_shares_are_joined_and_lists_replaced() {
        let first = partial(FULL).over(base());
        let over = partial(
            r#"{"env":{"B":"2"},"labels":{"l":"2"},"after":[],"ports":[],
            "resources":{"io_weight":5},"health":{"timeout":"1s"}}"#,
        );
        let spec = over.over(first);
        assert_eq!(spec.env.len(), 2);
        assert_eq!(spec.labels["l"], "2");
        assert!(spec.after.is_empty() && spec.ports.is_empty());
        let shares = (spec.resources.cpu_weight, spec.resources.io_weight);
        assert_eq!(shares, (Some(7), Some(5)));
        assert_eq!(spec.resources.priority, Priority::High);
        assert_eq!(spec.health.interval, Some(Span::secs(9)));
        assert_eq!(spec.health.timeout, Some(Span::secs(1)));
        assert_eq!(spec.health.without.len(), 1);
    }
}
