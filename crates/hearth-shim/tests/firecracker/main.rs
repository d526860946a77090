//! The Firecracker driver's contract, with the real shim: against stand-in processes, and
//! against the real one that `HEARTH_TEST_FIRECRACKER` names.
//!
//! The real one is launched without asking whether KVM runs guests: all promises here are
//! about the VMM, and hold where its guest does not get far.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "part of tests: a failed unwrap is a failed test, and a skip is said"
)]

#[path = "../common/ground.rs"]
mod ground;
mod promises;

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::process::{Signal, prove, survey};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::observe::{ProcessRole, RunState};
use hearth_types::process::{ProcessExit, ProcessIdentity};
use hearth_types::resources::Resources;
use hearth_types::spec::{DriverChoice, Machine};
use hearth_types::units::Bytes;
use hearth_vmm::contract::{self, Fixture};
use hearth_vmm::firecracker::{FirecrackerConfig, FirecrackerDriver, Kvm};
use hearth_vmm::{Disk, KernelFiles, LaunchSpec, Launcher, LogLimits, Vmm};

use ground::{Ground, set_mode};

/// An unprivileged uid that owns nothing.
const UID: u32 = 54_322;
const STEP: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(20);

struct Vms {
    driver: FirecrackerDriver,
    ground: Ground,
    installation: InstallationId,
    kernel: Utf8PathBuf,
    standin: bool,
    pauses: bool,
}

impl Vms {
    fn standin() -> Option<Self> {
        let standin = env!("CARGO_BIN_EXE_hearth-firecracker-standin");
        Self::new(standin.into(), true, |path| {
            let mut image = vec![0; 4096];
            image[..4].copy_from_slice(b"\x7fELF");
            std::fs::write(path, image).unwrap();
        })
    }

    fn real() -> Option<Self> {
        let Ok(binary) = std::env::var("HEARTH_TEST_FIRECRACKER") else {
            println!("SKIP: HEARTH_TEST_FIRECRACKER names no Firecracker");
            return None;
        };
        if !std::fs::exists("/dev/kvm").unwrap_or(false) {
            println!("SKIP: there is no /dev/kvm, and Firecracker makes no VM without it");
            return None;
        }
        let named = std::env::var("HEARTH_TEST_KERNEL").unwrap_or_default();
        let kept = ["/var/cache/hearth-test/vmlinuz".to_owned(), named];
        let Some(bzimage) = kept.iter().rev().find(|path| Utf8Path::new(path).is_file()) else {
            println!("SKIP: no kernel; set HEARTH_TEST_KERNEL to a bzImage");
            return None;
        };
        let bytes = std::fs::read(bzimage).unwrap();
        let image = hearth_kernel::bzimage::parse(&bytes).unwrap();
        let elf = hearth_kernel::bzimage::extract_elf(&image).unwrap();
        Self::new(binary.into(), false, |path| {
            std::fs::write(path, &elf).unwrap();
        })
    }

    fn new(binary: Utf8PathBuf, standin: bool, kernel: impl Fn(&Utf8Path)) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: not root, so there is no cage");
            return None;
        }
        let said = std::process::Command::new(&binary)
            .arg("--version")
            .output()
            .unwrap();
        // Those lose their vsock device by it.
        let pauses = !String::from_utf8_lossy(&said.stdout).starts_with("Firecracker v1.16.");
        let ground = Ground::new();
        let path = ground.path("vmlinux");
        kernel(&path);
        set_mode(&path, 0o644);
        Some(Self {
            driver: FirecrackerDriver::new(FirecrackerConfig {
                binary: Some(binary),
                shim: Some(env!("CARGO_BIN_EXE_hearth-shim").into()),
                probe_cache: None,
                kvm: Kvm::Assumed,
                cpu_template: None,
                launcher: Launcher::Direct,
            }),
            installation: ground.installation,
            ground,
            kernel: path,
            standin,
            pauses,
        })
    }

    fn make(&self) -> LaunchSpec {
        let vm = VmId::new();
        let dir = self.ground.folder(vm, &["root.img", "data.img"]);
        let disk = |name: &str, read_only| Disk {
            file: format!("{name}.img"),
            serial: name.to_owned(),
            read_only,
            device: None,
            lent: false,
        };
        LaunchSpec {
            vm,
            name: "test".to_owned(),
            mark: OwnerMark::of_vm(self.installation, vm),
            driver: DriverChoice::Firecracker,
            vcpus: 1,
            memory: Bytes::mib(128),
            machine: Machine::Microvm,
            kernel: KernelFiles {
                bzimage: None,
                elf: Some(self.kernel.clone()),
            },
            initramfs: dir.join("initrd"),
            dir,
            // The kernel finds no root and panics; it stays there for ever.
            cmdline: vec!["panic=0".to_owned()],
            disks: vec![disk("root", false), disk("data", true)],
            nic: None,
            cid: 3,
            resources: Resources {
                io_read_bps: Some(Bytes::mib(100)),
                io_write_bps: Some(Bytes::mib(50)),
                ..Resources::default()
            },
            stop_timeout: Duration::from_secs(1),
            user: Some(UID),
            qemu_agent: false,
            crash_dump: hearth_types::spec::CrashDump::default(),
            console: LogLimits {
                max_bytes: 10_000,
                keep: 2,
            },
        }
    }

    async fn state(&self, spec: &LaunchSpec) -> RunState {
        self.driver
            .run_state(spec.vm, &spec.dir, ANSWER)
            .await
            .unwrap()
    }
}

