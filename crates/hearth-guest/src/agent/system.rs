//! The guest as a whole: how it is doing, and asking its init to go down.

use std::fs;
use std::process::{Command, Stdio};

use hearth_guest_proto::config::GuestConfig;
use hearth_guest_proto::message::{GuestInfo, GuestMetrics, ShutdownKind};
use rustix::process::{Pid, kill_process};

pub(super) fn info(config: &GuestConfig) -> GuestInfo {
    let uname = rustix::system::uname();
    GuestInfo {
        vm_id: config.vm_id.clone(),
        boot_nonce: config.boot_nonce.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
    }
}

/// What cannot be read counts as zero: metrics are no reason to fail.
pub(super) fn metrics() -> GuestMetrics {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| {
            line.trim_start_matches(':')
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        })
        .map_or(0, |kib| kib * 1024)
    };
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let disk = rustix::fs::statvfs("/").ok();
    let (net_rx, net_tx) = network(&fs::read_to_string("/proc/net/dev").unwrap_or_default());
    GuestMetrics {
        uptime_secs: uptime
            .split('.')
            .next()
            .and_then(|secs| secs.parse().ok())
            .unwrap_or(0),
        mem_total: memory("MemTotal"),
        mem_available: memory("MemAvailable"),
        load1_centi: centi(&loadavg),
        processes: processes(),
        disk_total: disk
            .as_ref()
            .map_or(0, |disk| disk.f_blocks * disk.f_frsize),
        disk_free: disk
            .as_ref()
            .map_or(0, |disk| disk.f_bavail * disk.f_frsize),
        net_rx,
        net_tx,
    }
}

/// `0.42 …` as 42.
fn centi(loadavg: &str) -> u64 {
    let digits: String = loadavg
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(0)
}

fn processes() -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let numbered = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let count = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(numbered))
        .count();
    count as u64
}

fn network(table: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in table.lines() {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        if name.trim() != "lo" && numbers.len() >= 9 {
            sum = (sum.0 + numbers[0], sum.1 + numbers[8]);
        }
    }
    sum
}

/// Asks the image's own init to power off or restart, in the way it understands.
pub(super) fn ask_init(kind: ShutdownKind) -> Result<(), String> {
    let init = fs::read_link("/proc/1/exe").unwrap_or_default();
    let init = init
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    // systemd(1): SIGRTMIN+4 powers off, +5 restarts; SIGRTMIN is 34 for glibc's programs.
    // busybox init: SIGUSR2 powers off, SIGTERM restarts.
    let signal = match (init.as_str(), kind) {
        ("systemd", ShutdownKind::Poweroff) => Some(38),
        ("systemd", ShutdownKind::Reboot) => Some(39),
        ("busybox", ShutdownKind::Poweroff) => Some(12),
        ("busybox", ShutdownKind::Reboot) => Some(15),
        _ => None,
    };
    if let Some(signal) = signal {
        return signal_init(signal);
    }
    let program = match kind {
        ShutdownKind::Poweroff => "/sbin/poweroff",
        ShutdownKind::Reboot => "/sbin/reboot",
    };
    let (stdin, stdout, stderr) = (Stdio::null(), Stdio::null(), Stdio::null());
    let child = Command::new(program)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn();
    child
        .map(drop)
        .map_err(|error| format!("cannot run {program} to ask {init}: {error}"))
}

fn signal_init(number: i32) -> Result<(), String> {
    let signal = crate::supervise::signal_of(number).ok_or("no such signal")?;
    kill_process(Pid::INIT, signal)
        .map_err(|error| format!("cannot signal the image's init: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{centi, network};

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(centi("0.42 0.10 0.05 1/100 12"), 42);
        assert_eq!(centi("12.05 1"), 1205);
        let table = "Inter-| Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0\n  eth0: 100 2 0 0 0 0 0 0 40 3 0 0\n";
        assert_eq!(network(table), (100, 40));
    }
}
