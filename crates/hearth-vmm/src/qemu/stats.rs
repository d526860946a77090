//! QEMU's figures of its disks in ours.

use hearth_types::api::DeviceStats;
use serde_json::Value;

/// Adds up the answer to `query-blockstats` (QEMU's `qapi/block-core.json`, `BlockStats`).
/// What an older or newer QEMU does not say counts as 0.
pub(super) fn of_disks(answer: &Value) -> DeviceStats {
    let disks = answer.as_array().into_iter().flatten();
    let mut sum = DeviceStats::default();
    for stats in disks.map(|disk| &disk["stats"]) {
        let figure = |name: &str| stats[name].as_u64().unwrap_or_default();
        let failures = [
            "failed_rd_operations",
            "failed_wr_operations",
            "failed_flush_operations",
            "invalid_rd_operations",
            "invalid_wr_operations",
            "invalid_flush_operations",
        ];
        sum.disk_read_bytes = sum.disk_read_bytes.saturating_add(figure("rd_bytes"));
        sum.disk_write_bytes = sum.disk_write_bytes.saturating_add(figure("wr_bytes"));
        sum.disk_flushes = sum.disk_flushes.saturating_add(figure("flush_operations"));
        for name in failures {
            sum.disk_failures = sum.disk_failures.saturating_add(figure(name));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_disks_of_a_vm_are_added_up() {
        let disk = |read: u64, failed: u64| json!({"device": "", "stats": {"rd_bytes": read, "wr_bytes": 2, "flush_operations": 1, "failed_wr_operations": failed}});
        let sum = of_disks(&json!([disk(10, 0), disk(5, 3), {"device": "new"}]));
        let expected = DeviceStats {
            disk_read_bytes: 15,
            disk_write_bytes: 4,
            disk_flushes: 2,
            disk_failures: 3,
            ..DeviceStats::default()
        };
        assert_eq!(sum, expected);
        assert_eq!(of_disks(&json!({})), DeviceStats::default());
    }
}
