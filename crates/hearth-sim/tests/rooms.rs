//! The simulated host behind the traits of the rooms, in virtual time.

use std::time::Duration;

use camino::Utf8PathBuf;
use hearth_net::{NetError, Network, TapSpec};
use hearth_sim::rooms::Rooms;
use hearth_sim::{Guest, Kind, Reaction, SimHost, SimTap};
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::names::tap_name;
use hearth_types::observe::RunState;
use hearth_types::process::ProcessExit;
use hearth_types::{Bytes, OwnerMark};
use hearth_vmm::{KernelFiles, LaunchSpec, LogLimits, Nic, Vmm, VmmError};
use jiff::Timestamp;

fn rooms() -> (Rooms, InstallationId, VmId) {
    let installation = InstallationId::new();
    let host = SimHost::new(installation, Timestamp::UNIX_EPOCH);
    (Rooms::new(host), installation, VmId::new())
}

fn launch_spec(vm: VmId, installation: InstallationId) -> LaunchSpec {
    LaunchSpec {
        vm,
        name: "web".to_owned(),
        mark: OwnerMark::of_vm(installation, vm),
        dir: Utf8PathBuf::from(format!("/vms/{vm}")),
        vcpus: 1,
        memory: Bytes::mib(128),
        machine: Default::default(),
        kernel: KernelFiles {
            bzimage: None,
            elf: None,
        },
        initramfs: Utf8PathBuf::new(),
        cmdline: Vec::new(),
        disks: Vec::new(),
        nic: None,
        cid: 3,
        driver: hearth_types::spec::DriverChoice::Auto,
        resources: hearth_types::resources::Resources::default(),
        stop_timeout: Duration::from_secs(10),
        user: None,
        qemu_agent: false,
        crash_dump: hearth_types::spec::CrashDump::default(),
        console: LogLimits {
            max_bytes: 1,
            keep: 0,
        },
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_obeys_the_power_button_and_its_death_is_noticed() {
    let (rooms, installation, vm) = rooms();
    let slow = Guest {
        power_button: Reaction::Obeys(3),
        ..Guest::default()
    };
    rooms.change(|host| host.guests.insert(vm, slow));
    let spec = launch_spec(vm, installation);
    let identity = rooms.launch(&spec).await.unwrap();
    let deadline = Duration::from_secs(1);
    let state = rooms.run_state(vm, &spec.dir, deadline).await.unwrap();
    assert_eq!(state, RunState::Running);
    rooms.power_button(vm, &spec.dir).await.unwrap();
    rooms.wait_dead(&identity).await.unwrap();
    assert!(rooms.now() >= Timestamp::UNIX_EPOCH + Duration::from_secs(3));
    // The shim writes the record a moment later, and goes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let record = rooms.exit_record(&spec.dir).await.unwrap().unwrap();
    assert_eq!(
        (record.identity, record.vmm),
        (identity, ProcessExit::Code(0))
    );
    assert_eq!(rooms.processes(), Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_kill_wakes_those_who_wait() {
    let (rooms, installation, vm) = rooms();
    let identity = rooms.launch(&launch_spec(vm, installation)).await.unwrap();
    let (waited, killed) = tokio::join!(rooms.wait_dead(&identity), rooms.kill(&identity));
    waited.unwrap();
    killed.unwrap();
    rooms.kill(&identity).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_launch_is_refused() {
    let (rooms, installation, vm) = rooms();
    let spec = launch_spec(vm, installation);
    rooms.launch(&spec).await.unwrap();
    let refused = rooms.launch(&spec).await;
    assert!(matches!(refused, Err(VmmError::AlreadyRunning { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_launch_with_a_nic_needs_its_tap_and_faults_can_be_set() {
    let (rooms, installation, vm) = rooms();
    let tap = TapSpec {
        name: tap_name(vm),
        mark: OwnerMark::of_vm(installation, vm),
        uid: 0,
    };
    let mut spec = launch_spec(vm, installation);
    spec.nic = Some(Nic {
        tap: tap.name.clone(),
        mac: hearth_types::net::MacAddr([6, 0x48, 0, 0, 0, 2]),
    });
    assert!(matches!(
        rooms.launch(&spec).await,
        Err(VmmError::Start { .. })
    ));
    rooms.ensure_bridge().await.unwrap();
    rooms.ensure_tap(&tap).await.unwrap();
    rooms.change(|host| host.faults.insert("start_vmm", 1));
    assert!(rooms.launch(&spec).await.is_err());
    rooms.launch(&spec).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn neighbours_and_failed_surveys_are_errors() {
    let (rooms, installation, vm) = rooms();
    let name = tap_name(vm);
    let foreign = SimTap {
        index: 1,
        mark: None,
        attached: true,
        foreign: true,
    };
    rooms.change(|host| host.taps.insert(name.clone(), foreign));
    rooms.ensure_bridge().await.unwrap();
    assert_eq!(rooms.taps().await.unwrap(), []);
    let tap = TapSpec {
        name,
        mark: OwnerMark::of_vm(installation, vm),
        uid: 0,
    };
    assert!(matches!(
        rooms.ensure_tap(&tap).await,
        Err(NetError::Foreign { .. })
    ));
    rooms.change(|host| host.unknown.extend([Kind::Taps, Kind::Processes]));
    assert!(rooms.taps().await.is_err());
    assert!(rooms.processes().is_err());
}
