//! What can happen in a life.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_plan::transition::later;
use hearth_sim::{Guest, Kind, Reaction, Sim, SimDir, SimTap};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::names::tap_name;
use hearth_types::observe::ProcessRole;
use hearth_types::process::{GuestReport, ProcessExit};
use hearth_types::spec::{NetworkMode, PortSpec, RestartPolicy, VmSpec};
use hearth_types::status::Goal;
use proptest::prelude::*;
use uuid::Uuid;

/// VMs of one life.
const SLOTS: u8 = 4;

#[derive(Debug, Clone)]
pub(crate) enum Action {
    Create(u8, VmSpecOf, Guest),
    Goal(u8, Goal, bool),
    Restart(u8),
    KillVmm(u8, bool),
    GuestHangs(u8),
    GuestExits(u8, u8),
    TapVanishes(u8),
    TapDetached(u8),
    BridgeVanishes,
    BridgeDown,
    RulesVanish,
    RulesChange,
    NamesDie,
    DiskVanishes(u8),
    Reboot,
    OrphanProcess(u8, bool),
    OrphanTap(u8),
    OrphanDir(u8),
    Twin(u8),
    Neighbour(u8),
    Fault(u8, u32),
    Unknown(BTreeSet<u8>),
    Crash(u32),
    Pass,
    Wait(u16),
}

#[derive(Debug, Clone)]
pub(crate) struct VmSpecOf {
    restart: RestartPolicy,
    bridged: bool,
    auto_remove: bool,
    goal: Goal,
}

pub(crate) fn installation() -> InstallationId {
    InstallationId::from_uuid(Uuid::from_u128(1))
}

fn other_installation() -> InstallationId {
    InstallationId::from_uuid(Uuid::from_u128(2))
}

/// The VM of a slot; a removed VM's slot gets a new id, as ids are never used again.
fn id(sim: &Sim, slot: u8) -> VmId {
    let live = sim
        .store
        .vms
        .iter()
        .find(|(_, vm)| vm.spec.name.as_str() == format!("vm-{slot}"));
    live.map_or_else(|| fresh(sim, slot), |(id, _)| *id)
}

fn fresh(sim: &Sim, slot: u8) -> VmId {
    VmId::from_uuid(Uuid::from_u128(
        0x100 + u128::from(slot) + (u128::from(sim.points) << 32),
    ))
}

fn orphan(slot: u8) -> VmId {
    VmId::from_uuid(Uuid::from_u128(0xdead_0000 + u128::from(slot)))
}

pub(crate) fn world() -> Sim {
    Sim::new(installation())
}

pub(crate) fn blind(sim: &mut Sim) {
    sim.host.unknown = [
        Kind::Processes,
        Kind::RunStates,
        Kind::Taps,
        Kind::Dirs,
        Kind::Bridge,
        Kind::Rules,
        Kind::Names,
    ]
    .into();
}

/// Neighbours are named by their VM id, and none ever goes by Hearth's hand.
pub(crate) fn neighbours_are_well(sim: &Sim) -> bool {
    let host = &sim.host;
    host.taps
        .values()
        .filter(|tap| tap.foreign)
        .all(|tap| tap.attached)
        && host
            .processes
            .values()
            .filter(|p| p.foreign)
            .all(|p| !p.paused && p.ends.is_none())
}

