//! `hearth doctor`: does this host have what Hearth needs, and does it work?

mod service;
pub(crate) mod storage;

use camino::Utf8Path;
use hearth_types::api::{ConfigView, DoctorCheck, DoctorReport, DoctorStatus};
use hearth_types::survey::chain;
use hearth_types::units::{Bytes, GIB};
use hearth_vmm::{KernelFiles, Probe, VmmError};

use crate::engine::Engine;
use std::sync::Arc;

/// Less free space than this is worth a warning.
const LOW_SPACE: u64 = 2 * GIB;

/// Programs that Hearth runs, the Debian package of each, and what does not work without it.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("nft", "nftables", "guests have no network"),
    ("dnsmasq", "dnsmasq-base", "guests cannot resolve names"),
    (
        "conntrack",
        "conntrack",
        "an address that is used again may meet old connections",
    ),
    ("mke2fs", "e2fsprogs", "images and volumes cannot be made"),
];

/// Runs all checks.
pub async fn examine(engine: &Arc<Engine>, config: &ConfigView) -> DoctorReport {
    let mut checks = vec![user()];
    checks.extend(service::service().await);
    checks.push(service::socket(config));
    checks.push(kernel(engine).await);
    checks.extend(vmms(engine).await);
    checks.extend(
        PROGRAMS
            .iter()
            .map(|(program, package, without)| program_check(program, package, without)),
    );
    checks.push(device("/dev/net/tun", "load the module tun"));
    checks.push(kvm());
    checks.push(device("/dev/loop-control", "load the module loop"));
    checks.push(network(engine).await);
    checks.push(addresses(engine).await);
    checks.push(storage::storage(engine.paths.data()));
    checks.push(space(engine.paths.data()));
    checks.push(init(service::systemd(), &limited(engine).await));
    checks.push(last_pass(engine));
    checks.push(steps(engine).await);
    checks.push(mode(engine));
    checks.push(breakers(engine).await);
    DoctorReport { checks }
}

fn check(
    name: &str,
    status: DoctorStatus,
    detail: impl Into<String>,
    hint: Option<&str>,
) -> DoctorCheck {
    let hint = hint
        .filter(|_| status != DoctorStatus::Ok)
        .map(str::to_owned);
    DoctorCheck {
        name: name.to_owned(),
        status,
        detail: detail.into(),
        hint,
    }
}

fn user() -> DoctorCheck {
    let uid = rustix::process::geteuid();
    let status = if uid.is_root() {
        DoctorStatus::Ok
    } else {
        DoctorStatus::Failed
    };
    check(
        "user",
        status,
        format!("the daemon runs as uid {}", uid.as_raw()),
        Some("run hearthd as root: it makes TAPs, bridges and loop devices"),
    )
}

fn mode(engine: &Engine) -> DoctorCheck {
    let stance = engine.modes.stance();
    let (status, detail) = match stance.reason {
        None => (DoctorStatus::Ok, stance.mode.to_string()),
        Some(reason) => (DoctorStatus::Warning, format!("{}: {reason}", stance.mode)),
    };
    let hint = "the daemon does less than it could: see hearth mode";
    check("mode", status, detail, Some(hint))
}

/// What is not started for a while because it failed too often.
async fn breakers(engine: &Engine) -> DoctorCheck {
    if let Some(open) = engine.host_breaker() {
        let rows = engine.parts.store.vms().await;
        let failed = rows.iter().filter(|row| open.vms.contains(&row.id));
        let names: Vec<_> = failed.map(|row| row.spec.name.as_str()).collect();
        let name = |vm| {
            let found = rows.iter().find(|row| row.id == vm);
            found.map_or_else(|| format!("{vm}"), |row| row.spec.name.to_string())
        };
        let (reason, waits) = (open.reason(), open.waits_for(name));
        let detail = format!("{reason}: {}; {waits}", names.join(", "));
        let hint = "mend what they share; it closes by itself when one on trial runs, or by hearth reset-breaker --host-breaker";
        return check("breakers", DoctorStatus::Failed, detail, Some(hint));
    }
    let rows = engine.parts.store.vms().await;
    let open = |row: &&hearth_store::VmRow| row.status.recovery.breaker.is_some();
    let open: Vec<_> = rows.iter().filter(open).collect();
    let names: Vec<_> = open.iter().map(|row| row.spec.name.as_str()).collect();
    if names.is_empty() {
        return check("breakers", DoctorStatus::Ok, "all closed", None);
    }
    let detail = format!("open or on trial: {}", names.join(", "));
    let hint = "hearth plan --for VM --explain says why";
    check("breakers", DoctorStatus::Warning, detail, Some(hint))
}

