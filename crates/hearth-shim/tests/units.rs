//! VMMs in transient units: what systemd, the kernel and the journal make of them. Runs
//! where systemd is the init, as in the testbed.

#![expect(
    clippy::unwrap_used,
    reason = "part of tests: a failed unwrap is a failed test"
)]

mod common;

use std::time::Duration;

use camino::Utf8PathBuf;
use common::Vms;
use hearth_systemd::{Manager, State};
use hearth_types::names::unit_name;
use hearth_types::process::{ExitRecord, ProcessExit, ProcessIdentity};
use hearth_types::resources::{Priority, Resources};
use hearth_types::units::Bytes;
use hearth_vmm::{LaunchSpec, Vmm, VmmError};

/// Longest that anything here may take.
const STEP: Duration = Duration::from_secs(60);

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let work = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        tokio::time::timeout(STEP, work).await.is_ok(),
        "{what}: not within {} s",
        STEP.as_secs()
    );
}

async fn command(program: &str, args: &[&str]) -> String {
    let output = hearth_host::command::run(program, args, b"", STEP).await;
    String::from_utf8(output.unwrap()).unwrap()
}

async fn state(spec: &LaunchSpec) -> Option<State> {
    let manager = Manager::connect().await.unwrap();
    manager.state(&unit_name(spec.vm)).await.unwrap()
}

async fn gone(spec: &LaunchSpec) {
    until("the unit to be forgotten", async || {
        state(spec).await.is_none()
    })
    .await;
}

async fn record(vms: &Vms, spec: &LaunchSpec) -> ExitRecord {
    let record = vms.driver.exit_record(&spec.dir).await.unwrap();
    record.expect("an exit record")
}

/// The control group that a process is in, below the mount of cgroup v2.
fn cgroup(identity: &ProcessIdentity) -> Utf8PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", identity.pid)).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Utf8PathBuf::from("/sys/fs/cgroup").join(path.unwrap())
}

fn read(folder: &Utf8PathBuf, file: &str) -> String {
    let text = std::fs::read_to_string(folder.join(file));
    assert!(text.is_ok(), "{folder}/{file}: {text:?}");
    text.unwrap().trim().to_owned()
}

#[tokio::test]
async fn standin_has_its_share_of_the_host_and_no_more() {
    let Some(vms) = Vms::standin().in_units() else {
        return;
    };
    let mut spec = vms.make();
    spec.vcpus = 2;
    spec.resources = Resources {
        cpu_weight: Some(50),
        io_weight: Some(200),
        priority: Priority::Low,
        ..Resources::default()
    };
    let identity = vms.driver.launch(&spec).await.unwrap();
    let folder = cgroup(&identity);
    assert_eq!(
        folder,
        format!("/sys/fs/cgroup/hearth.slice/{}", unit_name(spec.vm))
    );
    assert_eq!(read(&folder, "cpu.max"), "250000 100000");
    assert_eq!(read(&folder, "cpu.weight"), "50");
    let memory: u64 = read(&folder, "memory.max").parse().unwrap();
    assert!(memory > Bytes::mib(128).0, "{memory}");
    assert!(memory < Bytes::mib(1024).0, "{memory}");
    assert_eq!(read(&folder, "memory.high"), "max");
    assert_eq!(read(&folder, "memory.swap.max"), "0");
    let tasks: u64 = read(&folder, "pids.max").parse().unwrap();
    assert!((3..1000).contains(&tasks), "{tasks}");
    if folder.join("io.weight").exists() {
        assert_eq!(read(&folder, "io.weight"), "default 200");
    }
    let process = Utf8PathBuf::from(format!("/proc/{}", identity.pid));
    assert_eq!(read(&process, "oom_score_adj"), "800");
    let args = ["show", "-p", "MainPID", "--value", &unit_name(spec.vm)];
    let shim = command("systemctl", &args).await;
    let shim = Utf8PathBuf::from(format!("/proc/{}", shim.trim()));
    assert_eq!(read(&shim, "oom_score_adj"), "-1000");
    let status = read(&process, "status");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    let limits = read(&process, "limits");
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    assert_eq!(core.unwrap().split_whitespace().nth(4), Some("0"));
    vms.driver.kill(&identity).await.unwrap();
    gone(&spec).await;
}