pub(crate) fn run(sim: &mut Sim, action: &Action) {
    match action {
        Action::Create(slot, of, guest) => create(sim, *slot, of, *guest),
        Action::Goal(slot, goal, force) => sim.store.set_goal(id(sim, *slot), *goal, *force),
        Action::Restart(slot) => sim.restart(id(sim, *slot)),
        Action::KillVmm(slot, with_shim) => kill_vmm(sim, *slot, *with_shim),
        Action::GuestHangs(slot) => {
            let vm = id(sim, *slot);
            sim.host.hang(vm);
        }
        Action::GuestExits(slot, code) => guest_exits(sim, *slot, *code),
        Action::TapVanishes(slot) => {
            sim.host.taps.remove(&tap_name(id(sim, *slot)));
        }
        Action::TapDetached(slot) => {
            let name = tap_name(id(sim, *slot));
            if let Some(tap) = sim.host.taps.get_mut(&name) {
                tap.attached = false;
            }
        }
        Action::BridgeVanishes => sim.host.bridge = None,
        Action::BridgeDown => sim.host.bridge = sim.host.bridge.map(|_| false),
        Action::RulesVanish => sim.host.rules = None,
        Action::RulesChange => {
            if let Some(rules) = &mut sim.host.rules {
                rules.guests.pop_first();
            }
        }
        Action::NamesDie => sim.host.names.running = false,
        Action::DiskVanishes(slot) => {
            let vm = id(sim, *slot);
            if sim.host.vmms(vm).next().is_none()
                && let Some(dir) = sim.host.dirs.get_mut(&vm)
            {
                dir.has_disk = false;
            }
        }
        Action::Reboot => sim.host.reboot(),
        Action::OrphanProcess(slot, shim) => {
            let role = if *shim {
                ProcessRole::Shim
            } else {
                ProcessRole::Vmm
            };
            let mark = OwnerMark::of_vm(installation(), orphan(*slot));
            sim.host.spawn(mark, role, false);
        }
        Action::OrphanTap(slot) => plant_tap(sim, orphan(*slot), Some(installation()), false),
        Action::OrphanDir(slot) => {
            let changed_at = sim.host.now;
            let dir = SimDir {
                has_disk: true,
                exit: None,
                changed_at,
            };
            sim.host.dirs.insert(orphan(*slot), dir);
        }
        Action::Twin(slot) => {
            let vm = id(sim, *slot);
            if sim.host.vmms(vm).next().is_some() {
                sim.host.spawn(
                    OwnerMark::of_vm(installation(), vm),
                    ProcessRole::Vmm,
                    false,
                );
            }
        }
        Action::Neighbour(slot) => neighbour(sim, *slot),
        Action::Fault(step, times) => {
            let kinds = [
                "start_vmm",
                "ensure_tap",
                "ensure_disks",
                "stop",
                "remove_tap",
                "remove_dir",
                "apply_rules",
                "ensure_bridge",
                "kill_orphan",
                "flush_conntrack",
            ];
            sim.host
                .faults
                .insert(kinds[usize::from(*step) % kinds.len()], *times);
        }
        Action::Unknown(kinds) => {
            let all = [
                Kind::Processes,
                Kind::RunStates,
                Kind::Taps,
                Kind::Dirs,
                Kind::Bridge,
                Kind::Rules,
                Kind::Names,
            ];
            sim.host.unknown = kinds
                .iter()
                .map(|k| all[usize::from(*k) % all.len()])
                .collect();
        }
        Action::Crash(at) => {
            sim.crash_in = Some(*at);
            let _plan = sim.pass();
        }
        Action::Pass => {
            let _plan = sim.pass();
        }
        Action::Wait(millis) => {
            let to = later(sim.host.now, Duration::from_millis((*millis).into()));
            sim.host.advance(to);
        }
    }
}

fn create(sim: &mut Sim, slot: u8, of: &VmSpecOf, guest: Guest) {
    let vm = id(sim, slot);
    if sim.store.vms.contains_key(&vm) {
        return;
    }
    let mut spec = VmSpec::new(format!("vm-{slot}").parse().unwrap(), "demo:1");
    spec.restart = of.restart;
    spec.auto_remove = of.auto_remove && of.restart == RestartPolicy::No;
    if of.bridged {
        spec.ports = vec![PortSpec {
            host_ip: [0, 0, 0, 0].into(),
            host_port: 8000 + u16::from(slot),
            guest_port: 80,
            protocol: Default::default(),
        }];
    } else {
        spec.network.mode = NetworkMode::None;
    }
    sim.host.guests.insert(vm, guest);
    sim.store.create(vm, spec, of.goal);
}

fn kill_vmm(sim: &mut Sim, slot: u8, with_shim: bool) {
    let vm = id(sim, slot);
    let pids: Vec<i32> = sim.host.vmms(vm).map(|p| p.identity.pid).collect();
    for pid in pids {
        sim.host.end(pid, ProcessExit::Signal(9), None);
    }
    if with_shim {
        let mark = OwnerMark::of_vm(installation(), vm);
        sim.host.processes.retain(|_, p| p.identity.mark != mark);
    }
}

fn guest_exits(sim: &mut Sim, slot: u8, code: u8) {
    let vm = id(sim, slot);
    let Some(pid) = sim.host.vmms(vm).map(|p| p.identity.pid).next() else {
        return;
    };
    let report = GuestReport {
        exit: Some(ProcessExit::Code(code.into())),
        reason: "exited".to_owned(),
        message: None,
    };
    sim.host.end(pid, ProcessExit::Code(0), Some(report));
}

fn plant_tap(sim: &mut Sim, vm: VmId, whose: Option<InstallationId>, foreign: bool) {
    let tap = SimTap {
        index: 7,
        mark: whose.map(|installation| OwnerMark::of_vm(installation, vm)),
        attached: true,
        foreign,
    };
    sim.host.taps.entry(tap_name(vm)).or_insert(tap);
}

