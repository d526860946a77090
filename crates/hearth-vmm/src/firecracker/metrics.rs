//! Firecracker's figures in ours.
//!
//! It writes one line of JSON a minute, and when asked, with what has happened since the
//! line before; the shim keeps the sums.

use camino::Utf8Path;
use hearth_types::api::DeviceStats;
use serde::Deserialize;

/// Longest line that is read, in bytes.
const LINE_MAX: u64 = 512 << 10;

// Fields that are missing are 0, and unknown ones are passed over: they differ by version.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    utc_timestamp_ms: u64,
    block: Block,
    net: Net,
    seccomp: Seccomp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    read_bytes: u64,
    write_bytes: u64,
    flush_count: u64,
    execute_fails: u64,
    event_fails: u64,
    invalid_reqs_count: u64,
    rate_limiter_throttled_events: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Net {
    rx_bytes_count: u64,
    tx_bytes_count: u64,
    rx_fails: u64,
    tx_fails: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Seccomp {
    num_faults: u64,
}

/// Understands figures; `None` when they are none of Firecracker's.
fn parse(text: &[u8]) -> Option<DeviceStats> {
    let Line {
        utc_timestamp_ms,
        block,
        net,
        seccomp,
    } = serde_json::from_slice(text).ok()?;
    // Every line of its has the time, whatever else it has.
    if utc_timestamp_ms == 0 {
        return None;
    }
    let refused = block.event_fails.saturating_add(block.invalid_reqs_count);
    Some(DeviceStats {
        disk_read_bytes: block.read_bytes,
        disk_write_bytes: block.write_bytes,
        disk_flushes: block.flush_count,
        disk_failures: block.execute_fails.saturating_add(refused),
        disk_throttled: Some(block.rate_limiter_throttled_events),
        net_rx_bytes: Some(net.rx_bytes_count),
        net_tx_bytes: Some(net.tx_bytes_count),
        net_failures: Some(net.rx_fails.saturating_add(net.tx_fails)),
        seccomp_faults: Some(seccomp.num_faults),
    })
}

/// The sums of what the VMM in this folder has said, if it has said anything.
///
/// # Errors
/// When the file that the shim keeps cannot be read.
pub(super) fn sums(dir: &Utf8Path) -> std::io::Result<Option<DeviceStats>> {
    use std::io::Read as _;
    let file = match std::fs::File::open(dir.join(hearth_shim::METRICS)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut line = Vec::new();
    file.take(LINE_MAX).read_to_end(&mut line)?;
    Ok(parse(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_understood_with_more_and_with_less() {
        let line = br#"{"utc_timestamp_ms":7,"block":{"read_bytes":1,"execute_fails":2,
            "event_fails":3,"new_in_a_later_version":{"a":1}},"net":{"tx_bytes_count":5},"x":[]}"#;
        let figures = parse(line).unwrap();
        assert_eq!((figures.disk_read_bytes, figures.disk_failures), (1, 5));
        assert_eq!(figures.net_tx_bytes, Some(5));
        assert_eq!(parse(b"{}"), None);
        assert_eq!(parse(b"not json"), None);
    }
}
