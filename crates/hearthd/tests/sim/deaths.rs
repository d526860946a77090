//! A death is noticed at once, whatever the loop is at: it is recorded and told, and the back-off runs.

use std::time::Duration;

use hearth_plan::transition::elapsed;
use hearth_sim::Reaction;
use hearth_types::ids::{EventSeq, VmId};
use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};
use jiff::Timestamp;
use tokio::sync::watch;

use super::stuck::hang_in;
use super::world::{Life, World, root, spec};

/// From a death to its record.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Longer than a look at the host may take.
const LOOK: Duration = Duration::from_secs(40);
/// What the host can be looked at for, and what a look can hang at.
const KINDS: [&str; 6] = ["processes", "taps", "units", "bridge", "rules", "names"];

/// VMs that are always to run, and do.
async fn running(life: &Life, count: usize) -> Vec<VmId> {
    let mut vms = Vec::new();
    for n in 0..count {
        let mut spec = spec(&format!("vm-{n}"));
        spec.restart = RestartPolicy::Always;
        vms.push(life.create(spec, Goal::Running).await);
    }
    life.settled("they run").await;
    vms
}

/// A look at everything begins, and hangs.
async fn look_hangs_at(life: &Life, kind: &'static str) {
    life.rooms.change(|host| host.hung.insert(kind));
    life.engine.look_at_everything();
    let looks = |host: &hearth_sim::SimHost| host.looks.get(kind).copied();
    let before = life.rooms.see(looks);
    life.until("the look has begun", |_, host| looks(host) > before)
        .await;
}

/// The VMM of a VM dies.
fn kill(life: &Life, vm: VmId) -> Timestamp {
    life.rooms.change(|host| {
        let pid = host.vmms(vm).next().unwrap().identity.pid;
        host.end(pid, ProcessExit::Signal(9), None);
    });
    life.engine.now()
}

/// How long each death took to be told, after it was recorded.
async fn noticed(life: &Life, vm: VmId, since: Timestamp) -> Vec<Duration> {
    let events = life.engine.parts.store.events(EventSeq(0), 100_000).await;
    let ends = events
        .unwrap()
        .into_iter()
        .filter(|event| event.code == "vm.exited" && event.vm == Some(vm) && event.at >= since);
    ends.map(|event| elapsed(since, event.at)).collect()
}

/// It is noticed at once, and its back-off runs.
async fn backs_off(life: &Life, vm: VmId, died: Timestamp) {
    tokio::time::sleep(AT_ONCE).await;
    let status = life.row(vm).await.status;
    assert_eq!((status.phase, &status.vmm), (Phase::Backoff, &None));
    assert!(status.next_start.is_some() && status.failures > 0);
    let noticed = noticed(life, vm, died).await;
    assert!(
        matches!(noticed[..], [took] if took < AT_ONCE),
        "{noticed:?}"
    );
}

/// The look ends, and each VM has died and come back as often as this.
async fn whole(life: &Life, vms: &[VmId], deaths: u32) {
    life.rooms.change(|host| host.hung.clear());
    life.settled("all run").await;
    tokio::time::sleep(LOOK).await;
    let ends = vms.len() * usize::try_from(deaths).unwrap();
    assert_eq!(
        life.events("vm.exited").await,
        ends,
        "each end is told once"
    );
    assert_eq!(
        life.events("vm.adopted").await,
        0,
        "nobody takes a dead VMM for alive"
    );
    for vm in vms {
        assert_eq!(life.row(*vm).await.status.restarts, deaths);
    }
    life.settled("all run still").await;
}

#[test]
fn a_death_while_a_look_hangs_is_noticed_at_once() {
    if !root() {
        return;
    }
    for kind in KINDS {
        World::new().live(async |life| {
            let vms = running(life, 2).await;
            look_hangs_at(life, kind).await;
            let pass = life.engine.last_pass();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let died = kill(life, vms[0]);
            backs_off(life, vms[0], died).await;
            assert_eq!(
                life.engine.last_pass(),
                pass,
                "the look at {kind} still hangs"
            );
            whole(life, &vms[..1], 1).await;
            assert_eq!(life.row(vms[1]).await.status.restarts, 0);
        });
    }
}

#[test]
fn a_death_under_a_daemons_first_look_is_noticed_at_once() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vms = world.live(async |life| running(life, 2).await);
    world.host.hung.insert("taps");
    world.live(async |life| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let died = kill(life, vms[0]);
        backs_off(life, vms[0], died).await;
        assert_eq!(life.engine.last_pass(), None, "the first look hangs");
        whole(life, &vms[..1], 1).await;
        assert_eq!(life.row(vms[1]).await.status.restarts, 0);
    });
}

