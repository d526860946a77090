//! The daemon is killed before and after its effects, at the worst moments there are.

use hearth_types::status::Phase;

use crate::harness::{Host, Vm, eventually, processes_of, spec};

/// A host whose daemon has failpoints.
async fn host() -> Option<Host> {
    if !cfg!(feature = "failpoints") {
        println!("SKIP: built without the feature failpoints");
        return None;
    }
    Host::new().await
}

/// Kills the daemon at this place in its next life.
fn arm(host: &mut Host, place: &str) {
    host.set("FAILPOINT", place);
}

/// Waits for the daemon's death at the armed place, and starts a sound one.
async fn die_and_come_back(host: &mut Host, place: &str) {
    host.daemon_ends().await;
    let log = host.log();
    let last = log.lines().rfind(|line| line.contains("failpoint reached"));
    let (side, step) = place.split_once(':').unwrap();
    let last = last.unwrap_or_else(|| panic!("{place} was not reached"));
    assert!(last.contains(side) && last.contains(step), "{last}");
    host.unset("FAILPOINT");
    host.start_daemon().await;
}

fn vmms(host: &Host) -> Vec<i32> {
    let all = processes_of(host.installation());
    let vmms = all.into_iter().filter(|(_, role)| role == "vmm");
    vmms.map(|(pid, _)| pid).collect()
}

/// The VM that was asked for, even if the daemon died before it could answer.
async fn wanted(host: &Host, name: &str) -> Vm {
    host.ask_for(spec(name)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_comes_up_whenever_the_daemon_is_killed_on_the_way() {
    let Some(mut host) = host().await else {
        return;
    };
    host.set("ORPHAN_GRACE", "0s");
    let places = [
        "before:ensure_bridge",
        "after:apply_rules",
        "before:ensure_disks",
        "after:ensure_disks",
        "after:ensure_tap",
        "before:start_vmm",
        "after:launch",
        "after:start_vmm",
    ];
    for (number, place) in places.into_iter().enumerate() {
        let name = format!("vm-{number}");
        arm(&mut host, place);
        host.start_daemon().await;
        // It may die before the answer is out; the same request has the same key.
        host.create(spec(&name), true, None).await.ok();
        die_and_come_back(&mut host, place).await;
        let vm = wanted(&host, &name).await;
        vm.healthy().await;
        let alive = vmms(&host);
        assert_eq!(alive, [vm.pid().await], "{place}: one VMM, the known one");
        host.settled().await;
        vm.remove().await;
        host.clean().await;
        host.terminate_daemon().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_goes_away_whenever_the_daemon_is_killed_on_the_way() {
    let Some(mut host) = host().await else {
        return;
    };
    host.set("ORPHAN_GRACE", "0s");
    let places = [
        "before:stop",
        "after:stop",
        "before:remove_tap",
        "after:remove_tap",
        "before:remove_dir",
        "after:remove_dir",
        "before:forget",
        "after:forget",
        "before:remove_rules",
        "after:remove_bridge",
    ];
    for (number, place) in places.into_iter().enumerate() {
        arm(&mut host, place);
        host.start_daemon().await;
        let vm = host.run(spec(&format!("vm-{number}"))).await;
        vm.ask_to_remove().await;
        die_and_come_back(&mut host, place).await;
        let gone = || async {
            let vms = host.client.all_vms(&[]).await.unwrap();
            vms.is_empty().then_some(())
        };
        eventually("the removal", gone).await;
        host.clean().await;
        host.settled().await;
        host.terminate_daemon().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_stopped_whenever_the_daemon_is_killed_on_the_way() {
    let Some(mut host) = host().await else {
        return;
    };
    for (number, place) in ["before:stop", "after:stop"].into_iter().enumerate() {
        arm(&mut host, place);
        host.start_daemon().await;
        let vm = host.run(spec(&format!("vm-{number}"))).await;
        vm.healthy().await;
        vm.ask_to_stop().await;
        die_and_come_back(&mut host, place).await;
        vm.phase(Phase::Exited).await;
        assert_eq!(vmms(&host), Vec::<i32>::new());
        vm.remove().await;
        host.clean().await;
        host.terminate_daemon().await;
    }
}
