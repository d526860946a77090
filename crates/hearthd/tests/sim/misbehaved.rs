//! Guests that are silent, send garbage or flood their channel, in virtual time: they cost no more than they
//! may, and the others nothing.

use std::time::Duration;

use hearth_plan::transition::elapsed;
use hearth_types::VmId;
use hearth_types::api::Health;
use hearth_types::observe::ProcessRole;
use hearth_types::spec::health::CheckKind;
use hearth_types::status::Goal;
use hearth_types::units::Span;

use super::health::{becomes, healthy};
use super::world::{Life, World, root, spec};

/// A thousand VMs, of which nine in ten never answer: the others are asked as often as ever, and each that
/// is silent is still asked every interval.
#[test]
fn those_who_are_silent_hold_up_nobody() {
    if !root() {
        return;
    }
    const VMS: usize = 1000;
    const WELL: usize = 100;
    World::new().live(async |life| {
        let mut vms = Vec::new();
        for number in 0..VMS {
            let mut vm = spec(&format!("vm-{number}"));
            vm.health.without = vec![CheckKind::Process, CheckKind::VmmApi, CheckKind::Console];
            vms.push(life.create(vm, Goal::Running).await);
        }
        for vm in &vms {
            becomes(life, *vm, Health::Healthy).await;
        }
        let (well, silent) = vms.split_at(WELL);
        life.rooms.change(|host| {
            for vm in silent {
                host.hang(*vm);
            }
        });
        for vm in silent {
            becomes(life, *vm, Health::Unhealthy).await;
        }
        // Ten results in a row, nine intervals: a silent one's answer comes 5 s late each time.
        tokio::time::sleep(Duration::from_secs(330)).await;
        for vm in &vms {
            let view = life.engine.health.view(&life.row(*vm).await).unwrap();
            let (newest, oldest) = (&view.checks[0].history[0], &view.checks[0].history[9]);
            let took = elapsed(oldest.at, newest.at);
            assert!(took <= Duration::from_secs(9 * 30 + 5), "{took:?}");
        }
        for vm in well {
            let health = life.engine.health_of(&life.row(*vm).await);
            assert_eq!(health, Health::Healthy);
        }
    });
}

/// A healthy VM that is asked every five seconds.
async fn asked_often(life: &Life) -> VmId {
    let mut web = spec("web");
    web.health.interval = Some(Span::secs(5));
    let vm = life.create(web, Goal::Running).await;
    becomes(life, vm, Health::Healthy).await;
    vm
}

/// For ten minutes its guest is left alone most of the time.
async fn is_asked_seldom(life: &Life) {
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = life.rooms.see(|host| host.looks["agent"]);
    // A check every five seconds would be 120 of them.
    assert!((5..=12).contains(&asked), "asked {asked} times");
}

/// Nothing is held against it once it makes sense again.
async fn recovers(life: &Life, vm: VmId) {
    let took = becomes(life, vm, Health::Healthy).await;
    assert!(took <= Duration::from_secs(80), "{took:?}");
}

#[test]
fn a_guest_that_sends_garbage_is_hung_up_on_and_left_alone_for_a_while() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = asked_often(life).await;
        let babble = |babbles| {
            life.rooms.change(|host| {
                let vmms = host.processes.values_mut();
                let vmms = vmms.filter(|process| process.role == ProcessRole::Vmm);
                vmms.for_each(|process| process.babbles = babbles);
                host.looks.remove("agent");
            });
        };
        babble(true);
        becomes(life, vm, Health::Unhealthy).await;
        is_asked_seldom(life).await;
        let row = life.row(vm).await;
        assert_eq!(life.engine.health_of(&row), Health::Unhealthy);
        babble(false);
        recovers(life, vm).await;
    });
}

#[test]
fn a_guest_that_floods_its_channel_is_hung_up_on_told_once_and_the_others_are_well() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = asked_often(life).await;
        let other = healthy(life, "other").await;
        let flood = |floods| {
            life.rooms.change(|host| {
                let pids: Vec<_> = host.vmms(vm).map(|vmm| vmm.identity.pid).collect();
                for pid in pids {
                    host.processes.get_mut(&pid).unwrap().floods = floods;
                }
                host.looks.remove("agent");
            });
        };
        flood(true);
        becomes(life, vm, Health::Unhealthy).await;
        let view = life.engine.health.view(&life.row(vm).await).unwrap();
        let reason = view.reason.unwrap();
        assert!(reason.contains("flooded"), "{reason}");
        is_asked_seldom(life).await;
        // Told once, however long it goes on.
        assert_eq!(life.events("vm.agent_misbehaves").await, 1);
        assert_eq!(
            life.engine.health_of(&life.row(other).await),
            Health::Healthy
        );
        flood(false);
        recovers(life, vm).await;
    });
}
