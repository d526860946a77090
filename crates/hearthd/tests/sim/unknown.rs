//! A survey that fails is not an empty host: nothing is removed, killed or started for want of
//! knowledge, and all goes on when the survey works again.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_sim::{Kind, SimHost};
use hearth_store::VmRow;
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::net::RuleSet;
use hearth_types::observe::{ObservedNames, ProcessRole};
use hearth_types::process::{ProcessExit, ProcessIdentity};
use hearth_types::status::{Goal, Phase};

use super::world::{Life, World, root, spec};

/// Long enough for several full passes.
const LONG: Duration = Duration::from_secs(400);

type Picture = (Vec<ProcessIdentity>, Vec<String>, Shared);
type Shared = (Option<bool>, Option<RuleSet>, ObservedNames);

/// What must be the same after a time of blindness. Orphans may go while processes are seen.
fn picture(host: &SimHost, kind: Kind) -> Picture {
    let known: BTreeSet<_> = host.dirs.keys().copied().collect();
    let all = host.processes.values().map(|p| p.identity.clone());
    let processes = all.filter(|identity| {
        kind == Kind::Processes || identity.mark.vm().is_some_and(|vm| known.contains(&vm))
    });
    let shared = (host.bridge, host.rules.clone(), host.names.clone());
    (
        processes.collect(),
        host.taps.keys().cloned().collect(),
        shared,
    )
}

/// Lets a survey fail (for all passes) and lets it work again.
fn blind(life: &Life, kind: Kind, on: bool) {
    let (vms, away) = (
        life.engine.paths.vms(),
        life.engine.paths.data().join("away"),
    );
    // The engine looks at its folders itself: one that is a file cannot be listed.
    if kind == Kind::Dirs && on {
        std::fs::rename(&vms, &away).unwrap();
        std::fs::write(&vms, "").unwrap();
    } else if kind == Kind::Dirs {
        std::fs::remove_file(&vms).unwrap();
        std::fs::rename(&away, &vms).unwrap();
    }
    life.rooms.change(|host| {
        if on {
            host.unknown.insert(kind);
        } else {
            host.unknown.remove(&kind);
        }
    });
    life.engine.look_at_everything();
}

fn blindness(kind: Kind) {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vms = world.live(async |life| {
        let mut vms = Vec::new();
        for name in ["a", "b", "c"] {
            vms.push(life.create(spec(name), Goal::Running).await);
        }
        life.settled("all run").await;
        // An orphan of each kind that can be one, but only when it is known to be one.
        life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, VmId::new());
            host.spawn(mark, ProcessRole::Vmm, false);
        });
        vms
    });
    // The next daemon is blind from its first look on.
    world.live(async |life| {
        blind(life, kind, true);
        let before = life.rooms.change(|host| picture(host, kind));
        tokio::time::sleep(LONG).await;
        assert_eq!(life.rooms.change(|host| picture(host, kind)), before);
        let running = |row: &VmRow| row.status.phase == Phase::Running && row.status.vmm.is_some();
        assert!(life.engine.parts.store.vms().await.iter().all(running));
        // A VMM that dies meanwhile: nothing is known for sure of the others still.
        let dead = life.row(vms[0]).await.status.vmm.unwrap();
        life.rooms
            .change(|host| host.end(dead.pid, ProcessExit::Code(0), None));
        // Its shim writes the record and goes.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let kept = life.rooms.change(|host| picture(host, kind));
        tokio::time::sleep(LONG).await;
        // Its pidfd and its record tell of it without a survey, and nothing else is done about it.
        let recorded = life.row(vms[0]).await.status.vmm;
        let unread = (kind == Kind::Dirs).then_some(dead);
        assert_eq!(
            recorded, unread,
            "declared dead without knowing, or not at all"
        );
        let after = life.rooms.change(|host| picture(host, kind));
        assert_eq!((after.0.len(), after.2), (kept.0.len(), kept.2), "{kind:?}");
        blind(life, kind, false);
        life.sane().await;
        life.until("the end is told", |rows, _| {
            rows.iter()
                .any(|row| row.id == vms[0] && row.status.phase == Phase::Exited)
        })
        .await;
        life.until("the orphan is gone", |_, host| host.processes.len() == 4)
            .await;
        for vm in &vms {
            life.set_goal(*vm, Goal::Absent).await;
        }
        life.clean().await;
    });
}

#[test]
fn of_processes() {
    blindness(Kind::Processes);
}

#[test]
fn of_run_states() {
    blindness(Kind::RunStates);
}

#[test]
fn of_taps() {
    blindness(Kind::Taps);
}

#[test]
fn of_folders() {
    blindness(Kind::Dirs);
}

#[test]
fn of_the_bridge() {
    blindness(Kind::Bridge);
}

#[test]
fn of_the_rules() {
    blindness(Kind::Rules);
}

#[test]
fn of_the_names() {
    blindness(Kind::Names);
}
