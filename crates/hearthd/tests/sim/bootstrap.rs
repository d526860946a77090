//! Reboots of the host in virtual time: policies, order, what is verified first, whose word holds.

mod waits;

use std::time::Duration;

use hearth_plan::recovery::recover;
use hearth_sim::{Guest, Kind, Reaction};
use hearth_store::VmRow;
use hearth_types::api::Health;
use hearth_types::ids::{EventSeq, VmId};
use hearth_types::process::ProcessExit;
use hearth_types::spec::{BootstrapPolicy, RestartPolicy, VmSpec};
use hearth_types::status::{Awaited, Fate, Goal, Phase};
use tokio::time::Instant;

use super::world::{Life, World, root, spec};

const MINUTE: Duration = Duration::from_secs(60);

fn always(name: &str, after: &[&str]) -> VmSpec {
    VmSpec {
        restart: RestartPolicy::UnlessStopped,
        after: after.iter().map(|name| name.parse().unwrap()).collect(),
        ..spec(name)
    }
}

fn with(policy: BootstrapPolicy, spec: VmSpec) -> VmSpec {
    VmSpec {
        bootstrap: Some(policy),
        ..spec
    }
}

/// Creates VMs in this order and lets them run and be healthy.
async fn run(life: &Life, specs: Vec<VmSpec>) -> Vec<VmId> {
    let mut vms = Vec::new();
    for spec in specs {
        vms.push(life.create(spec, Goal::Running).await);
    }
    life.settled("all run").await;
    life.until("all are healthy", |rows, _| {
        let healthy = |row: &VmRow| life.engine.health_of(row) == Health::Healthy;
        rows.iter().all(healthy)
    })
    .await;
    vms
}

/// A host on which these ran, and that was rebooted.
fn rebooted(specs: Vec<VmSpec>) -> (World, Vec<VmId>) {
    let mut world = World::new();
    let vms = world.live(async |life| run(life, specs).await);
    world.host.reboot();
    (world, vms)
}

/// A guest that never answers.
fn mute() -> Guest {
    Guest {
        agent: Reaction::Missing,
        ..Guest::default()
    }
}

fn crash(life: &Life, vm: VmId) {
    life.rooms.change(|host| {
        let pid = host.vmms(vm).next().unwrap().identity.pid;
        host.end(pid, ProcessExit::Signal(11), None);
    });
}

/// The one event that sums the bootstrap up, and what it counts.
async fn summary(life: &Life) -> String {
    life.told("host.bootstrapped", 1).await;
    let events = life.engine.parts.store.events(EventSeq(0), 100_000).await;
    let events = events.unwrap();
    let told = events.iter().find(|e| e.code == "host.bootstrapped");
    let (_, counts) = told.unwrap().message.rsplit_once("VM(s): ").unwrap();
    counts.to_owned()
}

async fn explained(life: &Life, vm: VmId) -> String {
    let plan = life.engine.dry_run_of(vm).await.unwrap().unwrap();
    let reasons = plan.reasons.iter();
    let reasons = reasons.map(|reason| format!("{}: {}", reason.topic, reason.text));
    reasons.collect::<Vec<_>>().join("\n")
}

async fn runs(life: &Life, vm: VmId) {
    life.until("it runs", |rows, host| {
        let recorded = |row: &VmRow| row.id == vm && row.status.phase == Phase::Running;
        rows.iter().any(recorded) && host.vmms(vm).count() == 1
    })
    .await;
}

fn launches(life: &Life) -> u32 {
    let started = |host: &hearth_sim::SimHost| host.attempts.get("start_vmm").copied();
    life.rooms.see(started).unwrap_or(0)
}