/// Another installation's VMM and TAP, and an unmarked TAP that is called like ours; the survey lists
/// the marked ones, as a faulty one would.
fn neighbour(sim: &mut Sim, slot: u8) {
    sim.host.leaky_survey = true;
    let own = id(sim, slot);
    // The same VM id in another installation: only the installation tells them apart.
    sim.host.spawn(
        OwnerMark::of_vm(other_installation(), own),
        ProcessRole::Vmm,
        true,
    );
    let theirs = VmId::from_uuid(Uuid::from_u128(0xbeef_0000 + u128::from(slot)));
    plant_tap(sim, theirs, Some(other_installation()), true);
    let unmarked = VmId::from_uuid(Uuid::from_u128(0xbee_f000 + u128::from(slot)));
    plant_tap(sim, unmarked, None, true);
}

fn reaction() -> impl Strategy<Value = Reaction> {
    prop_oneof![
        3 => (0_u8..4).prop_map(Reaction::Obeys),
        1 => Just(Reaction::Ignores),
        1 => Just(Reaction::Missing),
    ]
}

fn guest() -> impl Strategy<Value = Guest> {
    (reaction(), reaction(), reaction()).prop_map(|(agent, power_button, quit)| Guest {
        agent,
        power_button,
        quit,
    })
}

fn restart() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::OnFailure(None)),
        Just(RestartPolicy::OnFailure(Some(2))),
        Just(RestartPolicy::Always),
        Just(RestartPolicy::UnlessStopped),
    ]
}

fn goal() -> impl Strategy<Value = Goal> {
    prop_oneof![
        4 => Just(Goal::Running),
        1 => Just(Goal::Paused),
        3 => Just(Goal::Stopped),
        2 => Just(Goal::Absent),
    ]
}

fn spec() -> impl Strategy<Value = VmSpecOf> {
    (restart(), any::<bool>(), prop::bool::weighted(0.2), goal()).prop_map(
        |(restart, bridged, auto_remove, goal)| VmSpecOf {
            restart,
            bridged,
            auto_remove,
            goal: if goal == Goal::Absent {
                Goal::Running
            } else {
                goal
            },
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let slot = 0..SLOTS;
    prop_oneof![
        8 => (slot.clone(), spec(), guest()).prop_map(|(s, o, g)| Action::Create(s, o, g)),
        6 => (slot.clone(), goal(), prop::bool::weighted(0.2)).prop_map(|(s, g, f)| Action::Goal(s, g, f)),
        2 => slot.clone().prop_map(Action::Restart),
        3 => (slot.clone(), any::<bool>()).prop_map(|(s, w)| Action::KillVmm(s, w)),
        2 => slot.clone().prop_map(Action::GuestHangs),
        3 => (slot.clone(), prop_oneof![Just(0_u8), Just(3)]).prop_map(|(s, c)| Action::GuestExits(s, c)),
        1 => slot.clone().prop_map(Action::TapVanishes),
        1 => slot.clone().prop_map(Action::TapDetached),
        1 => prop_oneof![
            Just(Action::BridgeVanishes), Just(Action::BridgeDown), Just(Action::RulesVanish),
            Just(Action::RulesChange), Just(Action::NamesDie)
        ],
        1 => slot.clone().prop_map(Action::DiskVanishes),
        2 => Just(Action::Reboot),
        1 => (slot.clone(), any::<bool>()).prop_map(|(s, r)| Action::OrphanProcess(s, r)),
        1 => slot.clone().prop_map(Action::OrphanTap),
        1 => slot.clone().prop_map(Action::OrphanDir),
        1 => slot.clone().prop_map(Action::Twin),
        1 => slot.prop_map(Action::Neighbour),
        2 => (any::<u8>(), 1_u32..3).prop_map(|(s, n)| Action::Fault(s, n)),
        2 => prop::collection::btree_set(0_u8..7, 0..4).prop_map(Action::Unknown),
        4 => (0_u32..20).prop_map(Action::Crash),
        14 => Just(Action::Pass),
        6 => prop_oneof![Just(1_u16), Just(10), 100_u16..20_000].prop_map(Action::Wait),
    ]
}

pub(crate) fn actions(most: usize) -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 1..most)
}

/// Two VMs are made, one loses its VMM, one is stopped, the host reboots, both are removed.
pub(crate) fn a_whole_life() -> Vec<Vec<Action>> {
    let spec = |bridged| VmSpecOf {
        restart: RestartPolicy::Always,
        bridged,
        auto_remove: false,
        goal: Goal::Running,
    };
    let guest = Guest {
        agent: Reaction::Missing,
        ..Guest::default()
    };
    vec![
        vec![
            Action::Create(0, spec(true), guest),
            Action::Create(1, spec(false), Guest::default()),
        ],
        vec![
            Action::KillVmm(0, false),
            Action::Goal(1, Goal::Paused, false),
        ],
        vec![
            Action::Restart(0),
            Action::OrphanTap(0),
            Action::OrphanDir(1),
        ],
        vec![Action::Goal(1, Goal::Stopped, false)],
        vec![Action::Reboot],
        vec![Action::Goal(0, Goal::Absent, true)],
        vec![Action::Goal(1, Goal::Absent, false)],
    ]
}
