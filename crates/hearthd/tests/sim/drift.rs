//! What a VM that runs has lost on the host, or what somebody has changed, is put back, and the
//! guest does not notice.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_sim::{Kind, SimHost};
use hearth_types::names::tap_name;
use hearth_types::net::RuleSet;
use hearth_types::observe::ObservedNames;
use hearth_types::status::{Goal, Phase};
use tokio::time::Instant;

use super::world::{World, changed, root, spec};

/// One thing that is taken away or changed, by name.
type Drift = (&'static str, fn(&mut SimHost));

const DRIFTS: [Drift; 9] = [
    ("the table is gone", |host| host.rules = None),
    ("the table was flushed", |host| {
        host.rules = Some(RuleSet::default());
    }),
    ("one VM's filter is gone", |host| {
        rules(host).guests.pop_first();
    }),
    ("one published port is gone", |host| {
        rules(host).ports.pop_first();
    }),
    ("a TAP is gone", |host| {
        host.taps.pop_first();
    }),
    ("a TAP is down or off the bridge", |host| {
        for tap in host.taps.values_mut() {
            tap.attached = false;
        }
    }),
    ("the bridge is down or lost its address", |host| {
        host.bridge = Some(false);
    }),
    ("the name server died", |host| {
        host.names = ObservedNames::default();
    }),
    ("the name server serves other names", |host| {
        let stranger = ("stranger".to_owned(), [10, 213, 0, 99].into());
        host.names.hosts = BTreeMap::from([stranger]);
    }),
];

fn rules(host: &mut SimHost) -> &mut RuleSet {
    host.rules.get_or_insert_with(RuleSet::default)
}

/// The bridge, the rules, the names, and each TAP with whether it is on the bridge.
type Network = (
    Option<bool>,
    Option<RuleSet>,
    ObservedNames,
    Vec<(String, bool)>,
);

/// All that VMs need of the network, without what changes when it is made anew.
fn network(host: &SimHost) -> Network {
    let taps = host.taps.iter();
    let taps = taps.map(|(name, tap)| (name.clone(), tap.attached));
    let (bridge, rules) = (host.bridge, host.rules.clone());
    (bridge, rules, host.names.clone(), taps.collect())
}

#[test]
fn what_is_lost_or_changed_is_put_back_without_touching_the_guest() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let mut web = spec("web");
        web.ports = vec!["8080:80".parse().unwrap()];
        let vms = [
            life.create(web, Goal::Running).await,
            life.create(spec("db"), Goal::Running).await,
        ];
        life.settled("both run").await;
        let whole = life.rooms.see(network);
        assert!(whole.3.iter().any(|(name, _)| *name == tap_name(vms[0])));
        let pids = || {
            let pid = |host: &SimHost, vm| host.vmms(vm).next().unwrap().identity.pid;
            life.rooms.see(|host| vms.map(|vm| pid(host, vm)))
        };
        let before = pids();
        for (what, drift) in DRIFTS {
            life.rooms.change(|host| host.attempts.clear());
            life.rooms.change(drift);
            assert_ne!(life.rooms.see(network), whole, "{what}: nothing changed");
            life.engine.look_at_everything();
            life.until(what, |_, host| network(host) == whole).await;
            let touched = [
                "start_vmm",
                "stop",
                "kill",
                "pause",
                "resume",
                "ensure_disks",
            ];
            let attempts = life.rooms.see(|host| host.attempts.clone());
            let touched = touched.iter().find(|step| attempts.contains_key(*step));
            assert_eq!(touched, None, "{what}: {attempts:?}");
            assert_eq!(pids(), before, "{what}");
        }
        for vm in vms {
            let row = life.row(vm).await;
            assert_eq!((row.status.phase, row.status.failures), (Phase::Running, 0));
            life.set_goal(vm, Goal::Absent).await;
        }
        life.clean().await;
    });
}

