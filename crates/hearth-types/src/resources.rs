//! A VM's share of the host: limits and weights, and who goes first when memory runs out.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::FieldError;
use crate::units::Bytes;

/// The range of a weight (`cpu.weight`, `io.weight` of cgroup v2); 100 is everybody's default.
pub const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// The least CPU quota in percent of one CPU: below it a guest misses its own timers.
pub const MIN_CPU_QUOTA: u32 = 10;
/// The most: every vCPU a VM can have, and the VMM's own threads.
pub const MAX_CPU_QUOTA: u32 = 100 * (crate::spec::MAX_VCPUS + 100);
/// The least limit of bytes per second: below it one request of 1 MiB takes minutes.
pub const MIN_IO_BYTES: Bytes = Bytes(64 << 10);
/// The least limit of requests per second: below it a journal commit takes seconds.
pub const MIN_IO_REQUESTS: u64 = 10;

/// A VM's share of the host. They hold where systemd is the init; elsewhere `hearth doctor`
/// says that they do not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// CPU time under contention, relative to other VMs: 1 to 10000, 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
    pub cpu_weight: Option<u32>,
    /// CPU time that the whole VM may use, VMM included, in percent of one CPU. When absent
    /// it is 100 for each vCPU and 50 for the VMM's own threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10)]
    pub cpu_quota: Option<u32>,
    /// Disk time under contention, relative to other VMs: 1 to 10000, 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
    pub io_weight: Option<u32>,
    /// Bytes per second that are read from the disk below the VM's folder; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_bps: Option<Bytes>,
    /// Bytes per second that are written to it; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_write_bps: Option<Bytes>,
    /// Read requests per second to it; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10)]
    pub io_read_iops: Option<u64>,
    /// Write requests per second to it; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10)]
    pub io_write_iops: Option<u64>,
    /// Who goes last when the host runs out of memory.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}

/// How much a VM matters when the host runs out of memory.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Ended before all others.
    Low,
    /// Ended before the host's own services.
    #[default]
    Normal,
    /// Ended like any other process of the host.
    High,
}

impl Priority {
    /// As in requests and files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    const fn is_normal(&self) -> bool {
        matches!(self, Self::Normal)
    }
}

impl Resources {
    /// Everything at its default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every value; paths begin with `resources.`.
    pub(crate) fn check(&self, errors: &mut Vec<FieldError>) {
        let mut refuse = |field: &str, message: String| {
            errors.push(FieldError::new(format!("resources.{field}"), message));
        };
        for (field, weight) in [
            ("cpu_weight", self.cpu_weight),
            ("io_weight", self.io_weight),
        ] {
            if weight.is_some_and(|weight| !WEIGHTS.contains(&weight)) {
                refuse(
                    field,
                    format!("must be {} to {}", WEIGHTS.start(), WEIGHTS.end()),
                );
            }
        }
        if self
            .cpu_quota
            .is_some_and(|quota| !(MIN_CPU_QUOTA..=MAX_CPU_QUOTA).contains(&quota))
        {
            refuse(
                "cpu_quota",
                format!("must be {MIN_CPU_QUOTA} to {MAX_CPU_QUOTA} percent of one CPU"),
            );
        }
        for (field, limit) in [
            ("io_read_bps", self.io_read_bps),
            ("io_write_bps", self.io_write_bps),
        ] {
            if limit.is_some_and(|limit| limit < MIN_IO_BYTES) {
                refuse(field, format!("must be at least {MIN_IO_BYTES} per second"));
            }
        }
        for (field, limit) in [
            ("io_read_iops", self.io_read_iops),
            ("io_write_iops", self.io_write_iops),
        ] {
            if limit.is_some_and(|limit| limit < MIN_IO_REQUESTS) {
                refuse(
                    field,
                    format!("must be at least {MIN_IO_REQUESTS} per second"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_checked_at_its_path() {
        let mut errors = Vec::new();
        Resources::default().check(&mut errors);
        assert_eq!(errors, []);
        let bad = Resources {
            cpu_weight: Some(0),
            cpu_quota: Some(9),
            io_weight: Some(10_001),
            io_read_bps: Some(Bytes(1)),
            io_write_bps: Some(Bytes(0)),
            io_read_iops: Some(9),
            io_write_iops: Some(0),
            priority: Priority::Low,
        };
        bad.check(&mut errors);
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "resources.cpu_weight",
                "resources.io_weight",
                "resources.cpu_quota",
                "resources.io_read_bps",
                "resources.io_write_bps",
                "resources.io_read_iops",
                "resources.io_write_iops"
            ]
        );
        let good = Resources {
            cpu_weight: Some(1),
            cpu_quota: Some(MIN_CPU_QUOTA),
            io_weight: Some(10_000),
            io_read_bps: Some(MIN_IO_BYTES),
            io_write_iops: Some(MIN_IO_REQUESTS),
            ..Resources::default()
        };
        errors.clear();
        good.check(&mut errors);
        assert_eq!(errors, []);
    }

    #[test]
    fn defaults_are_not_written() {
        let text = serde_json::to_string(&Resources::default()).unwrap();
        assert_eq!(text, "{}");
        let high: Resources = serde_json::from_str(r#"{"priority":"high"}"#).unwrap();
        assert_eq!(high.priority, Priority::High);
        assert!(serde_json::from_str::<Resources>(r#"{"cpus":1}"#).is_err());
    }
}