/// VMs whose address another SUBNET has left outside: they are not started.
async fn addresses(engine: &Engine) -> DoctorCheck {
    let subnet = engine.settings.leases.subnet;
    let rows = engine.parts.store.vms().await;
    let outside = rows.iter().filter(|row| {
        let ip = row.leases.ip;
        ip.is_some_and(|ip| !subnet.contains(&ip))
    });
    let names: Vec<_> = outside.map(|row| row.spec.name.as_str()).collect();
    if names.is_empty() {
        let detail = format!("all are of {subnet}");
        return check("addresses", DoctorStatus::Ok, detail, None);
    }
    let detail = format!("not of {subnet}: those of {}", names.join(", "));
    let hint = "these VMs are not started: set SUBNET back, or create them again";
    check("addresses", DoctorStatus::Failed, detail, Some(hint))
}

async fn kernel(engine: &Engine) -> DoctorCheck {
    let kernels = engine.parts.kernels.clone();
    let found = tokio::task::spawn_blocking(move || kernels.get(None)).await;
    match found {
        Ok(Ok(kernel)) => check(
            "kernel",
            DoctorStatus::Ok,
            format!(
                "default kernel {} with {} modules",
                kernel.name,
                kernel.modules.len()
            ),
            None,
        ),
        Ok(Err(error)) => check(
            "kernel",
            DoctorStatus::Failed,
            chain(&error),
            Some("get one with: hearth kernel import"),
        ),
        Err(error) => check("kernel", DoctorStatus::Failed, error.to_string(), None),
    }
}

/// One check per driver. The one that runs VMs by default must work; another one may be
/// missing.
async fn vmms(engine: &Engine) -> Vec<DoctorCheck> {
    let kernels = engine.parts.kernels.clone();
    let files = tokio::task::spawn_blocking(move || kernels.files(None))
        .await
        .ok()
        .and_then(Result::ok);
    let files = files.map(|files| KernelFiles {
        bzimage: files.bzimage,
        elf: files.elf,
    });
    let probes = engine.parts.vmm.probe_all(files.as_ref()).await;
    let checks = probes.into_iter().enumerate();
    checks
        .map(|(number, (name, probe))| vmm(name, number == 0, probe))
        .collect()
}

fn vmm(name: &str, by_default: bool, probe: Result<Probe, VmmError>) -> DoctorCheck {
    let title = if by_default {
        "vmm".to_owned()
    } else {
        format!("vmm {name}")
    };
    let probe = match probe {
        Ok(probe) => probe,
        Err(error) if by_default => {
            let hint = "install QEMU: apt-get install qemu-system-x86";
            return check(&title, DoctorStatus::Failed, chain(&error), Some(hint));
        }
        Err(error) => {
            let detail = format!("not used: {}", chain(&error));
            return check(&title, DoctorStatus::Ok, detail, None);
        }
    };
    let status = if probe.accelerator == "kvm" {
        DoctorStatus::Ok
    } else {
        DoctorStatus::Warning
    };
    let Probe {
        version,
        accelerator,
        detail,
    } = probe;
    check(
        &title,
        status,
        format!("{name} {version} with {accelerator}: {detail}"),
        Some(
            "VMs run under emulation, many times slower than under KVM; what keeps KVM from being used is said there",
        ),
    )
}

fn program_check(program: &str, package: &str, without: &str) -> DoctorCheck {
    match hearth_host::command::find(program) {
        Some(path) => check(program, DoctorStatus::Ok, path.display().to_string(), None),
        None => check(
            program,
            DoctorStatus::Failed,
            format!("not installed: {without}"),
            Some(&format!("apt-get install {package}")),
        ),
    }
}

fn device(path: &str, hint: &str) -> DoctorCheck {
    let name = path.trim_start_matches("/dev/");
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    match opened {
        Ok(_) => check(
            name,
            DoctorStatus::Ok,
            format!("{path} can be opened"),
            None,
        ),
        Err(error) => check(
            name,
            DoctorStatus::Failed,
            format!("{path} cannot be opened: {error}"),
            Some(hint),
        ),
    }
}

