//! What may stand in a request's body: the names and types of Firecracker's OpenAPI file.
//! Unknown names are refused, as the real one refuses them.

#![expect(
    dead_code,
    reason = "most fields are read for their types: a wrong one is a refusal"
)]

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Action {
    pub(super) action_type: ActionType,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum ActionType {
    FlushMetrics,
    InstanceStart,
    SendCtrlAltDel,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VmState {
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum State {
    Paused,
    Resumed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BootSource {
    pub(super) kernel_image_path: String,
    pub(super) initrd_path: Option<String>,
    pub(super) boot_args: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MachineConfig {
    pub(super) vcpu_count: u8,
    pub(super) mem_size_mib: usize,
    #[serde(default)]
    pub(super) smt: bool,
    pub(super) cpu_template: Option<CpuTemplate>,
    #[serde(default)]
    pub(super) track_dirty_pages: bool,
    pub(super) huge_pages: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) enum CpuTemplate {
    C3,
    T2,
    T2S,
    T2CL,
    T2A,
    V1N1,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drive {
    pub(super) drive_id: String,
    pub(super) is_root_device: bool,
    pub(super) partuuid: Option<String>,
    pub(super) cache_type: Option<CacheType>,
    pub(super) is_read_only: Option<bool>,
    pub(super) path_on_host: Option<String>,
    pub(super) rate_limiter: Option<RateLimiter>,
    pub(super) io_engine: Option<IoEngine>,
    pub(super) socket: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Debug, Deserialize)]
pub(super) enum IoEngine {
    Sync,
    Async,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimiter {
    pub(super) bandwidth: Option<TokenBucket>,
    pub(super) ops: Option<TokenBucket>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBucket {
    pub(super) size: u64,
    pub(super) one_time_burst: Option<u64>,
    pub(super) refill_time: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkInterface {
    pub(super) iface_id: String,
    pub(super) host_dev_name: String,
    pub(super) guest_mac: Option<String>,
    pub(super) mtu: Option<u16>,
    pub(super) rx_rate_limiter: Option<RateLimiter>,
    pub(super) tx_rate_limiter: Option<RateLimiter>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vsock {
    pub(super) vsock_id: Option<String>,
    pub(super) guest_cid: u32,
    pub(super) uds_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balloon {
    pub(super) amount_mib: u32,
    pub(super) deflate_on_oom: bool,
    #[serde(default)]
    pub(super) stats_polling_interval_s: u16,
    #[serde(default)]
    pub(super) free_page_hinting: bool,
    #[serde(default)]
    pub(super) free_page_reporting: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entropy {
    pub(super) rate_limiter: Option<RateLimiter>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) metrics_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Logger {
    pub(super) log_path: Option<String>,
    pub(super) level: Option<String>,
    pub(super) show_level: Option<bool>,
    pub(super) show_log_origin: Option<bool>,
    pub(super) module: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Serial {
    pub(super) serial_out_path: Option<String>,
    pub(super) rate_limiter: Option<TokenBucket>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CpuConfig {
    #[serde(default)]
    pub(super) kvm_capabilities: Vec<String>,
    #[serde(default)]
    pub(super) cpuid_modifiers: Vec<Value>,
    #[serde(default)]
    pub(super) msr_modifiers: Vec<Value>,
}