#[test]
fn many_deaths_at_once_while_a_look_hangs_are_noticed_at_once() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vms = running(life, 50).await;
        look_hangs_at(life, "rules").await;
        let died = vms.iter().map(|vm| kill(life, *vm)).max().unwrap();
        tokio::time::sleep(AT_ONCE).await;
        for vm in &vms {
            let noticed = noticed(life, *vm, died).await;
            assert!(
                matches!(noticed[..], [took] if took < AT_ONCE),
                "{noticed:?}"
            );
        }
        whole(life, &vms, 1).await;
    });
}

#[test]
fn who_dies_again_under_the_next_look_is_noticed_again() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vms = running(life, 1).await;
        for deaths in 1..=3 {
            look_hangs_at(life, "bridge").await;
            let died = kill(life, vms[0]);
            backs_off(life, vms[0], died).await;
            whole(life, &vms, deaths).await;
        }
    });
}

#[test]
fn who_dies_while_it_is_removed_is_noticed_and_goes() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = running(life, 1).await[0];
        life.rooms.change(|host| {
            for process in host.processes.values_mut() {
                process.guest.agent = Reaction::Ignores;
                process.guest.power_button = Reaction::Ignores;
            }
        });
        life.set_goal(vm, Goal::Absent).await;
        life.until("its stop has begun", |rows, _| {
            rows.iter().any(|row| row.status.stop.is_some())
        })
        .await;
        look_hangs_at(life, "names").await;
        let died = kill(life, vm);
        tokio::time::sleep(AT_ONCE).await;
        assert_eq!(life.row(vm).await.status.vmm, None);
        let noticed = noticed(life, vm, died).await;
        assert!(
            matches!(noticed[..], [took] if took < AT_ONCE),
            "{noticed:?}"
        );
        life.rooms.change(|host| host.hung.clear());
        life.clean().await;
        assert_eq!(life.events("vm.restarted").await, 0);
        assert_eq!(life.events("vm.removed").await, 1);
    });
}

#[test]
fn a_shim_that_writes_nothing_holds_up_no_other_death() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vms = running(life, 2).await;
        // The VMM is gone, its shim hangs: each look waits for the record.
        life.rooms.change(|host| {
            let pid = host.vmms(vms[0]).next().unwrap().identity.pid;
            drop(host.processes.remove(&pid));
        });
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1300)).await;
            let died = kill(life, vms[1]);
            backs_off(life, vms[1], died).await;
            life.until("it runs again", |_, host| host.vmms(vms[1]).count() == 1)
                .await;
        }
        life.settled("the other one is back, too").await;
    });
}

#[test]
fn deaths_of_vmms_and_shims_are_noticed_at_once_too() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vms = running(life, 5).await;
        look_hangs_at(life, "units").await;
        life.rooms.change(|host| {
            let ours = host.processes.values().filter(|p| !p.foreign);
            let pids: Vec<_> = ours.map(|p| p.identity.pid).collect();
            for pid in pids {
                drop(host.processes.remove(&pid));
            }
        });
        let died = life.engine.now();
        for vm in &vms {
            backs_off(life, *vm, died).await;
        }
        whole(life, &vms, 1).await;
    });
}

#[test]
fn a_step_that_takes_long_holds_up_no_other_vms_death() {
    if !root() {
        return;
    }
    // Steps of a VM, and one that the loop takes for all of them.
    for step in [
        "ensure_disks",
        "start_vmm",
        "stop",
        "remove_tap",
        "apply_rules",
    ] {
        let hangs = watch::Sender::new(false);
        let hook = hang_in(step, &hangs);
        let ended = World::new().live_with(hook, std::future::pending(), async |life| {
            let vms = running(life, 2).await;
            hangs.send_replace(true);
            life.set_goal(vms[0], Goal::Stopped).await;
            let other = life.create(spec("other"), Goal::Running).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let died = kill(life, vms[1]);
            backs_off(life, vms[1], died).await;
            hangs.send_replace(false);
            life.settled("all is as it should be").await;
            assert_eq!(life.row(vms[1]).await.status.restarts, 1, "{step}");
            assert_eq!(life.row(other).await.status.restarts, 0, "{step}");
        });
        assert!(ended.is_some());
    }
}

#[test]
fn who_dies_in_somebodys_hands_is_noticed_when_he_is_given_back() {
    if !root() {
        return;
    }
    let hangs = watch::Sender::new(false);
    let hook = hang_in("pause", &hangs);
    let ended = World::new().live_with(hook, std::future::pending(), async |life| {
        let vm = running(life, 1).await[0];
        hangs.send_replace(true);
        life.set_goal(vm, Goal::Paused).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        look_hangs_at(life, "bridge").await;
        kill(life, vm);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(life.row(vm).await.status.vmm.is_some(), "it has an owner");
        let given_back = life.engine.now();
        hangs.send_replace(false);
        backs_off(life, vm, given_back).await;
        life.rooms.change(|host| host.hung.clear());
        life.settled("it is back and paused").await;
    });
    assert!(ended.is_some());
}
