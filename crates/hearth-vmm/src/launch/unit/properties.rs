//! What stands in a VMM's unit: identity, limits, and what it may touch. Pure.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_shim::Request;
use hearth_systemd::property::{Property, Setting};
use hearth_types::mark::OWNER_ENV;
use hearth_types::names::names_unit;
use hearth_types::observe::{ProcessRole, ROLE_ENV};
use hearth_types::resources::Priority;

use super::Needs;
use crate::LaunchSpec;

mod sandbox;

pub(super) use sandbox::used;

/// The slice of all VMs.
pub(super) const SLICE: &str = "hearth.slice";
/// The daemon's own unit.
const DAEMON: &str = "hearthd.service";
/// First version of systemd with `ExitType=cgroup`.
const EXIT_TYPE_SINCE: u32 = 250;
/// How long beyond all of the shim's own deadlines systemd waits before it kills what is
/// left: the shim has a record to write.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// CPU time of the VMM's own threads, in microseconds per second: half a CPU moves 10 Gbit/s
/// or 100,000 disk requests in QEMU's main loop, and a guest cannot buy more by a device.
const CPU_ALLOWANCE_MICROS: u64 = 500_000;
/// A CPU's time, in microseconds per second.
const CPU_MICROS: u64 = 1_000_000;
/// Console lines of a VM that the journal takes per interval; the rest is counted there and
/// is whole in `console.log`.
const JOURNAL_LINES: u32 = 500;
/// That interval, in microseconds.
const JOURNAL_INTERVAL_MICROS: u64 = 10_000_000;
/// `oom_score_adj` of a shim: the kernel never kills it for want of memory. It is of a few
/// MiB, so nothing is won by that, and how its VMM ended would be lost.
const SHIM_OOM_SCORE: i32 = -1000;
/// Descriptors: QEMU passes one per disk, socket and client; 32 clients of the console.
const OPEN_FILES: u64 = 4096;
/// Everything that stands in the unit of this VM, for a systemd of this major version.
pub(super) fn of(
    version: u32,
    shim: &Utf8Path,
    spec: &LaunchSpec,
    request: &Request,
    needs: &Needs,
    used: &[Utf8PathBuf],
) -> Vec<Property> {
    let mut all = service(version, shim, spec, request);
    all.extend(journal(spec));
    all.extend(limits(spec, needs));
    all.extend(sandbox::files(request, used));
    all.extend(sandbox::privileges(request, needs));
    all.extend(sandbox::devices(request, needs, &spec.disks));
    all
}

/// The service itself: who it is and how it begins and ends.
fn service(version: u32, shim: &Utf8Path, spec: &LaunchSpec, request: &Request) -> Vec<Property> {
    let args = [
        shim.as_str(),
        "--id",
        &spec.vm.to_string(),
        hearth_shim::UNIT_FLAG,
    ];
    let mut all = vec![
        Property::text(
            "Description",
            format!("Hearth VM {} ({})", spec.name, spec.vm),
        ),
        Property::texts("Documentation", ["man:hearth(1)", "man:hearthd(8)"]),
        Property::text("Slice", SLICE),
        // What is started before the daemon is stopped after it: when the host goes down, the
        // daemon must not see its VMs end and start them again.
        Property::texts("Before", [DAEMON]),
        // The same the other way round: the guest that goes down with the host has its
        // network and its names until the end.
        Property::texts(
            "After",
            ["network.target", &names_unit(spec.mark.installation)],
        ),
        // A unit that has ended is forgotten, a failed one too: exit.json says how it ended.
        Property::text("CollectMode", "inactive-or-failed"),
        // … but not before whoever makes it has hung up: it may have to ask why.
        Property::flag("AddRef", true),
        Property::text("Type", "exec"),
        // When to start again is the planner's decision.
        Property::text("Restart", "no"),
        // SIGTERM reaches the shim alone, which lets the guest go down, then the VMM, and
        // writes the record. What is left after the deadline is killed, all of it.
        Property::text("KillMode", "mixed"),
        Property::number("TimeoutStopUSec", stop_deadline_micros(spec)),
        // The kernel kills the VMM, never the shim, which writes why. With `stop`
        // systemd would end the shim in the same moment, and the record would not be written.
        Property::text("OOMPolicy", "continue"),
        Property::new(
            "ExecStart",
            Setting::Command(shim.to_string(), args.map(str::to_owned).to_vec()),
        ),
        Property::texts(
            "Environment",
            [
                format!("{OWNER_ENV}={}", request.mark),
                format!("{ROLE_ENV}={}", ProcessRole::Shim.as_str()),
            ],
        ),
    ];
    if version >= EXIT_TYPE_SINCE {
        // A VMM that has lost its shim lives on, and the unit with it.
        all.push(Property::text("ExitType", "cgroup"));
    }
    all
}

