//! What goes on without the daemon, and what QEMU is allowed to do.

#![expect(
    clippy::unwrap_used,
    reason = "part of tests: a failed unwrap is a failed test"
)]

mod common;

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use common::Vms;
use hearth_host::process::{Signal, prove, survey};
use hearth_types::ids::InstallationId;
use hearth_types::observe::{ObservedProcess, ProcessRole, RunState};
use hearth_types::process::{ProcessExit, ProcessIdentity};
use hearth_types::spec::Machine;
use hearth_vmm::{LaunchSpec, Vmm, VmmError};

const STEP: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(20);

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let work = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(STEP, work).await.is_ok(),
        "{what}: not within {} s",
        STEP.as_secs()
    );
}

fn find(installation: InstallationId, role: ProcessRole) -> Option<ObservedProcess> {
    let mut found = survey(installation).unwrap();
    found.retain(|process| process.role == role);
    assert!(found.len() < 2, "{found:?}");
    found.pop()
}

async fn state(vms: &Vms, spec: &LaunchSpec) -> RunState {
    vms.driver
        .run_state(spec.vm, &spec.dir, ANSWER)
        .await
        .unwrap()
}

/// The whole console log, rotated files first.
fn console(spec: &LaunchSpec) -> String {
    let log = |suffix: &str| {
        let bytes = std::fs::read(spec.dir.join(format!("console.log{suffix}")));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    };
    log(".2") + &log(".1") + &log("")
}

async fn survives_its_shim(vms: &Vms) {
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let vmm = find(vms.installation, ProcessRole::Vmm).unwrap();
    assert_eq!(vmm.identity, identity, "the survey finds what was launched");
    let shim = find(vms.installation, ProcessRole::Shim).unwrap();
    let shim = prove(&shim.identity).unwrap();
    for signal in [Signal::HUP, Signal::INT] {
        shim.signal(signal).unwrap();
    }
    assert_eq!(state(vms, &spec).await, RunState::Running);
    assert!(!shim.is_dead(), "it ends with its VMM, not before");
    shim.signal(Signal::KILL).unwrap();
    shim.wait_dead(STEP).await.unwrap();

    // More output than the pipe holds, now that nobody reads it.
    vms.driver.pause(spec.vm, &spec.dir).await.unwrap();
    vms.driver.resume(spec.vm, &spec.dir).await.unwrap();
    assert_eq!(state(vms, &spec).await, RunState::Running);
    let second = vms.driver.launch(&spec).await;
    assert!(
        matches!(second, Err(VmmError::AlreadyRunning { .. })),
        "the VMM itself holds the lock: {second:?}"
    );
    vms.driver.kill(&identity).await.unwrap();
    assert_eq!(vms.driver.exit_record(&spec.dir).await.unwrap(), None);
    let again = vms.driver.launch(&spec).await.unwrap();
    assert_ne!(again, identity);
    vms.driver.kill(&again).await.unwrap();
    assert!(vms.driver.exit_record(&spec.dir).await.unwrap().is_some());
}

#[tokio::test]
async fn standin_survives_its_shim() {
    survives_its_shim(&Vms::standin()).await;
}

#[tokio::test]
async fn qemu_survives_its_shim() {
    if let Some(vms) = Vms::qemu() {
        survives_its_shim(&vms).await;
    }
}

#[tokio::test]
async fn standin_in_a_unit_survives_its_shim() {
    if let Some(vms) = Vms::standin().in_units() {
        survives_its_shim(&vms).await;
    }
}

/// QEMU boots a chatty kernel whose console nobody reads: it must neither block nor die.
#[tokio::test]
async fn qemu_runs_its_guest_to_the_end_without_a_shim() {
    let Some(vms) = Vms::qemu() else { return };
    let mut spec = vms.make();
    spec.cmdline = vec!["ignore_loglevel panic=-1".to_owned()];
    let identity = vms.driver.launch(&spec).await.unwrap();
    let shim = find(vms.installation, ProcessRole::Shim).unwrap();
    prove(&shim.identity).unwrap().signal(Signal::KILL).unwrap();
    tokio::time::timeout(STEP, vms.driver.wait_dead(&identity))
        .await
        .expect("the guest panics and QEMU ends")
        .unwrap();
}

