//! Measures a pass over converged worlds: `cargo run --release -p hearth-plan --example plan_bench`.

#![expect(clippy::print_stdout, reason = "its output is a table for people")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hearth_plan::{DesiredVm, Policy, World, plan};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::names::{VmName, tap_name};
use hearth_types::net::{GuestRule, MacAddr, RuleSet};
use hearth_types::observe::{
    Observed, ObservedBridge, ObservedDir, ObservedNames, ObservedProcess, ObservedTap,
    ProcessRole, RunState,
};
use hearth_types::process::ProcessIdentity;
use hearth_types::spec::VmSpec;
use hearth_types::status::{Goal, Leases, Phase, VmStatus};
use hearth_types::survey::Survey;
use jiff::Timestamp;

const BOOT: &str = "5b3c4a8e-7d4e-4d7a-9d83-0c2a8d3f1a77";
const RUNS: usize = 21;

fn identity(mark: OwnerMark, pid: i32) -> ProcessIdentity {
    ProcessIdentity {
        boot_id: BOOT.to_owned(),
        pid,
        start_time: u64::from(pid.unsigned_abs()),
        exe: "/usr/bin/qemu-system-x86_64".to_owned(),
        mark,
    }
}

fn desired(number: u32, vmm: ProcessIdentity, id: VmId, name: VmName) -> DesiredVm {
    let ip = address(number);
    DesiredVm {
        id,
        spec: VmSpec::new(name, "debian:12"),
        generation: 1,
        goal: Goal::Running,
        force_stop: false,
        stop_timeout: None,
        leases: Leases {
            ip: Some(ip),
            mac: Some(MacAddr::for_ipv4(ip)),
            cid: number + 3,
            uid: number + 100_000,
        },
        status: VmStatus {
            phase: Phase::Running,
            vmm: Some(vmm),
            started_at: Some(Timestamp::UNIX_EPOCH),
            observed_generation: 1,
            boot_id: Some(BOOT.to_owned()),
            ..VmStatus::default()
        },
    }
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 2).to_bits() + number)
}

/// `count` running VMs with bridge networking, and nothing to do.
fn converged(count: u32) -> Result<World, Box<dyn std::error::Error>> {
    let installation = InstallationId::new();
    let (mut vms, mut processes, mut taps, mut dirs) = (vec![], vec![], vec![], vec![]);
    let (mut guests, mut hosts, mut run_states) = (vec![], BTreeMap::new(), BTreeMap::new());
    for number in 0..count {
        let id = VmId::new();
        let mark = OwnerMark::of_vm(installation, id);
        let pid = i32::try_from(number)? * 2 + 100;
        for (role, pid) in [(ProcessRole::Shim, pid), (ProcessRole::Vmm, pid + 1)] {
            processes.push(ObservedProcess {
                identity: identity(mark, pid),
                role,
                started_at: Timestamp::UNIX_EPOCH,
                suspended: false,
            });
        }
        taps.push(ObservedTap {
            name: tap_name(id),
            index: number,
            mark,
            attached: true,
        });
        dirs.push(ObservedDir {
            vm: id,
            has_disk: true,
            behind: false,
            exit: None,
            changed_at: Timestamp::UNIX_EPOCH,
        });
        let ip = address(number);
        guests.push(GuestRule {
            tap: tap_name(id),
            mac: MacAddr::for_ipv4(ip),
            ip,
        });
        let name: VmName = format!("vm-{number}").parse()?;
        hosts.insert(name.to_string(), ip);
        run_states.insert(id, Survey::Known(RunState::Running));
        vms.push(desired(number, identity(mark, pid + 1), id, name));
    }
    Ok(World {
        now: Timestamp::UNIX_EPOCH + Duration::from_secs(3600),
        boot_id: BOOT.to_owned(),
        installation,
        vms,
        ill: BTreeMap::new(),
        observed: Observed {
            processes: Survey::Known(processes),
            run_states,
            units: Survey::Known(Vec::new()),
            taps: Survey::Known(taps),
            dirs: Survey::Known(dirs),
            bridge: Survey::Known(Some(ObservedBridge { ready: true })),
            rules: Survey::Known(Some(RuleSet {
                guests: guests.into_iter().collect(),
                ports: [].into(),
            })),
            names: Survey::Known(ObservedNames {
                running: true,
                hosts,
            }),
        },
        intents: Vec::new(),
        facts: hearth_plan::Facts::default(),
        load: hearth_plan::Load::default(),
        host: hearth_plan::breaker::host::HostMemory::default(),
        journaled: std::collections::BTreeSet::new(),
        policy: Policy::default(),
    })
}

fn median(world: &World) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            let plan = black_box(plan(black_box(world)));
            let time = start.elapsed();
            assert!(plan.steps.is_empty(), "the world is not converged");
            time
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One count and one run, for counting instructions under callgrind.
    if let Some(count) = std::env::args().nth(1) {
        let world = converged(count.parse()?)?;
        let plan = black_box(plan(black_box(&world)));
        println!("{count} VMs, {} steps", plan.steps.len());
        return Ok(());
    }
    println!("{:>8}  {:>12}", "VMs", "median of 21");
    for count in [1_000, 10_000, 100_000] {
        let time = median(&converged(count)?);
        println!("{count:>8}  {:>9.2} ms", time.as_secs_f64() * 1000.0);
    }
    Ok(())
}