#[tokio::test]
async fn qemu_has_its_limits_of_the_disk() {
    let Some(vms) = Vms::qemu().and_then(Vms::in_units) else {
        return;
    };
    let mut spec = vms.make();
    spec.resources.io_write_bps = Some(Bytes::mib(8));
    spec.resources.io_read_iops = Some(100);
    let identity = vms.driver.launch(&spec).await.unwrap();
    let folder = cgroup(&identity);
    let on_device = command(
        "findmnt",
        &["-no", "MAJ:MIN,SOURCE", "-T", spec.dir.as_str()],
    )
    .await;
    if on_device.contains("/dev/") && folder.join("io.max").exists() {
        let limits = read(&folder, "io.max");
        assert!(limits.contains("wbps=8388608"), "{limits}");
        assert!(limits.contains("riops=100"), "{limits}");
    } else {
        println!("SKIP: no block device below {}: {on_device}", spec.dir);
    }
    vms.driver.kill(&identity).await.unwrap();
    gone(&spec).await;
}

#[tokio::test]
async fn qemu_ends_when_its_unit_is_stopped() {
    let Some(vms) = Vms::qemu().and_then(Vms::in_units) else {
        return;
    };
    let mut spec = vms.make();
    // Its kernel has panicked: it does not go by itself.
    spec.stop_timeout = Duration::from_millis(500);
    let identity = vms.driver.launch(&spec).await.unwrap();
    assert_eq!(state(&spec).await, Some(State::Active));
    command("systemctl", &["stop", &unit_name(spec.vm)]).await;
    vms.driver.wait_dead(&identity).await.unwrap();
    // SIGTERM: QEMU flushes and ends by itself.
    let record = record(&vms, &spec).await;
    assert_eq!(record.identity, identity);
    assert_eq!(record.vmm, ProcessExit::Code(0));
    assert!(record.evidence.terminated, "{record:?}");
    gone(&spec).await;
    let again = vms.driver.launch(&spec).await.unwrap();
    vms.driver.kill(&again).await.unwrap();
}

#[tokio::test]
async fn standin_goes_down_in_order_when_its_unit_is_stopped() {
    let Some(vms) = Vms::standin().in_units() else {
        return;
    };
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    command("systemctl", &["stop", &unit_name(spec.vm)]).await;
    vms.driver.wait_dead(&identity).await.unwrap();
    let record = record(&vms, &spec).await;
    assert_eq!(record.guest.unwrap().reason, "shutdown");
    assert!(record.evidence.terminated && !record.evidence.host_down);
    gone(&spec).await;
}

#[tokio::test]
async fn qemu_without_memory_is_seen_to_be() {
    let Some(vms) = Vms::qemu().and_then(Vms::in_units) else {
        return;
    };
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    // The guest has just begun to boot. It will want much more than this.
    let folder = cgroup(&identity);
    let used: u64 = read(&folder, "memory.current").parse().unwrap();
    let limit = used + Bytes::mib(4).0;
    std::fs::write(folder.join("memory.max"), limit.to_string()).unwrap();
    vms.driver.wait_dead(&identity).await.unwrap();
    let record = record(&vms, &spec).await;
    assert_eq!(record.vmm, ProcessExit::Signal(9));
    assert!(record.evidence.oom_kills > 0, "{record:?}");
    gone(&spec).await;
    let unit = unit_name(spec.vm);
    until("systemd to say so in the journal", async || {
        command("journalctl", &["-u", &unit, "-o", "cat", "--no-pager"])
            .await
            .contains("killed by the OOM killer")
    })
    .await;
}

