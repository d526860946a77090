//! The shim is told to end, as systemd does when the host goes down: the guest is asked
//! first, and the VMM ended only when the guest does not go.

#![expect(
    clippy::unwrap_used,
    reason = "part of tests: a failed unwrap is a failed test"
)]

mod common;

use std::time::Duration;

use common::Vms;
use hearth_host::process::{Signal, prove, survey};
use hearth_types::observe::{ProcessRole, RunState};
use hearth_types::process::{ExitRecord, ProcessExit, ProcessIdentity};
use hearth_vmm::{LaunchSpec, Vmm};

const STEP: Duration = Duration::from_secs(60);

fn tell(vms: &Vms) {
    let found = survey(vms.installation).unwrap();
    let shim = found
        .iter()
        .find(|process| process.role == ProcessRole::Shim);
    let shim = prove(&shim.unwrap().identity).unwrap();
    shim.signal(Signal::TERM).unwrap();
}

async fn ended(vms: &Vms, spec: &LaunchSpec, identity: &ProcessIdentity) -> ExitRecord {
    let dead = vms.driver.wait_dead(identity);
    tokio::time::timeout(STEP, dead)
        .await
        .expect("it ends")
        .unwrap();
    let record = vms.driver.exit_record(&spec.dir).await.unwrap();
    let record = record.expect("an exit record");
    assert_eq!(record.identity, *identity);
    assert!(record.evidence.terminated, "{record:?}");
    assert!(!record.evidence.host_down, "{record:?}");
    record
}

fn vmm_log(spec: &LaunchSpec) -> String {
    std::fs::read_to_string(spec.dir.join("vmm.log")).unwrap()
}

#[tokio::test]
async fn standin_without_an_agent_hears_the_power_button() {
    hears_the_power_button(Vms::standin()).await;
}

#[tokio::test]
async fn standin_in_a_unit_hears_the_power_button() {
    if let Some(vms) = Vms::standin().in_units() {
        hears_the_power_button(vms).await;
    }
}

async fn hears_the_power_button(vms: Vms) {
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    tell(&vms);
    let record = ended(&vms, &spec, &identity).await;
    assert_eq!(record.vmm, ProcessExit::Code(0));
    assert_eq!(record.guest.unwrap().reason, "shutdown");
    let log = vmm_log(&spec);
    assert!(log.contains("the guest is asked to go down"), "{log}");
}

#[tokio::test]
async fn standin_that_is_paused_is_asked_all_the_same() {
    let vms = Vms::standin();
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    vms.driver.pause(spec.vm, &spec.dir).await.unwrap();
    tell(&vms);
    let record = ended(&vms, &spec, &identity).await;
    assert_eq!(record.guest.unwrap().reason, "shutdown");
}

/// Its kernel has panicked and stays there: nothing in it hears anything.
#[tokio::test]
async fn qemu_whose_guest_does_not_go_is_ended_in_the_end() {
    let Some(vms) = Vms::qemu() else { return };
    let mut spec = vms.make();
    spec.stop_timeout = Duration::from_millis(500);
    let identity = vms.driver.launch(&spec).await.unwrap();
    tell(&vms);
    // Told twice is told once.
    tell(&vms);
    let answer = Duration::from_secs(20);
    let state = vms.driver.run_state(spec.vm, &spec.dir, answer).await;
    assert_eq!(state.unwrap(), RunState::Running, "it gets its time");
    let record = ended(&vms, &spec, &identity).await;
    // By SIGTERM: QEMU flushes its disks and ends by itself.
    assert_eq!(record.vmm, ProcessExit::Code(0));
    assert_eq!(record.guest, None);
    let log = vmm_log(&spec);
    assert!(log.contains("did not go down in time"), "{log}");
    let again = vms.driver.launch(&spec).await.unwrap();
    vms.driver.kill(&again).await.unwrap();
}