/// The longest that the shim may take to end its VM, and a margin.
fn stop_deadline_micros(spec: &LaunchSpec) -> u64 {
    let longest = [
        spec.stop_timeout,
        hearth_shim::AFTER_WORKLOAD,
        hearth_shim::QUIT_WAIT,
        STOP_MARGIN,
    ];
    let longest = longest
        .into_iter()
        .fold(Duration::ZERO, Duration::saturating_add);
    u64::try_from(longest.as_micros()).unwrap_or(u64::MAX)
}

/// What the journal says of it: the shim's standard error is the console.
fn journal(spec: &LaunchSpec) -> Vec<Property> {
    vec![
        // Not the journal too: systemd would take the error for the output, which is a pipe.
        Property::text("StandardOutput", "null"),
        Property::text("StandardError", "journal"),
        Property::text("SyslogIdentifier", "hearth-vm"),
        // The guest writes the lines: it may not choose their level.
        Property::flag("SyslogLevelPrefix", false),
        Property::new(
            "LogExtraFields",
            Setting::Fields(vec![
                format!("HEARTH_VM_ID={}", spec.vm),
                format!("HEARTH_VM_NAME={}", spec.name),
                format!("HEARTH_INSTALLATION={}", spec.mark.installation),
            ]),
        ),
        Property::number("LogRateLimitIntervalUSec", JOURNAL_INTERVAL_MICROS),
        Property::new("LogRateLimitBurst", Setting::Word(JOURNAL_LINES)),
    ]
}

/// Its share of the host.
pub(super) fn limits(spec: &LaunchSpec, needs: &Needs) -> Vec<Property> {
    let resources = &spec.resources;
    let quota = resources.cpu_quota.map_or(
        u64::from(spec.vcpus) * CPU_MICROS + CPU_ALLOWANCE_MICROS,
        |percent| u64::from(percent) * CPU_MICROS / 100,
    );
    let mut all = vec![
        Property::flag("CPUAccounting", true),
        Property::number("CPUQuotaPerSecUSec", quota),
        Property::flag("MemoryAccounting", true),
        // No memory.high: throttling a VMM stalls its guest, which cannot give memory back.
        Property::number("MemoryMax", spec.memory.0.saturating_add(needs.overhead.0)),
        // A guest that is swapped out stalls without a reason that it can see.
        Property::number("MemorySwapMax", 0),
        Property::flag("TasksAccounting", true),
        Property::number("TasksMax", u64::from(spec.vcpus) + u64::from(needs.threads)),
        Property::flag("IOAccounting", true),
        Property::new("OOMScoreAdjust", Setting::Signed(SHIM_OOM_SCORE)),
        Property::number("LimitCORE", 0),
        Property::number("LimitNOFILE", OPEN_FILES),
    ];
    let weights = [
        ("CPUWeight", resources.cpu_weight),
        ("IOWeight", resources.io_weight),
    ];
    all.extend(
        weights
            .into_iter()
            .filter_map(|(name, weight)| Some(Property::number(name, weight?.into()))),
    );
    // systemd finds the device below the folder; disks that are devices of their own are named.
    let own = spec.disks.iter().filter_map(|disk| disk.device.as_ref());
    let limited: Vec<String> = std::iter::once(&spec.dir)
        .chain(own)
        .map(ToString::to_string)
        .collect();
    let per_device = [
        (
            "IOReadBandwidthMax",
            resources.io_read_bps.map(|limit| limit.0),
        ),
        (
            "IOWriteBandwidthMax",
            resources.io_write_bps.map(|limit| limit.0),
        ),
        ("IOReadIOPSMax", resources.io_read_iops),
        ("IOWriteIOPSMax", resources.io_write_iops),
    ];
    all.extend(per_device.into_iter().filter_map(|(name, limit)| {
        let limit = limit?;
        let limits = limited.iter().map(|device| (device.clone(), limit));
        Some(Property::new(name, Setting::Limits(limits.collect())))
    }));
    all
}

/// `oom_score_adj` of a VMM: thousandths of the host's memory that are added to a process'
/// size when the kernel chooses. VMs go before the host's services unless somebody says
/// otherwise.
pub(super) const fn oom_score(priority: Priority) -> i16 {
    match priority {
        Priority::Low => 800,
        Priority::Normal => 400,
        Priority::High => 0,
    }
}

#[cfg(test)]
mod tests;
