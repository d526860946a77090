//! Figures of a VM's devices.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a VM's devices have done since its VMM started, as the VMM counts it. A figure that a
/// VMM does not count is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DeviceStats {
    /// Bytes that the guest read from its disks.
    pub disk_read_bytes: u64,
    /// Bytes that the guest wrote to them.
    pub disk_write_bytes: u64,
    /// Flushes that the guest asked for.
    pub disk_flushes: u64,
    /// Requests to disks that failed.
    pub disk_failures: u64,
    /// Requests to disks that a rate limiter held back.
    pub disk_throttled: Option<u64>,
    /// Bytes that went to the guest.
    pub net_rx_bytes: Option<u64>,
    /// Bytes that came from the guest.
    pub net_tx_bytes: Option<u64>,
    /// Failures of the network device, both ways.
    pub net_failures: Option<u64>,
    /// System calls that the VMM's own filter refused: a bug or an attack.
    pub seccomp_faults: Option<u64>,
}
