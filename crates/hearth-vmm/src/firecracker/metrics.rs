//! Firecracker's figures in ours.
//!
//! It writes one line of JSON a minute, and when asked, with what has happened since the
//! line before; the shim keeps the last one.

use camino::Utf8Path;
use serde::Deserialize;

/// Longest line that is read, in bytes.
const LINE_MAX: u64 = 512 << 10;

/// What a VMM's devices did in the time before one line of figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceFigures {
    /// When the line was written, in milliseconds after the Unix epoch.
    pub at_ms: u64,
    /// Bytes that the guest read from its disks.
    pub disk_read_bytes: u64,
    /// Bytes that the guest wrote to them.
    pub disk_write_bytes: u64,
    /// Flushes that the guest asked for.
    pub disk_flushes: u64,
    /// Requests to disks that failed.
    pub disk_failures: u64,
    /// Requests to disks that a rate limiter held back.
    pub disk_throttled: u64,
    /// Bytes that went to the guest.
    pub net_rx_bytes: u64,
    /// Bytes that came from the guest.
    pub net_tx_bytes: u64,
    /// Failures of the network device, both ways.
    pub net_failures: u64,
    /// System calls that the filter refused: a bug or an attack.
    pub seccomp_faults: u64,
}

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

/// Understands one line; `None` when it is none of Firecracker's.
#[must_use]
pub fn parse(line: &[u8]) -> Option<DeviceFigures> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let Block {
        execute_fails,
        event_fails,
        invalid_reqs_count,
        ..
    } = line.block;
    Some(DeviceFigures {
        at_ms: Some(line.utc_timestamp_ms).filter(|at| *at > 0)?,
        disk_read_bytes: line.block.read_bytes,
        disk_write_bytes: line.block.write_bytes,
        disk_flushes: line.block.flush_count,
        disk_failures: execute_fails + event_fails + invalid_reqs_count,
        disk_throttled: line.block.rate_limiter_throttled_events,
        net_rx_bytes: line.net.rx_bytes_count,
        net_tx_bytes: line.net.tx_bytes_count,
        net_failures: line.net.rx_fails + line.net.tx_fails,
        seccomp_faults: line.seccomp.num_faults,
    })
}

/// The last figures of the VMM in this folder, if it has given any.
///
/// # Errors
/// When the file that the shim keeps cannot be read.
pub fn last(dir: &Utf8Path) -> std::io::Result<Option<DeviceFigures>> {
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
    fn a_line_is_understood_with_more_and_with_less() {
        let line = br#"{"utc_timestamp_ms":7,"block":{"read_bytes":1,"execute_fails":2,
            "event_fails":3,"new_in_a_later_version":{"a":1}},"net":{"tx_bytes_count":5},"x":[]}"#;
        let figures = parse(line).unwrap();
        assert_eq!((figures.at_ms, figures.disk_read_bytes), (7, 1));
        assert_eq!((figures.disk_failures, figures.net_tx_bytes), (5, 5));
        assert_eq!(parse(b"{}"), None);
        assert_eq!(parse(b"not json"), None);
    }
}