#[test]
fn policy_manual_leaves_vms_until_somebody_says_so() {
    if !root() {
        return;
    }
    let (mut world, vms) = rebooted(vec![
        always("a", &[]),
        always("b", &[]),
        with(BootstrapPolicy::RestartAll, always("c", &[])),
    ]);
    world.policy.bootstrap = BootstrapPolicy::Manual;
    for daemon in 0..2 {
        world.live(async |life| {
            runs(life, vms[2]).await;
            let counts =
                "1 started, 0 waiting, 2 left by policy, 0 stopped by their users, 0 failed";
            assert_eq!(summary(life).await, counts);
            tokio::time::sleep(5 * MINUTE).await;
            for vm in &vms[..2] {
                let count = life.rooms.see(|host| host.vmms(*vm).count());
                assert_eq!(count, 0, "daemon {daemon}");
            }
            let status = life.row(vms[0]).await.status;
            assert_eq!(status.phase, Phase::Exited);
            let reason = "left stopped after the reboot by policy manual";
            assert_eq!(status.reason.as_deref(), Some(reason));
            let explained = explained(life, vms[0]).await;
            assert!(
                explained.contains(&format!("bootstrap: {reason}, until hearth start a")),
                "{explained}"
            );
        });
    }
    world.live(async |life| {
        life.set_goal(vms[0], Goal::Running).await;
        runs(life, vms[0]).await;
        let (store, now) = (&life.engine.parts.store, life.engine.now());
        let said = store.change_status(vms[1], move |row| {
            recover(&row.status, row.goal, false, now).status.unwrap()
        });
        said.await.unwrap();
        life.engine.look_at(vms[1]);
        life.settled("all run").await;
        assert_eq!(life.row(vms[0]).await.status.reason, None);
        summary(life).await;
    });
}

#[test]
fn policy_restart_healthy_starts_those_that_ran_and_were_not_failing() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.policy.backoff_first = 10 * MINUTE;
    world.policy.bootstrap = BootstrapPolicy::RestartHealthy;
    let vms = world.live(async |life| {
        let stopped = VmSpec {
            restart: RestartPolicy::Always,
            ..spec("stopped")
        };
        let vms = vec![
            always("well", &[]),
            always("failing", &[]),
            stopped,
            always("ill", &[]),
        ];
        let vms = run(life, vms).await;
        life.set_goal(vms[2], Goal::Stopped).await;
        crash(life, vms[1]);
        life.rooms.change(|host| host.hang(vms[3]));
        life.until("one is stopped, one waits, one is ill", |rows, _| {
            rows[2].status.phase == Phase::Exited
                && rows[1].status.phase == Phase::Backoff
                && rows[3].status.unhealthy
        })
        .await;
        vms
    });
    world.host.reboot();
    world.live(async |life| {
        let counts = "1 started, 0 waiting, 2 left by policy, 1 stopped by their users, 0 failed";
        assert_eq!(summary(life).await, counts);
        tokio::time::sleep(30 * MINUTE).await;
        let reason = async |vm| life.row(vm).await.status.reason.unwrap_or_default();
        let left = "left stopped after the reboot by policy restart-healthy";
        assert_eq!(
            reason(vms[1]).await,
            format!("{left}: it was failing, 1 failure in a row")
        );
        assert_eq!(reason(vms[3]).await, format!("{left}: it was unhealthy"));
        // Under this policy not even restart policy `always` starts what its user had stopped.
        assert_eq!(life.row(vms[2]).await.goal, Goal::Stopped);
        assert_eq!(life.rooms.see(|host| host.vmms(vms[0]).count()), 1);
        assert_eq!(launches(life), 5);
    });
}

#[test]
fn a_daemon_that_dies_during_the_bootstrap_is_followed_by_one_that_ends_it() {
    if !root() {
        return;
    }
    for nth in [1, 3, 6] {
        let (mut world, vms) = rebooted(vec![
            always("web", &["api"]),
            always("api", &["db"]),
            always("db", &[]),
            with(BootstrapPolicy::Manual, always("m", &[])),
        ]);
        let place = super::world::Place {
            side: "after",
            step: "set_status",
            nth,
        };
        // A place that is not reached is a bootstrap that has ended before.
        let _dead = world.live_until(place, async |_| tokio::time::sleep(10 * MINUTE).await);
        world.live(async |life| {
            for vm in &vms[..3] {
                runs(life, *vm).await;
            }
            let counts =
                "3 started, 0 waiting, 1 left by policy, 0 stopped by their users, 0 failed";
            assert_eq!(summary(life).await, counts);
            let (web, db) = (life.row(vms[0]).await, life.row(vms[2]).await);
            // Nothing takes time here but what has to be waited for.
            assert!(web.status.started_at >= db.status.started_at);
        });
        world.live(async |life| {
            tokio::time::sleep(10 * MINUTE).await;
            life.told("host.bootstrapped", 1).await;
        });
    }
}
