//! Units of systemd: those of no VM go, those of a VM are compared with its processes, and
//! what is not known is not acted on.

use std::time::Duration;

use hearth_plan::OrphanAction;
use hearth_sim::{Kind, SimUnit};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::observe::{ProcessRole, UnitState};
use hearth_types::status::{Goal, Phase};

use super::world::{Life, World, root, spec};

/// Longer than the grace age and a few full passes.
const LONG: Duration = Duration::from_secs(400);

fn world() -> World {
    let mut world = World::new();
    world.host.systemd = true;
    world
}

fn leave(life: &Life, vm: VmId, installation: Option<InstallationId>, state: UnitState) {
    life.rooms.change(|host| {
        let unit = SimUnit {
            mark: installation.map(|installation| OwnerMark::of_vm(installation, vm)),
            state,
            since: host.now,
            changed: Vec::new(),
        };
        host.units.insert(vm, unit);
    });
    life.engine.look_at_everything();
}

fn units(life: &Life) -> Vec<VmId> {
    life.rooms
        .change(|host| host.units.keys().copied().collect())
}

#[test]
fn a_unit_comes_and_goes_with_its_vm() {
    if !root() {
        return;
    }
    world().live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        assert_eq!(units(life), [vm]);
        tokio::time::sleep(LONG).await;
        life.set_goal(vm, Goal::Stopped).await;
        life.settled("it is stopped").await;
        assert_eq!(units(life), []);
        life.set_goal(vm, Goal::Running).await;
        life.settled("it runs again").await;
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
        assert_eq!(units(life), []);
        assert_eq!(life.events("vm.unit_disagrees").await, 0);
        assert_eq!(life.events("orphan.removed").await, 0);
    });
}

#[test]
fn a_unit_of_no_vm_goes_after_its_grace_age_and_a_foreign_one_stays() {
    if !root() {
        return;
    }
    let mut world = world();
    world.host.leaky_survey = true;
    world.live(async |life| {
        let web = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let ours = life.engine.parts.store.installation();
        let (failed, left, theirs, bare) = (VmId::new(), VmId::new(), VmId::new(), VmId::new());
        leave(life, failed, Some(ours), UnitState::Failed);
        leave(life, left, Some(ours), UnitState::Active);
        leave(life, theirs, Some(InstallationId::new()), UnitState::Failed);
        leave(life, bare, None, UnitState::Failed);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(units(life).len(), 5, "all are young");
        life.told("orphan.removed", 2).await;
        tokio::time::sleep(LONG).await;
        let mut expected = vec![web, theirs, bare];
        expected.sort_unstable();
        assert_eq!(units(life), expected);
        life.told("orphan.removed", 2).await;
        life.sane().await;
    });
}

#[test]
fn units_are_only_reported_when_that_is_configured() {
    if !root() {
        return;
    }
    let mut world = world();
    world.policy.orphan_units = OrphanAction::Report;
    world.live(async |life| {
        let ours = life.engine.parts.store.installation();
        leave(life, VmId::new(), Some(ours), UnitState::Failed);
        tokio::time::sleep(LONG).await;
        assert_eq!(units(life).len(), 1);
        let plan = life.engine.dry_run().await.unwrap();
        let told = plan.notes.iter().any(|note| note.contains("1 units"));
        assert!(told, "{:?}", plan.notes);
    });
}

#[test]
fn more_units_than_the_cap_are_left() {
    if !root() {
        return;
    }
    let mut world = world();
    world.policy.orphan_cap = 2;
    world.live(async |life| {
        let ours = life.engine.parts.store.installation();
        for _ in 0..3 {
            leave(life, VmId::new(), Some(ours), UnitState::Failed);
        }
        tokio::time::sleep(LONG).await;
        assert_eq!(units(life).len(), 3);
    });
}

#[test]
fn nothing_is_concluded_while_systemd_does_not_answer() {
    if !root() {
        return;
    }
    world().live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let ours = life.engine.parts.store.installation();
        life.rooms.change(|host| {
            host.unknown.insert(Kind::Units);
        });
        leave(life, VmId::new(), Some(ours), UnitState::Failed);
        // A VM lives on, ends and starts without it.
        leave(life, vm, Some(ours), UnitState::Failed);
        life.set_goal(vm, Goal::Stopped).await;
        life.settled("it is stopped").await;
        life.set_goal(vm, Goal::Running).await;
        life.settled("it runs again").await;
        tokio::time::sleep(LONG).await;
        assert_eq!(units(life).len(), 2);
        assert_eq!(life.events("vm.unit_disagrees").await, 0);
        let plan = life.engine.dry_run().await.unwrap();
        let told = plan
            .notes
            .iter()
            .any(|note| note.contains("units could not"));
        assert!(told, "{:?}", plan.notes);
        life.rooms.change(|host| host.unknown.clear());
        life.engine.look_at_everything();
        life.told("orphan.removed", 1).await;
        assert_eq!(units(life), [vm]);
    });
}

/// A unit that holds a process of no VM goes after the process, not before it.
#[test]
fn a_unit_with_an_orphaned_process_goes_after_it() {
    if !root() {
        return;
    }
    world().live(async |life| {
        let ours = life.engine.parts.store.installation();
        let lost = VmId::new();
        life.rooms.change(|host| {
            host.spawn(OwnerMark::of_vm(ours, lost), ProcessRole::Shim, false);
        });
        leave(life, lost, Some(ours), UnitState::Active);
        life.until("all is gone", |_, host| {
            host.processes.is_empty() && host.units.is_empty()
        })
        .await;
        life.sane().await;
        // The unit went with its process, as systemd does it.
        life.told("orphan.removed", 1).await;
    });
}

#[test]
fn a_unit_that_is_over_while_its_vmm_lives_is_told_once_and_nothing_else_happens() {
    if !root() {
        return;
    }
    world().live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let before = life.row(vm).await.status.vmm;
        let ours = life.engine.parts.store.installation();
        leave(life, vm, Some(ours), UnitState::Failed);
        life.told("vm.unit_disagrees", 1).await;
        tokio::time::sleep(LONG).await;
        life.told("vm.unit_disagrees", 1).await;
        let plan = life.engine.dry_run().await.unwrap();
        let told = plan.notes.iter().any(|note| note.contains("lives outside"));
        assert!(told, "{:?}", plan.notes);
        let status = life.row(vm).await.status;
        assert_eq!((status.vmm, status.phase), (before, Phase::Running));
        assert_eq!(life.events("orphan.removed").await, 0);
    });
}

#[test]
fn an_active_unit_without_a_process_is_told_and_gives_way_to_a_start() {
    if !root() {
        return;
    }
    world().live(async |life| {
        let vm = life.create(spec("web"), Goal::Stopped).await;
        life.settled("it is there").await;
        let ours = life.engine.parts.store.installation();
        leave(life, vm, Some(ours), UnitState::Active);
        life.told("vm.unit_disagrees", 1).await;
        let plan = life.engine.dry_run().await.unwrap();
        let told = plan.notes.iter().any(|note| note.contains("no process"));
        assert!(told, "{:?}", plan.notes);
        assert_eq!(units(life), [vm], "it is a VM's, so it is no orphan");
        life.set_goal(vm, Goal::Running).await;
        life.settled("it runs").await;
        tokio::time::sleep(LONG).await;
        life.told("vm.unit_disagrees", 1).await;
    });
}