#[tokio::test]
async fn qemu_console_is_logged_and_capped_and_the_end_recorded() {
    let Some(mut vms) = Vms::qemu() else { return };
    for machine in [Machine::Microvm, Machine::Q35] {
        vms.machine = machine;
        let mut spec = vms.make();
        spec.cmdline = vec!["ignore_loglevel panic=-1".to_owned()];
        let identity = vms.driver.launch(&spec).await.unwrap();
        tokio::time::timeout(STEP, vms.driver.wait_dead(&identity))
            .await
            .expect("the guest panics and QEMU ends")
            .unwrap();
        let record = vms.driver.exit_record(&spec.dir).await.unwrap().unwrap();
        assert_eq!(record.vmm, ProcessExit::Code(0));
        assert_eq!(record.identity, identity);
        let text = console(&spec);
        assert!(text.contains("Kernel panic"), "{machine:?}: {text}");
        for suffix in ["", ".1", ".2"] {
            let path = spec.dir.join(format!("console.log{suffix}"));
            let size = path.metadata().map_or(0, |meta| meta.len());
            assert!(size <= spec.console.max_bytes, "{path}: {size}");
        }
        assert!(spec.dir.join("console.log.1").exists());
        assert!(!spec.dir.join("console.log.3").exists());
    }
}

#[tokio::test]
async fn qemu_has_no_privileges() {
    let Some(vms) = Vms::qemu() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: not root");
        return;
    }
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", identity.pid)).unwrap();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap().trim().replace('\t', " ")
    };
    let same = [spec.user.unwrap(); 4].map(|uid| uid.to_string()).join(" ");
    assert_eq!(field("Uid:"), same);
    assert_eq!(field("Gid:"), same);
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("CapPrm:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "a filter is on");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", identity.pid)).unwrap();
    let core = limits
        .lines()
        .find(|line| line.contains("core file"))
        .unwrap();
    assert_eq!(
        core.split_whitespace().filter(|&word| word == "0").count(),
        2
    );
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", identity.pid)).unwrap();
    assert_eq!(cwd, spec.dir);
    let folder = std::fs::metadata(&spec.dir).unwrap();
    assert_eq!(folder.uid(), 0, "it may not change its folder");
    assert_eq!(folder.mode() & 0o777, 0o710);
    vms.driver.kill(&identity).await.unwrap();
}

#[tokio::test]
async fn qemu_that_is_stopped_keeps_nobody_waiting() {
    let Some(vms) = Vms::qemu() else { return };
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    prove(&identity).unwrap().signal(Signal::STOP).unwrap();
    let short = Duration::from_millis(200);
    let asked = vms.driver.run_state(spec.vm, &spec.dir, short).await;
    assert!(matches!(asked, Err(VmmError::Control { .. })), "{asked:?}");
    assert!(find(vms.installation, ProcessRole::Vmm).is_some());
    vms.driver.kill(&identity).await.unwrap();
}

#[tokio::test]
async fn qemu_boot_check_knows_a_booting_guest() {
    let Some(vms) = Vms::qemu() else { return };
    let kernel = vms.make().kernel;
    vms.driver.boots(&kernel, false, STEP).await.unwrap();
    // Nothing boots in no time: the guest is ended and the answer is no.
    let hasty = vms
        .driver
        .boots(&kernel, false, Duration::from_millis(1))
        .await;
    assert!(hasty.is_err());
    // Whatever KVM does here, the answer comes.
    let kvm = vms
        .driver
        .boots(&kernel, true, Duration::from_secs(3))
        .await;
    println!("KVM: {kvm:?}");
}

