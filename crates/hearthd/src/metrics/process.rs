//! What the kernel says of this process. The names are those of Prometheus' own clients.

use std::fs;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// Adds what can be read; what cannot be is left out.
pub(super) fn register(registry: &mut Registry) {
    if let Some(pages) = resident_pages() {
        let bytes = pages.saturating_mul(rustix::param::page_size() as u64);
        let help = "Memory of this process that is in RAM";
        registry.register_with_unit(
            "process_resident_memory",
            help,
            Unit::Bytes,
            ConstGauge::new(bytes),
        );
    }
    if let Ok(fds) = fs::read_dir("/proc/self/fd") {
        // One of them is the folder that is being read.
        let open = (fds.count() as u64).saturating_sub(1);
        registry.register(
            "process_open_fds",
            "Open file descriptors",
            ConstGauge::new(open),
        );
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        registry.register(
            "process_max_fds",
            "How many file descriptors may be open",
            ConstGauge::new(limit),
        );
    }
    if let Some(times) = times() {
        let cpu = "User and system time";
        registry.register_with_unit(
            "process_cpu",
            cpu,
            Unit::Seconds,
            ConstCounter::new(times.cpu),
        );
        let start = "When this process started, since the epoch: counters began at 0 then";
        registry.register_with_unit(
            "process_start_time",
            start,
            Unit::Seconds,
            ConstGauge::new(times.started),
        );
    }
}

/// The second number of statm (proc(5)).
fn resident_pages() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

struct Times {
    cpu: f64,
    started: f64,
}

/// From stat (proc(5)): utime, stime and starttime are its fields 14, 15 and 22; the fields
/// behind the name, which ends with the last parenthesis, begin with 3.
fn times() -> Option<Times> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let cpu = (field(14)? + field(15)?) as f64 / per_second;
    let boot = hearth_host::boot::boot_time();
    let started = hearth_host::boot::ticks_to_time(boot, field(22)?);
    Some(Times {
        cpu,
        started: super::scrape::seconds(started),
    })
}
