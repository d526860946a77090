//! What does not go at once. A VMM that waits in the kernel cannot be killed: it is not tried
//! without a rest, and when it comes back from there it dies. A shim that hangs is not forgotten.

use std::time::Duration;

use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::mode::{Mode, SetMode};
use hearth_types::observe::ProcessRole;
use hearth_types::status::Goal;

use super::world::{World, root, spec};

#[test]
fn a_vmm_that_cannot_be_killed_is_killed_again_after_pauses() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        life.rooms.change(|host| {
            let stuck = host.processes.values_mut().filter(|p| !p.foreign);
            stuck.for_each(|process| process.stuck = true);
        });
        let store = &life.engine.parts.store;
        let said = store.set_goal(vm, Goal::Stopped, true, None, None);
        said.await.unwrap();
        life.engine.look_at(vm);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let kills = life.rooms.see(|host| host.attempts.get("kill").copied());
        // Pauses double from a second to half a minute.
        assert!(matches!(kills, Some(2..=40)), "{kills:?} times");
        life.rooms.change(hearth_sim::SimHost::unstick);
        life.settled("it is down").await;
    });
}

#[test]
fn an_orphan_that_cannot_be_killed_is_not_said_to_be_removed_before_it_is() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, VmId::new());
            let orphan = host.spawn(mark, ProcessRole::Vmm, false);
            let process = host.processes.get_mut(&orphan.pid).unwrap();
            process.stuck = true;
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        let kills = life.rooms.see(|host| host.attempts.get("kill").copied());
        // Once in a pass over everything.
        assert!(matches!(kills, Some(2..=20)), "{kills:?} times");
        assert_eq!(life.events("orphan.removed").await, 0);
        life.rooms.change(hearth_sim::SimHost::unstick);
        life.clean().await;
    });
}

#[test]
fn a_shim_whose_vm_ended_while_nothing_might_be_done_goes_afterwards() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let readonly = |mode| SetMode { mode, reason: None };
        life.say(vm, Goal::Stopped).await;
        life.engine.set_mode(readonly(Mode::Readonly)).await;
        // Without a record, and its shim hangs.
        life.rooms.change(|host| {
            let pid = host.vmms(vm).next().unwrap().identity.pid;
            host.processes.remove(&pid);
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        let kills = life.rooms.see(|host| host.attempts.get("kill").copied());
        assert_eq!(kills, None, "nothing is done in this mode");
        life.engine.set_mode(readonly(Mode::Normal)).await;
        life.settled("its shim is gone").await;
    });
}