#[tokio::test]
async fn standin_speaks_in_the_journal_under_its_name() {
    let Some(vms) = Vms::standin().in_units() else {
        return;
    };
    let mut spec = vms.make();
    spec.name = format!("web-{}", spec.vm.short());
    let identity = vms.driver.launch(&spec).await.unwrap();
    let mut console = vms.driver.console(spec.vm, &spec.dir).await.unwrap();
    let said = b"\x1b[1m<0>hello journal\x1b[0m\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut console, said)
        .await
        .unwrap();
    let by_name = format!("HEARTH_VM_NAME={}", spec.name);
    let mut line = String::new();
    until("the line to be in the journal", async || {
        command("journalctl", &["--sync"]).await;
        let args = ["-o", "json", "--no-pager", &by_name];
        let lines = command("journalctl", &args).await;
        let found = lines.lines().find(|line| line.contains("hello journal"));
        found.inspect(|found| line = (*found).to_owned()).is_some()
    })
    .await;
    let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(fields["MESSAGE"], "<0>hello journal");
    assert_eq!(
        fields["PRIORITY"], "6",
        "the guest does not choose the level"
    );
    assert_eq!(fields["HEARTH_VM_ID"], spec.vm.to_string());
    assert_eq!(fields["SYSLOG_IDENTIFIER"], "hearth-vm");
    vms.driver.kill(&identity).await.unwrap();
    gone(&spec).await;
}

#[tokio::test]
async fn standin_takes_the_place_of_a_failed_unit() {
    let Some(vms) = Vms::standin().in_units() else {
        return;
    };
    let spec = vms.make();
    let unit = unit_name(spec.vm);
    let args = ["--unit", &unit, "--slice=hearth.slice", "false"];
    command("systemd-run", &args).await;
    until("the unit to fail", async || {
        state(&spec).await == Some(State::Failed)
    })
    .await;
    let identity = vms.driver.launch(&spec).await.unwrap();
    assert_eq!(state(&spec).await, Some(State::Active));
    vms.driver.kill(&identity).await.unwrap();
    gone(&spec).await;
}

#[tokio::test]
async fn standin_does_not_disturb_a_living_unit() {
    let Some(vms) = Vms::standin().in_units() else {
        return;
    };
    let spec = vms.make();
    let unit = unit_name(spec.vm);
    command(
        "systemd-run",
        &["--unit", &unit, "--collect", "sleep", "1000"],
    )
    .await;
    let refused = vms.driver.launch(&spec).await;
    assert!(
        matches!(refused, Err(VmmError::AlreadyRunning { vm }) if vm == spec.vm),
        "{refused:?}"
    );
    assert_eq!(state(&spec).await, Some(State::Active));
    command("systemctl", &["stop", &unit]).await;
    gone(&spec).await;
}

#[tokio::test]
async fn standin_without_a_shim_that_runs_is_an_error_that_says_why() {
    use hearth_vmm::Launcher;
    use hearth_vmm::qemu::{KvmMode, QemuConfig, QemuDriver};
    let Some(vms) = Vms::standin().in_units() else {
        return;
    };
    let spec = vms.make();
    let shim = spec.dir.join("no-program");
    std::fs::write(&shim, "").unwrap();
    let driver = QemuDriver::new(QemuConfig {
        binary: Some(env!("CARGO_BIN_EXE_hearth-vmm-standin").into()),
        shim: Some(shim),
        kvm: KvmMode::Off,
        launcher: Launcher::Unit,
        ..QemuConfig::default()
    });
    let error = driver.launch(&spec).await.unwrap_err().to_string();
    // 203: the program cannot be executed (systemd.exec(5)).
    assert!(error.contains("203"), "{error}");
    gone(&spec).await;
}

/// The survey of the daemon, whichever driver a VM has.
fn drivers() -> hearth_vmm::drivers::Drivers {
    use std::sync::Arc;

    use hearth_vmm::firecracker::{FirecrackerConfig, FirecrackerDriver};
    use hearth_vmm::qemu::{QemuConfig, QemuDriver};
    hearth_vmm::drivers::Drivers {
        qemu: Arc::new(QemuDriver::new(QemuConfig::default())),
        firecracker: Arc::new(FirecrackerDriver::new(FirecrackerConfig::default())),
        default: hearth_types::spec::DriverChoice::Qemu,
    }
}

