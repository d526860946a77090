//! VMs whose disks are in a pool that is about to run out wait, and go on when there is room.

use hearth_plan::pool::{Word, word};
use hearth_plan::{Plan, PoolRoom, Step, World, plan};
use hearth_types::mode::Mode;
use hearth_types::observe::RunState;
use hearth_types::status::{Goal, Phase};
use hearth_types::survey::Survey;
use proptest::prelude::*;

use super::world::{kinds, running, stored, web};

fn tight() -> PoolRoom {
    PoolRoom::Tight {
        why: "5 MiB are left".to_owned(),
    }
}

fn on_pool(room: PoolRoom, state: RunState) -> World {
    let mut world = running();
    world.facts.on_pool = [web()].into();
    world.facts.pool = room;
    world.observed.run_states = [(web(), Survey::Known(state))].into();
    world
}

/// What the plan says has happened.
fn follow(world: &mut World, planned: &Plan) {
    for step in &planned.steps {
        match &step.step {
            Step::SetStatus { status, .. } => world.vms[0].status = (**status).clone(),
            Step::Pause { .. } => {
                world.observed.run_states = [(web(), Survey::Known(RunState::Paused))].into();
                world.vms[0].status.phase = Phase::Paused;
            }
            Step::Resume { .. } => {
                world.observed.run_states = [(web(), Survey::Known(RunState::Running))].into();
                world.vms[0].status.phase = Phase::Running;
            }
            _ => {}
        }
    }
}

#[test]
fn it_waits_is_told_so_and_goes_on() {
    let mut world = on_pool(tight(), RunState::Running);
    let planned = plan(&world);
    // Stored first: a daemon that dies in between knows why it is paused.
    assert_eq!(kinds(&planned), ["set_status", "pause"], "{planned:#?}");
    let said = stored(&planned);
    assert!(said.pool_wait.is_some());
    let reason = said.reason.as_ref().unwrap();
    assert!(reason.contains("5 MiB are left"), "{reason}");
    follow(&mut world, &planned);
    assert!(kinds(&plan(&world)).is_empty());
    // The daemon begins anew and knows nothing of the pool yet.
    world.facts.pool = PoolRoom::Unknown;
    assert!(kinds(&plan(&world)).is_empty());
    world.facts.pool = PoolRoom::Enough;
    let planned = plan(&world);
    assert_eq!(
        kinds(&planned),
        ["set_status", "resume", "set_status"],
        "{planned:#?}"
    );
    follow(&mut world, &planned);
    let status = &world.vms[0].status;
    assert_eq!((status.phase, &status.pool_wait), (Phase::Running, &None));
    assert_eq!(status.reason, None);
    assert!(kinds(&plan(&world)).is_empty());
}

#[test]
fn who_has_no_disk_in_it_goes_on() {
    let mut world = on_pool(tight(), RunState::Running);
    world.facts.on_pool.clear();
    assert!(kinds(&plan(&world)).is_empty());
}

#[test]
fn what_the_user_has_paused_stays_paused() {
    for room in [tight(), PoolRoom::Unknown, PoolRoom::Enough] {
        let mut world = on_pool(room, RunState::Paused);
        world.vms[0].goal = Goal::Paused;
        world.vms[0].status.phase = Phase::Paused;
        assert!(kinds(&plan(&world)).is_empty());
    }
    // Paused by the user while it waits: the pool's room does not let it run.
    let mut world = on_pool(tight(), RunState::Running);
    let planned = plan(&world);
    follow(&mut world, &planned);
    world.vms[0].goal = Goal::Paused;
    world.facts.pool = PoolRoom::Enough;
    let planned = plan(&world);
    assert_eq!(kinds(&planned), ["set_status"], "{planned:#?}");
    assert_eq!(stored(&planned).pool_wait, None);
    // Resumed by the user while there is no room: it goes on waiting.
    let mut world = on_pool(tight(), RunState::Paused);
    world.vms[0].status.phase = Phase::Paused;
    let planned = plan(&world);
    assert_eq!(kinds(&planned), ["set_status"], "{planned:#?}");
    assert!(stored(&planned).pool_wait.is_some());
}

#[test]
fn by_hand_is_by_hand() {
    // It is stopped, though it waits.
    let mut world = on_pool(tight(), RunState::Running);
    let planned = plan(&world);
    follow(&mut world, &planned);
    world.vms[0].goal = Goal::Stopped;
    world.vms[0].generation += 1;
    assert!(kinds(&plan(&world)).contains(&"set_status"));
    // Whoever lets it run beside us, while nobody can tell, is not contradicted.
    let mut world = on_pool(tight(), RunState::Running);
    let planned = plan(&world);
    follow(&mut world, &planned);
    world.facts.pool = PoolRoom::Unknown;
    world.observed.run_states = [(web(), Survey::Known(RunState::Running))].into();
    assert!(!kinds(&plan(&world)).contains(&"pause"));
}

#[test]
fn readonly_changes_nothing_and_maintenance_protects() {
    for (mode, steps) in [
        (Mode::Maintenance, vec!["set_status", "pause"]),
        (Mode::Readonly, vec![]),
    ] {
        let mut world = on_pool(tight(), RunState::Running);
        world.policy.stance.mode = mode;
        assert_eq!(kinds(&plan(&world)), steps, "{mode}");
    }
}

fn any_room() -> impl Strategy<Value = PoolRoom> {
    prop_oneof![
        Just(tight()),
        Just(PoolRoom::Unknown),
        Just(PoolRoom::Enough)
    ]
}

fn any_goal() -> impl Strategy<Value = Goal> {
    prop_oneof![Just(Goal::Running), Just(Goal::Paused)]
}

proptest! {
    #[test]
    fn a_wait_is_never_lost_and_never_for_ever(
        rooms in prop::collection::vec((any_room(), any_goal(), any::<bool>()), 1..20),
    ) {
        let mut world = on_pool(PoolRoom::Enough, RunState::Running);
        for (room, goal, on_pool) in rooms {
            world.facts.pool = room.clone();
            world.facts.on_pool = if on_pool { [web()].into() } else { [].into() };
            world.vms[0].goal = goal;
            // Each pass follows from the one before; two settle anything.
            for _ in 0..2 {
                let planned = plan(&world);
                follow(&mut world, &planned);
            }
            prop_assert!(kinds(&plan(&world)).is_empty(), "it does not settle");
            let runs = world.observed.run_states[&web()] == Survey::Known(RunState::Running);
            let waits = world.vms[0].status.pool_wait.is_some();
            match (&room, goal) {
                (_, Goal::Paused) => prop_assert!(!runs && !waits),
                (PoolRoom::Tight { .. }, _) if on_pool => prop_assert!(!runs && waits),
                (PoolRoom::Unknown, _) if on_pool => prop_assert!(runs != waits),
                _ => prop_assert!(runs && !waits),
            }
        }
    }

    #[test]
    fn only_the_pool_itself_lets_a_waiting_vm_go_on(
        room in any_room(), on_pool: bool, waits: bool, goal in any_goal(),
    ) {
        match word(&room, on_pool, waits, goal) {
            Word::Wait(_) => prop_assert!(on_pool && goal == Goal::Running && room == tight()),
            Word::Stay => prop_assert!(waits && room == PoolRoom::Unknown),
            Word::GoOn => prop_assert!(waits),
            Word::Nothing => prop_assert!(!waits),
        }
    }
}