/// Whether there is anything to probe; whether it works is said by `vmm`.
fn kvm() -> DoctorCheck {
    let found = device(
        "/dev/kvm",
        "switch virtualisation on in the firmware, or nested virtualisation on the host below, \
         and load kvm_intel or kvm_amd",
    );
    let status = match found.status {
        DoctorStatus::Failed => DoctorStatus::Warning,
        status => status,
    };
    DoctorCheck { status, ..found }
}

async fn network(engine: &Engine) -> DoctorCheck {
    let network = &engine.settings.network;
    match engine.parts.net.check().await {
        Ok(()) => check(
            "subnet",
            DoctorStatus::Ok,
            format!(
                "{} on {} collides with no route",
                network.subnet, network.bridge
            ),
            None,
        ),
        Err(error) => check(
            "subnet",
            DoctorStatus::Failed,
            chain(&error),
            Some("choose another SUBNET in the configuration"),
        ),
    }
}

fn space(data: &Utf8Path) -> DoctorCheck {
    match rustix::fs::statvfs(data.as_str()) {
        Ok(stat) => {
            let free = Bytes(stat.f_bavail.saturating_mul(stat.f_frsize));
            let status = if free.0 < LOW_SPACE {
                DoctorStatus::Warning
            } else {
                DoctorStatus::Ok
            };
            check(
                "space",
                status,
                format!("{} free in {data}", free.human()),
                Some("make room: images and root disks live there"),
            )
        }
        Err(error) => check(
            "space",
            DoctorStatus::Failed,
            format!("{data} cannot be looked at: {error}"),
            None,
        ),
    }
}

/// The VMs whose specs ask for a share of the host.
async fn limited(engine: &Engine) -> Vec<String> {
    let rows = engine.parts.store.vms().await;
    rows.iter()
        .filter(|row| !row.spec.resources.is_default())
        .map(|row| row.spec.name.to_string())
        .collect()
}

/// How VMMs are run. Only units have limits, so a VM that was promised some has to know.
fn init(systemd: bool, limited: &[String]) -> DoctorCheck {
    if systemd {
        let detail = "systemd is the init: VMs run in units of their own below hearth.slice";
        return check("init", DoctorStatus::Ok, detail, None);
    }
    let detail = "systemd is not the init: VMMs run as detached processes in sessions of their own";
    if limited.is_empty() {
        return check("init", DoctorStatus::Ok, detail, None);
    }
    check(
        "init",
        DoctorStatus::Warning,
        format!(
            "{detail}, and the resources that these VMs ask for do not hold: {}",
            limited.join(", ")
        ),
        Some("run hearthd on a host with systemd, or take `resources` out of their specs"),
    )
}

/// What has been under way for too long, and the VMMs that wait in the kernel at this moment.
async fn steps(engine: &Arc<Engine>) -> DoctorCheck {
    let mut lines = engine.stuck_words().await;
    let status = if lines.is_empty() {
        DoctorStatus::Warning
    } else {
        DoctorStatus::Failed
    };
    for row in engine.parts.store.vms().await {
        let Some(vmm) = row.status.vmm else { continue };
        let condition = engine.parts.processes.condition(&vmm);
        if matches!(condition, Ok(hearth_host::process::Condition::Stuck)) {
            let waits = engine.kernel_waits(Some(vmm)).await;
            let said = crate::stuck::said(&waits);
            lines.push(format!("the VMM of {}: {said}", row.spec.name));
        }
    }
    if lines.is_empty() {
        return check("steps", DoctorStatus::Ok, "none is stuck", None);
    }
    let hint = "what waits in the kernel waits for a device: see dmesg; a step goes on by itself when it answers";
    check("steps", status, lines.join("; "), Some(hint))
}

fn last_pass(engine: &Engine) -> DoctorCheck {
    match engine.last_pass() {
        Some(at) => check(
            "loop",
            DoctorStatus::Ok,
            format!("the last pass ended at {at}"),
            None,
        ),
        None => check(
            "loop",
            DoctorStatus::Warning,
            "no pass has ended yet",
            Some("see the daemon's log for [reconcile] lines"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_do_not_hold_are_said() {
        let some = ["web".to_owned(), "db".to_owned()];
        assert_eq!(init(true, &some).status, DoctorStatus::Ok);
        assert_eq!(init(false, &[]).status, DoctorStatus::Ok);
        let told = init(false, &some);
        assert_eq!(told.status, DoctorStatus::Warning);
        assert!(told.detail.contains("web, db"), "{}", told.detail);
        assert!(told.hint.is_some());
    }
}