#[test]
fn what_the_kernel_tells_of_is_put_back_at_once_and_a_quarrel_is_no_reason_to_look_all_the_time() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let hour = Duration::from_secs(3600);
    world.policy.resync = hour;
    world.live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let whole = life.rooms.see(network);
        let begun = Instant::now();
        for (what, drift) in DRIFTS
            .into_iter()
            .filter(|(what, _)| !what.contains("port"))
        {
            life.rooms.change_network(drift);
            life.until(what, |_, host| network(host) == whole).await;
        }
        assert!(begun.elapsed() < hour / 4, "{:?}", begun.elapsed());

        // Somebody takes the TAP off the bridge whenever it is put on.
        let looks = |host: &SimHost| host.attempts.get("ensure_tap").copied().unwrap_or(0);
        life.rooms.change(|host| host.attempts.clear());
        let begun = Instant::now();
        while begun.elapsed() < hour / 4 {
            life.rooms.change_network(|host| {
                for tap in host.taps.values_mut() {
                    tap.attached = false;
                }
            });
            // How often he comes back is what this is about.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let looks = life.rooms.see(looks);
        assert!(
            (10..=60).contains(&looks),
            "{looks} in a quarter of an hour"
        );
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn a_tap_that_cannot_be_put_back_holds_up_nothing_else() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.host.systemd = true;
    world.live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        life.rooms.change(|host| {
            host.faults.insert("ensure_tap", u32::MAX);
            for tap in host.taps.values_mut() {
                tap.attached = false;
            }
        });
        life.engine.look_at_everything();
        life.until("it is told", |rows, _| rows[0].status.reason.is_some())
            .await;
        life.set_goal(vm, Goal::Paused).await;
        let paused = |host: &SimHost| host.vmms(vm).all(|vmm| vmm.paused);
        life.until("it is paused all the same", |_, host| paused(host))
            .await;
        life.set_goal(vm, Goal::Running).await;
        life.until("it goes on all the same", |_, host| !paused(host))
            .await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(life.events("vm.start_failed").await, 0, "it has started");
        assert!(
            life.events("vm.step_failed").await <= 3,
            "once for each word"
        );
        assert_eq!(life.row(vm).await.status.failures, 0);
        life.rooms.change(|host| host.faults.clear());
        life.until("it is put back, and said no more", |rows, host| {
            host.taps.values().all(|tap| tap.attached) && rows[0].status.reason.is_none()
        })
        .await;
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
    });
}

/// Everything that was done to VMMs, as against what was done beside them.
fn touched(host: &SimHost) -> Vec<&'static str> {
    let all = ["start_vmm", "stop", "kill", "pause", "resume"];
    let done = all.into_iter();
    done.filter(|step| host.attempts.contains_key(step))
        .collect()
}

#[test]
fn limits_that_somebody_has_changed_are_put_back_without_touching_the_guest() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.host.systemd = true;
    world.live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let loosen = |limits: &[(&str, bool)]| {
            let limits = limits.iter();
            let limits = limits.map(|(name, fits)| changed(name, "max", *fits));
            let limits = limits.collect();
            life.rooms.change(|host| {
                host.attempts.clear();
                host.units.get_mut(&vm).unwrap().changed = limits;
            });
        };
        let left = |host: &SimHost| {
            let changed = host.units[&vm].changed.iter();
            changed.map(|limit| limit.name.clone()).collect::<Vec<_>>()
        };

        // Found by the regular look, by nobody's word.
        loosen(&[("cpu.max", true), ("pids.max", true)]);
        life.until("they are back", |_, host| left(host).is_empty())
            .await;
        life.told("vm.limits_restored", 1).await;
        assert_eq!(life.rooms.see(touched), [""; 0]);

        // One that the VMM is beyond stays, and is said.
        loosen(&[("memory.max", false), ("cpu.max", true)]);
        life.until("the other one is back", |_, host| {
            left(host) == ["memory.max"]
        })
        .await;
        let plan = life.engine.dry_run().await.unwrap();
        assert_eq!(plan.steps, []);
        let said = |note: &String| note.contains("memory.max") && note.contains("next start");
        assert!(plan.notes.iter().any(said), "{:?}", plan.notes);

        // What is not known is left alone, for as long as it is not known.
        loosen(&[("cpu.max", true)]);
        for kind in [Kind::Limits, Kind::Units] {
            life.rooms.change(|host| host.unknown = [kind].into());
            tokio::time::sleep(life.engine.settings.policy.resync * 3).await;
            assert_eq!(life.rooms.see(|host| left(host)), ["cpu.max"], "{kind:?}");
        }
        life.rooms.change(|host| host.unknown.clear());
        life.until("it is back", |_, host| left(host).is_empty())
            .await;
        // One that systemd does not put back is tried again and keeps nobody waiting.
        loosen(&[("cpu.max", true)]);
        life.rooms
            .change(|host| host.faults.insert("ensure_limits", 3));
        life.set_goal(vm, Goal::Paused).await;
        life.until("it is paused, and limited", |rows, host| {
            rows[0].status.phase == Phase::Paused && left(host).is_empty()
        })
        .await;
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
    });
}
