//! Starts after a reboot of the host are staggered; the user's are not, but no more VMMs are launched
//! at once than the host makes in time.

use std::time::Duration;

use hearth_types::resources::Priority;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::Goal;
use tokio::time::Instant;

use super::world::{Life, World, root, spec};

const VMS: usize = 20;

fn living(life: &Life) -> usize {
    life.rooms.change(|host| {
        let vmm = |p: &&hearth_sim::SimProcess| {
            p.role == hearth_types::observe::ProcessRole::Vmm && p.ends.is_none()
        };
        host.processes.values().filter(vmm).count()
    })
}

#[test]
fn a_rebooted_host_starts_its_vms_a_few_at_a_time() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.live(async |life| {
        for n in 0..VMS {
            let mut vm = spec(&format!("vm-{n}"));
            vm.restart = RestartPolicy::Always;
            if n == VMS - 1 {
                vm.resources.priority = Priority::High;
            }
            life.create(vm, Goal::Running).await;
        }
        let begun = Instant::now();
        life.settled("all run").await;
        // Each was its user's word: none waited for a token.
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    });
    world.host.reboot();
    world.live(async |life| {
        let begun = Instant::now();
        let first = life.vm(&format!("vm-{}", VMS - 1)).await.unwrap().id;
        let up =
            |_: &[hearth_store::VmRow], host: &hearth_sim::SimHost| host.vmms(first).count() == 1;
        life.until("the one with the highest priority runs", up)
            .await;
        assert!(living(life) <= 4);
        while living(life) < VMS {
            let most = 4 + usize::try_from(begun.elapsed().as_millis() * 2 / 1000).unwrap();
            assert!(living(life) <= most, "{} of {most}", living(life));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(8), "{took:?}");
        assert!(took <= Duration::from_secs(12), "{took:?}");
        life.settled("all run").await;
        // Told by the first pass, and by no later one.
        life.told("host.rebooted", 1).await;
        let from = hearth_types::ids::EventSeq(0);
        let events = life.engine.parts.store.events(from, 100_000).await.unwrap();
        let told = events.iter().find(|event| event.code == "host.rebooted");
        let message = &told.unwrap().message;
        assert!(
            message.ends_with("20 VM(s) were running, 20 are started"),
            "{message}"
        );
    });
    world.live(async |life| {
        life.settled("a new daemon in the same boot").await;
        life.told("host.rebooted", 1).await;
    });
}

/// A hundred at once on a host where each launch slows down the others: all at once would all be late.
#[test]
fn a_hundred_vms_that_a_user_starts_at_once_all_start() {
    if !root() {
        return;
    }
    const MANY: usize = 100;
    World::new().live(async |life| {
        life.rooms
            .change(|host| host.launch_takes = Duration::from_millis(300));
        for n in 0..MANY {
            life.create(spec(&format!("vm-{n}")), Goal::Running).await;
        }
        life.settled("all run").await;
        assert_eq!(living(life), MANY);
        let (_, most) = life.rooms.change(|host| host.launched_at_once);
        let bound = hearthd::engine::launches::launches_at_once();
        assert!(most > 1 && most <= bound, "{most} of {bound} at once");
        assert_eq!(life.events("vm.start_waits").await, 0);
        assert_eq!(life.events("vm.start_failed").await, 0);
    });
}
