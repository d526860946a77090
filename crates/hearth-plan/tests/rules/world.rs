//! A world with one VM, `web`, all well: a start for each test.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use hearth_plan::{DesiredVm, Plan, Policy, Step, World, plan};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::names::tap_name;
use hearth_types::net::{GuestRule, MacAddr, RuleSet};
use hearth_types::observe::{
    Observed, ObservedBridge, ObservedDir, ObservedNames, ObservedProcess, ObservedTap,
    ProcessRole, RunState,
};
use hearth_types::process::{ExitRecord, GuestReport, ProcessExit, ProcessIdentity};
use hearth_types::spec::VmSpec;
use hearth_types::status::{Goal, Leases, Phase, StopProgress, StopRung, VmStatus};
use hearth_types::survey::Survey;
use jiff::Timestamp;

pub(super) const BOOT: &str = "boot-1";

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

pub(super) fn ours() -> InstallationId {
    "01930b5e-0000-7000-8000-000000000001".parse().unwrap()
}

pub(super) fn vm_id(n: u8) -> VmId {
    format!("01930b5e-0000-7000-8000-0000000001{n:02x}")
        .parse()
        .unwrap()
}

pub(super) fn web() -> VmId {
    vm_id(1)
}

pub(super) fn ip() -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 0, 2)
}

pub(super) fn identity(vm: VmId, pid: i32) -> ProcessIdentity {
    ProcessIdentity {
        boot_id: BOOT.to_owned(),
        pid,
        start_time: 1000 + u64::from(pid.unsigned_abs()),
        exe: "/usr/bin/qemu-system-x86_64".to_owned(),
        mark: OwnerMark::of_vm(ours(), vm),
    }
}

pub(super) fn process(vm: VmId, pid: i32, role: ProcessRole, started: i64) -> ObservedProcess {
    ObservedProcess {
        identity: identity(vm, pid),
        role,
        started_at: at(started),
        suspended: false,
    }
}

pub(super) fn tap(vm: VmId) -> ObservedTap {
    ObservedTap {
        name: tap_name(vm),
        index: 9,
        mark: OwnerMark::of_vm(ours(), vm),
        attached: true,
    }
}

pub(super) fn dir(vm: VmId) -> ObservedDir {
    ObservedDir {
        vm,
        has_disk: true,
        behind: false,
        exit: None,
        changed_at: at(-3600),
    }
}

/// `web` runs as pid 10 since an hour, and everything is as it should be.
pub(super) fn running() -> World {
    let spec = VmSpec::new("web".parse().unwrap(), "demo:1");
    let (id, mac) = (web(), MacAddr::for_ipv4(ip()));
    let vm = DesiredVm {
        id,
        spec,
        generation: 1,
        goal: Goal::Running,
        force_stop: false,
        stop_timeout: None,
        leases: Leases {
            ip: Some(ip()),
            mac: Some(mac),
            cid: 3,
            uid: 64_000,
        },
        status: VmStatus {
            phase: Phase::Running,
            vmm: Some(identity(id, 10)),
            started_at: Some(at(-3600)),
            observed_generation: 1,
            boot_id: Some(BOOT.to_owned()),
            ..VmStatus::default()
        },
    };
    let rule = GuestRule {
        tap: tap_name(id),
        mac,
        ip: ip(),
    };
    World {
        now: at(0),
        boot_id: BOOT.to_owned(),
        installation: ours(),
        observed: Observed {
            processes: Survey::Known(vec![
                process(id, 9, ProcessRole::Shim, -3600),
                process(id, 10, ProcessRole::Vmm, -3600),
            ]),
            run_states: [(id, Survey::Known(RunState::Running))].into(),
            units: Survey::Known(Vec::new()),
            taps: Survey::Known(vec![tap(id)]),
            dirs: Survey::Known(vec![dir(id)]),
            bridge: Survey::Known(Some(ObservedBridge { ready: true })),
            rules: Survey::Known(Some(RuleSet {
                guests: [rule].into(),
                ports: [].into(),
            })),
            names: Survey::Known(ObservedNames {
                running: true,
                hosts: BTreeMap::from([("web".to_owned(), ip())]),
            }),
        },
        vms: vec![vm],
        ill: BTreeMap::new(),
        intents: Vec::new(),
        facts: hearth_plan::Facts::default(),
        load: hearth_plan::Load::default(),
        host: hearth_plan::breaker::host::HostMemory::default(),
        journaled: std::collections::BTreeSet::new(),
        policy: Policy::default(),
    }
}