#[async_trait]
impl Fixture for Vms {
    fn vmm(&self) -> &dyn Vmm {
        &self.driver
    }

    async fn spec(&self) -> LaunchSpec {
        self.make()
    }

    fn guest_reports(&self) -> bool {
        self.standin
    }

    fn console_echoes(&self) -> bool {
        self.standin
    }

    fn has_processes(&self) -> bool {
        true
    }

    fn pauses(&self) -> bool {
        self.pauses
    }

    fn quit_exit(&self) -> ProcessExit {
        ProcessExit::Signal(15)
    }
}

macro_rules! promises {
    ($($name:ident => $promise:expr;)*) => {
        mod standin {
            use super::*;

            $(
                #[tokio::test]
                async fn $name() {
                    if let Some(vms) = Vms::standin() {
                        $promise(&vms).await;
                    }
                }
            )*
        }

        mod real {
            use super::*;

            $(
                #[tokio::test]
                async fn $name() {
                    if let Some(vms) = Vms::real() {
                        $promise(&vms).await;
                    }
                }
            )*
        }
    };
}

promises! {
    runs_after_launch => contract::runs_after_launch;
    one_vmm_per_vm => contract::one_vmm_per_vm;
    pause_and_resume => contract::pause_and_resume_are_idempotent;
    devices => contract::devices_are_counted;
    quit => contract::quit_ends_and_leaves_a_record;
    kill_needs_proof => contract::kill_needs_proof;
    death_is_noticed => contract::death_is_noticed;
    failed_launches => contract::failed_launches_leave_nothing;
    consoles => contract::consoles_are_served;
    guests_report => contract::guests_report;
    survives_its_shim => promises::survives_its_shim;
    has_no_privileges => promises::has_no_privileges;
    sees_nothing_of_the_host => promises::sees_nothing_of_the_host;
    a_stopped_one_keeps_nobody_waiting => promises::a_stopped_one_keeps_nobody_waiting;
    figures => promises::figures;
    a_mark_of_the_run_before_does_not_count => promises::a_mark_of_the_run_before_does_not_count;
}

/// Has the shim execute the stand-in for a caller that is a process of this test's.
fn launch_for(caller: &std::process::Child, vms: &Vms, spec: &LaunchSpec) -> ProcessIdentity {
    use hearth_shim::identity::Instance;
    let pid = i32::try_from(caller.id()).unwrap();
    let request = hearth_shim::Request {
        vm: spec.vm,
        mark: spec.mark,
        dir: spec.dir.clone(),
        program: env!("CARGO_BIN_EXE_hearth-firecracker-standin").into(),
        args: vec!["--api-sock".to_owned(), "run/api.sock".to_owned()],
        files: Vec::new(),
        taps: Vec::new(),
        sockets: Vec::new(),
        owned: Vec::new(),
        lent: Vec::new(),
        user: spec.user,
        groups: Vec::new(),
        oom_score: Some(700),
        core_bytes: None,
        console_bytes: 1000,
        console_keep: 0,
        max_millis: None,
        driver: Some("firecracker".to_owned()),
        caller: Instance::of(pid).unwrap(),
        stop: None,
        cage: Some(hearth_shim::Cage::default()),
    };
    let mut shim = std::process::Command::new(env!("CARGO_BIN_EXE_hearth-shim"))
        .env("HEARTH_OWNER", spec.mark.to_string())
        .env("HEARTH_ROLE", "shim")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    serde_json::to_writer(shim.stdin.take().unwrap(), &request).unwrap();
    let answer = std::io::read_to_string(shim.stdout.take().unwrap()).unwrap();
    shim.wait().unwrap();
    match serde_json::from_str(&answer).unwrap() {
        hearth_shim::Answer::Started(identity) => identity,
        failed => panic!("{failed:?} for {}", vms.installation),
    }
}