#[tokio::test]
async fn standin_units_are_listed_and_one_of_no_vm_is_removed() {
    use std::collections::BTreeMap;

    use hearth_types::observe::UnitState;
    let Some(vms) = Vms::standin().in_units() else {
        return;
    };
    let drivers = drivers();
    let (alive, lost, foreign) = (vms.make(), vms.make(), vms.make());
    let identity = vms.driver.launch(&alive).await.unwrap();
    for (spec, owner) in [
        (&lost, lost.mark.to_string()),
        (&foreign, "somebody else".to_owned()),
    ] {
        let owner = format!("--setenv=HEARTH_OWNER={owner}");
        let unit = unit_name(spec.vm);
        command("systemd-run", &["--unit", &unit, &owner, "false"]).await;
        until("the unit to fail", async || {
            state(spec).await == Some(State::Failed)
        })
        .await;
    }
    // A VM of the database is known by its id, any other by its mark.
    let known = BTreeMap::from([(alive.vm, alive.dir.clone())]);
    for known in [known, BTreeMap::new()] {
        let found = drivers.units(vms.installation, &known).await.unwrap();
        let mut seen: Vec<_> = found.iter().map(|unit| (unit.mark, unit.state)).collect();
        seen.sort_unstable();
        let mut expected = vec![
            (alive.mark, UnitState::Active),
            (lost.mark, UnitState::Failed),
        ];
        expected.sort_unstable();
        assert_eq!(seen, expected);
        let unit = found.iter().find(|unit| unit.mark == lost.mark).unwrap();
        assert!(unit.since.unwrap() <= jiff::Timestamp::now());
    }
    let found = drivers.units(vms.installation, &BTreeMap::new()).await;
    let mut unit = found.unwrap();
    unit.retain(|unit| unit.mark == lost.mark);
    drivers.remove_unit(&unit[0]).await.unwrap();
    assert_eq!(state(&lost).await, None);
    drivers.remove_unit(&unit[0]).await.unwrap();
    // One that does not carry the mark is left alone.
    unit[0].mark = foreign.mark;
    drivers.remove_unit(&unit[0]).await.unwrap_err();
    assert_eq!(state(&foreign).await, Some(State::Failed));
    command("systemctl", &["reset-failed", &unit_name(foreign.vm)]).await;
    vms.driver.kill(&identity).await.unwrap();
    gone(&alive).await;
}

/// What the survey says of the limits of one VM.
async fn changed(vms: &Vms, spec: &LaunchSpec) -> Vec<(String, String, bool)> {
    let known = std::collections::BTreeMap::from([(spec.vm, spec.dir.clone())]);
    let units = drivers().units(vms.installation, &known).await.unwrap();
    let unit = units.iter().find(|unit| unit.mark == spec.mark).unwrap();
    let limits = unit.limits.known().expect("the limits are known");
    let limits = limits.iter();
    limits
        .map(|limit| (limit.name.clone(), limit.found.clone(), limit.fits))
        .collect()
}

#[tokio::test]
async fn standin_gets_back_the_limits_that_somebody_has_changed() {
    let Some(vms) = Vms::standin().in_units() else {
        return;
    };
    let mut spec = vms.make();
    spec.resources.cpu_weight = Some(50);
    let identity = vms.driver.launch(&spec).await.unwrap();
    let (folder, unit) = (cgroup(&identity), unit_name(spec.vm));
    let files = [
        "memory.max",
        "memory.high",
        "cpu.max",
        "cpu.weight",
        "pids.max",
    ];
    let whole = || files.map(|file| read(&folder, file));
    let before = whole();
    assert_eq!(changed(&vms, &spec).await, []);

    // By systemd, and behind its back.
    let args = [
        "set-property",
        "--runtime",
        &unit,
        "CPUWeight=7",
        "MemoryHigh=1G",
        "TasksMax=40",
    ];
    command("systemctl", &args).await;
    for (file, text) in [("cpu.max", "max"), ("memory.max", "max")] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let found = changed(&vms, &spec).await;
    let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
    let mut expected = files;
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert!(found.iter().all(|(.., fits)| *fits), "{found:?}");

    drivers().ensure_limits(&identity, &spec.dir).await.unwrap();
    assert_eq!(whole(), before);
    assert_eq!(changed(&vms, &spec).await, []);
    // The guest has not noticed: it is the same process.
    let state = vms.driver.run_state(spec.vm, &spec.dir, STEP).await;
    assert_eq!(state.unwrap(), hearth_types::observe::RunState::Running);

    // What is not the VMM of this unit is not proof enough.
    let mut other = identity.clone();
    other.start_time += 1;
    let refused = drivers().ensure_limits(&other, &spec.dir).await;
    assert!(
        matches!(refused, Err(VmmError::NotProven { .. })),
        "{refused:?}"
    );
    vms.driver.kill(&identity).await.unwrap();
    gone(&spec).await;
}