/// `web` is in this phase; no process and no TAP of it is left.
pub(super) fn down(phase: Phase) -> World {
    let mut world = running();
    world.observed.processes = Survey::Known(Vec::new());
    world.observed.run_states.clear();
    world.observed.taps = Survey::Known(Vec::new());
    let status = &mut world.vms[0].status;
    status.phase = phase;
    status.vmm = None;
    world
}

/// `web`'s VMM has ended and left this record.
pub(super) fn dead(vmm: ProcessExit, guest: Option<ProcessExit>) -> World {
    let mut world = running();
    world.observed.processes = Survey::Known(Vec::new());
    world.observed.run_states.clear();
    dirs(&mut world)[0].exit = Some(ExitRecord {
        identity: identity(web(), 10),
        vmm,
        guest: guest.map(|exit| GuestReport {
            exit: Some(exit),
            reason: "exited".to_owned(),
            message: None,
        }),
        evidence: hearth_types::process::Evidence::default(),
        ended_at: at(-1),
    });
    world
}

/// The user's word, just spoken.
pub(super) fn say(world: &mut World, goal: Goal) {
    world.vms[0].goal = goal;
    world.vms[0].generation += 1;
}

/// A stop that began so many seconds ago.
pub(super) fn stopping(seconds: i64, rung: Option<StopRung>) -> World {
    let mut world = running();
    say(&mut world, Goal::Stopped);
    let status = &mut world.vms[0].status;
    status.phase = Phase::Stopping;
    status.observed_generation = 2;
    status.stop = Some(StopProgress {
        since: at(-seconds),
        rung,
    });
    world
}

fn known<T>(survey: &mut Survey<T>) -> &mut T {
    match survey {
        Survey::Known(known) => known,
        Survey::Unknown(why) => panic!("unknown: {why}"),
    }
}

pub(super) fn processes(world: &mut World) -> &mut Vec<ObservedProcess> {
    known(&mut world.observed.processes)
}

pub(super) fn taps(world: &mut World) -> &mut Vec<ObservedTap> {
    known(&mut world.observed.taps)
}

pub(super) fn dirs(world: &mut World) -> &mut Vec<ObservedDir> {
    known(&mut world.observed.dirs)
}

pub(super) fn unknown<T>() -> Survey<T> {
    Survey::Unknown("permission denied".to_owned())
}

pub(super) fn kinds(plan: &Plan) -> Vec<&'static str> {
    plan.steps
        .iter()
        .map(|planned| planned.step.kind())
        .collect()
}

#[track_caller]
pub(super) fn assert_steps(world: &World, expected: &[&str]) -> Plan {
    let plan = plan(world);
    assert_eq!(kinds(&plan), expected, "{plan:#?}");
    plan
}

/// The status that the plan stores last.
#[track_caller]
pub(super) fn stored(plan: &Plan) -> &VmStatus {
    let status = plan
        .steps
        .iter()
        .rev()
        .find_map(|planned| match &planned.step {
            Step::SetStatus { status, .. } => Some(&**status),
            _ => None,
        });
    status.expect("a status is stored")
}

pub(super) fn notes(plan: &Plan) -> String {
    let notes: Vec<&str> = plan.notes.iter().map(|note| note.text.as_str()).collect();
    notes.join("\n")
}

pub(super) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