fn caller() -> std::process::Child {
    std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let work = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(STEP, work).await.is_ok(), "{what}");
}

/// In a cage, too, which has no `/proc` to say it in.
#[tokio::test]
async fn a_vmm_goes_for_want_of_memory_before_its_shim() {
    let Some(vms) = Vms::standin() else { return };
    let mut caller = caller();
    let identity = launch_for(&caller, &vms, &vms.make());
    let score = |pid: i32| {
        let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
        score.unwrap().trim().parse::<i32>().unwrap()
    };
    assert_eq!(score(identity.pid), 700);
    let own = i32::try_from(std::process::id()).unwrap();
    let processes = survey(vms.installation).unwrap();
    let shim = processes
        .iter()
        .find(|process| process.identity != identity);
    assert_eq!(score(shim.unwrap().identity.pid), score(own));
    caller.kill().unwrap();
    caller.wait().unwrap();
    vms.driver.wait_dead(&identity).await.unwrap();
}

/// Between exec and the guest's start: the VMM goes with its caller, and it was no run.
#[tokio::test]
async fn a_launch_whose_caller_dies_before_the_guest_starts_is_undone() {
    let Some(vms) = Vms::standin() else { return };
    let spec = vms.make();
    let mut caller = caller();
    let identity = launch_for(&caller, &vms, &spec);
    until("its API to listen", || {
        let path = format!("/proc/{}/root/run/api.sock", identity.pid);
        std::fs::exists(path).unwrap_or(false)
    })
    .await;
    assert_eq!(
        vms.state(&spec).await,
        RunState::Ended,
        "what is not started will never be"
    );
    caller.kill().unwrap();
    caller.wait().unwrap();
    vms.driver.wait_dead(&identity).await.unwrap();
    until("the shim to end", || {
        survey(vms.installation).unwrap().is_empty()
    })
    .await;
    assert_eq!(vms.driver.exit_record(&spec.dir).await.unwrap(), None);
    let again = vms.driver.launch(&spec).await.unwrap();
    vms.driver.kill(&again).await.unwrap();
}

/// Once the launch is marked as complete, nobody has to live for it.
#[tokio::test]
async fn a_complete_launch_survives_its_caller() {
    let Some(vms) = Vms::standin() else { return };
    let spec = vms.make();
    let mut caller = caller();
    let identity = launch_for(&caller, &vms, &spec);
    std::fs::write(spec.dir.join(hearth_shim::LAUNCHED), "").unwrap();
    caller.kill().unwrap();
    caller.wait().unwrap();
    let lives = tokio::time::timeout(Duration::from_millis(300), vms.driver.wait_dead(&identity));
    assert!(lives.await.is_err(), "it was ended");
    vms.driver.kill(&identity).await.unwrap();
    let record = vms.driver.exit_record(&spec.dir).await.unwrap().unwrap();
    assert_eq!(record.vmm, ProcessExit::Signal(9));
}

/// Its agent does not answer: the keys are pressed on its API's socket, which lies in the
/// cage and belongs to the VMM's uid.
#[tokio::test]
async fn a_guest_goes_down_when_the_shim_is_told_to_end() {
    let Some(vms) = Vms::standin() else { return };
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let found = survey(vms.installation).unwrap();
    let shim = found
        .iter()
        .find(|process| process.role == ProcessRole::Shim);
    let shim = prove(&shim.unwrap().identity).unwrap();
    shim.signal(Signal::TERM).unwrap();
    let dead = vms.driver.wait_dead(&identity);
    tokio::time::timeout(STEP, dead).await.unwrap().unwrap();
    let record = vms.driver.exit_record(&spec.dir).await.unwrap().unwrap();
    let log = std::fs::read_to_string(spec.dir.join("vmm.log")).unwrap();
    assert!(record.guest.is_some(), "{record:?} {log}");
    assert!(record.evidence.terminated, "{record:?}");
    assert!(log.contains("said SendCtrlAltDel"), "{log}");
}
