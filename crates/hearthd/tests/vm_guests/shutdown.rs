//! The shim of a VM is told to end, as systemd does when the host goes down or somebody
//! stops the VM's unit: the guest goes down in order, and the VM comes back as it was.

use hearth_types::spec::RestartPolicy;
use hearth_types::status::EndClass;

use crate::harness::{Host, Vm, eventually, processes_of, spec, words};

/// A workload that says goodbye.
const WORKLOAD: &str = "trap 'echo goodbye > /said; exit 0' TERM; while :; do sleep 1; done";

async fn vm(host: &Host) -> Vm {
    let mut spec = spec("web");
    spec.restart = RestartPolicy::Always;
    spec.command = Some(words(&["sh", "-c", WORKLOAD]));
    let vm = host.run(spec).await;
    vm.healthy().await;
    // In the guest's memory, not yet on its disk.
    vm.must("echo precious > /unsynced").await;
    vm
}

fn tell_shims(host: &Host) {
    let shims = processes_of(host.installation());
    let shims: Vec<_> = shims.iter().filter(|(_, role)| role == "shim").collect();
    assert_eq!(shims.len(), 1, "{shims:?}");
    let pid = rustix::process::Pid::from_raw(shims[0].0).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

async fn came_back_whole(vm: &Vm) {
    vm.until("it runs again", |vm| {
        vm.pid.is_some() && vm.last_end.is_some()
    })
    .await;
    vm.healthy().await;
    assert_eq!(vm.must("cat /unsynced /said").await, "precious\ngoodbye");
    let end = vm.look().await.last_end.unwrap();
    assert_eq!(end.class, EndClass::Killed, "{end:?}");
    assert!(end.reason.contains("from outside"), "{end:?}");
}

/// As when the host goes down: the daemon is gone already.
#[tokio::test(flavor = "multi_thread")]
async fn vm_goes_down_in_order_without_the_daemon() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let vm = vm(&host).await;
    host.kill_daemon().await;
    tell_shims(&host);
    eventually("its processes end", || async {
        let left = processes_of(host.installation());
        let of_vm = left.iter().any(|(_, role)| role == "shim" || role == "vmm");
        (!of_vm).then_some(())
    })
    .await;
    let log = std::fs::read_dir(host.data().join("vms")).unwrap();
    for dir in log {
        let log = std::fs::read_to_string(dir.unwrap().path().join("vmm.log")).unwrap();
        assert!(log.contains("its agent has agreed"), "{log}");
    }
    host.start_daemon().await;
    came_back_whole(&vm).await;
    vm.remove().await;
    host.clean().await;
}

/// As with `systemctl stop` of one unit: the daemon has the agent's channel, which takes
/// one client, so the guest hears its power button.
#[tokio::test(flavor = "multi_thread")]
async fn vm_goes_down_in_order_beside_the_daemon() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let vm = vm(&host).await;
    tell_shims(&host);
    came_back_whole(&vm).await;
    vm.remove().await;
    host.clean().await;
}