/// Where a launcher that is about to be killed says what it launched.
const LAUNCHER: &str = "HEARTH_TEST_LAUNCHER";

/// The other half of [`standin_survives_its_launcher`]: does nothing by itself.
#[tokio::test]
async fn launcher_half() {
    let Ok(file) = std::env::var(LAUNCHER) else {
        return;
    };
    let vms = Vms::standin();
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let said = serde_json::to_vec(&(identity, spec.dir, spec.vm)).unwrap();
    std::fs::write(file, said).unwrap();
    rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn standin_survives_its_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("launched");
    let mut launcher = tokio::process::Command::new(std::env::current_exe().unwrap());
    let ended = launcher
        .args(["--exact", "launcher_half", "--nocapture"])
        .env(LAUNCHER, &file)
        .output();
    let ended = tokio::time::timeout(STEP, ended).await.unwrap().unwrap();
    assert_eq!(ended.status.signal(), Some(9), "{ended:?}");
    let said = std::fs::read(file).unwrap();
    let (identity, folder, vm): (ProcessIdentity, camino::Utf8PathBuf, _) =
        serde_json::from_slice(&said).unwrap();

    let vms = Vms::standin();
    let state = vms.driver.run_state(vm, &folder, ANSWER).await.unwrap();
    assert_eq!(state, RunState::Running);
    vms.driver.kill(&identity).await.unwrap();
    let record = vms.driver.exit_record(&folder).await.unwrap().unwrap();
    assert_eq!(record.identity, identity);
    until("the shim to end", async || {
        survey(identity.mark.installation).unwrap().is_empty()
    })
    .await;
    std::fs::remove_dir_all(folder.parent().unwrap().parent().unwrap()).unwrap();
}

/// A caller that gave up before the answer takes the launch for failed.
#[tokio::test]
async fn a_launch_that_nobody_waits_for_is_undone() {
    let vms = Vms::standin();
    let spec = vms.make();
    let request = serde_json::json!({
        "vm": spec.vm, "mark": spec.mark, "dir": spec.dir,
        "program": env!("CARGO_BIN_EXE_hearth-vmm-standin"),
        "args": ["-chardev", "socket,id=qmp,fd={fd:qmp},server=on"],
        "files": [], "sockets": [{"name": "qmp", "file": "qmp.sock"}],
        "owned": [], "user": null, "groups": [],
        "console_bytes": 1000, "console_keep": 1, "max_millis": null,
    });
    let mut shim = std::process::Command::new(env!("CARGO_BIN_EXE_hearth-shim"))
        .env("HEARTH_OWNER", spec.mark.to_string())
        .env("HEARTH_ROLE", "shim")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(shim.stdout.take());
    serde_json::to_writer(shim.stdin.take().unwrap(), &request).unwrap();
    assert!(shim.wait().unwrap().success(), "it detaches at once");
    let log = spec.dir.join("vmm.log");
    until("the launch to have begun", async || log.exists()).await;
    until("the launch to be undone", async || {
        survey(vms.installation).unwrap().is_empty()
    })
    .await;
    assert!(!spec.dir.join("qmp.sock").exists());
    assert_eq!(vms.driver.exit_record(&spec.dir).await.unwrap(), None);
}

/// A uid that says "nobody in particular" must not turn out to be the host's root.
#[tokio::test]
async fn standin_is_not_started_as_root_by_its_number() {
    let vms = Vms::standin();
    let mut spec = vms.make();
    spec.user = Some(0);
    let refused = vms.driver.launch(&spec).await.unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("user 0 is root"), "{said}");
    assert_eq!(find(vms.installation, ProcessRole::Vmm), None);
    assert_eq!(find(vms.installation, ProcessRole::Shim), None);
    assert!(!spec.dir.join("vmm.lock").exists(), "nothing was begun");
}
