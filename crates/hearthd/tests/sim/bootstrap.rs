//! Reboots of the host in virtual time: policies, order, what is verified first, whose word holds.

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
    let mut world = World::new();
    let vms = world.live(async |life| {
        run(
            life,
            vec![
                always("a", &[]),
                always("b", &[]),
                with(BootstrapPolicy::RestartAll, always("c", &[])),
            ],
        )
        .await
    });
    world.policy.bootstrap = BootstrapPolicy::Manual;
    world.host.reboot();
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

/// Virtual times from a reboot until each of these runs.
async fn started(life: &Life, vms: &[VmId]) -> Vec<Duration> {
    let begun = life.engine.now();
    life.settled("all run").await;
    let mut times = Vec::new();
    for vm in vms {
        let at = life.row(*vm).await.status.started_at.unwrap();
        times.push(hearth_plan::transition::elapsed(begun, at));
    }
    times
}

#[test]
fn vms_are_started_after_those_that_they_name_are_healthy() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vms = world.live(async |life| {
        // The last one first, and a high priority at the end of the chain.
        let mut web = always("web", &["api", "cache"]);
        web.resources.priority = hearth_types::resources::Priority::High;
        let mut specs = vec![web, always("api", &["db"])];
        specs.extend((0..10).map(|n| always(&format!("other-{n}"), &[])));
        specs.extend([always("cache", &[]), always("db", &[])]);
        run(life, specs).await
    });
    world.host.reboot();
    world.live(async |life| {
        let begun = Instant::now();
        let (web, api, cache, db) = (vms[0], vms[1], vms[12], vms[13]);
        life.until("api waits", |rows, _| {
            let api = rows.iter().find(|row| row.id == api).unwrap();
            api.status.wait.is_some()
        })
        .await;
        let text = explained(life, web).await;
        assert!(text.contains("waits for api: "), "{text}");
        let times = started(life, &[web, api, cache, db]).await;
        assert!(times[1] > times[3], "api after db: {times:?}");
        assert!(
            times[0] > times[1] && times[0] > times[2],
            "web last: {times:?}"
        );
        // Whom an important VM waits for is as important: the ten others did not come first.
        assert!(times[3] < Duration::from_secs(2), "{times:?}");
        assert!(begun.elapsed() < 2 * MINUTE, "{:?}", begun.elapsed());
        let counts = "14 started, 0 waiting, 0 left by policy, 0 stopped by their users, 0 failed";
        assert_eq!(summary(life).await, counts);
        life.told("vm.waited_enough", 0).await;
        assert_eq!(life.row(web).await.status.wait, None);
        assert!(
            explained(life, web)
                .await
                .contains("after: api runs and is well")
        );
    });
}

#[test]
fn a_vm_that_does_not_become_healthy_is_waited_for_so_long_and_no_longer() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vms = world.live(async |life| {
        run(
            life,
            vec![
                always("web", &["db"]),
                always("db", &[]),
                always("last", &["web"]),
            ],
        )
        .await
    });
    world.host.reboot();
    let mute = Guest {
        agent: Reaction::Missing,
        ..Guest::default()
    };
    world.host.guests.insert(vms[1], mute);
    world.live(async |life| {
        let times = started(life, &vms).await;
        assert!(
            times[0] >= 5 * MINUTE && times[0] <= 6 * MINUTE,
            "{times:?}"
        );
        life.told("host.bootstrapped", 1).await;
    });
}

#[test]
fn who_does_not_come_by_itself_is_not_waited_for() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vms = world.live(async |life| {
        let after = ["stopped", "manual", "gone", "nobody", "once"];
        let specs = vec![
            always("web", &after),
            always("stopped", &[]),
            with(BootstrapPolicy::Manual, always("manual", &[])),
            always("gone", &[]),
            spec("once"),
        ];
        let vms = run(life, specs).await;
        life.set_goal(vms[1], Goal::Stopped).await;
        life.set_goal(vms[3], Goal::Absent).await;
        life.until("one is gone", |rows, _| rows.len() == 4).await;
        life.until("one is stopped", |rows, _| {
            rows[1].status.phase == Phase::Exited
        })
        .await;
        vms
    });
    world.host.reboot();
    world.live(async |life| {
        let begun = Instant::now();
        runs(life, vms[0]).await;
        assert!(begun.elapsed() < MINUTE, "{:?}", begun.elapsed());
        let text = explained(life, vms[0]).await;
        for line in [
            "after: stopped is not waited for: its user stopped it",
            "after: manual is not waited for: left stopped after the reboot by policy manual",
            "after: gone is not waited for: there is no such VM",
            "after: nobody is not waited for: there is no such VM",
            "after: once is not waited for: it has ended and is not started again",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        let counts = "1 started, 0 waiting, 2 left by policy, 1 stopped by their users, 0 failed";
        assert_eq!(summary(life).await, counts);
    });
}

#[test]
fn a_network_that_cannot_be_made_or_seen_is_waited_for() {
    if !root() {
        return;
    }
    for unknown in [false, true] {
        let mut world = World::new();
        let vms =
            world.live(async |life| run(life, vec![always("a", &[]), always("b", &[])]).await);
        world.host.reboot();
        if unknown {
            world.host.unknown.insert(Kind::Rules);
        } else {
            world.host.faults.insert("ensure_bridge", u32::MAX);
        }
        let before = world.host.attempts["start_vmm"];
        world.live(async |life| {
            tokio::time::sleep(20 * MINUTE).await;
            assert_eq!(launches(life), before);
            for vm in &vms {
                let status = life.row(*vm).await.status;
                assert_eq!((status.phase, status.failures), (Phase::Starting, 0));
                let wait = status.wait.unwrap();
                assert_eq!(wait.on, Awaited::Network);
                let why = if unknown {
                    "the network rules cannot be looked at"
                } else {
                    "need it and it is missing ("
                };
                assert!(wait.reason.contains(why), "{}", wait.reason);
            }
            // It is told as it stands when nobody expects more of it.
            let counts =
                "0 started, 2 waiting, 0 left by policy, 0 stopped by their users, 0 failed";
            assert_eq!(summary(life).await, counts);
            life.told("vm.waits", 2).await;
            life.told("vm.start_failed", 0).await;
            life.rooms.change(|host| {
                host.faults.clear();
                host.unknown.clear();
            });
            life.settled("they run").await;
            summary(life).await;
        });
    }
}

#[test]
fn disks_that_are_not_there_are_waited_for_and_not_made_anew() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vms = world.live(async |life| {
        let mut a = always("a", &[]);
        a.volumes = vec!["data:/srv:32MiB".parse().unwrap()];
        run(life, vec![a, always("b", &[])]).await
    });
    world.host.reboot();
    world.live(async |life| {
        let paths = &life.engine.paths;
        let volume = paths.vm(vms[0]).join("volume-data.img");
        let moves = [
            (volume.clone(), volume.with_extension("away")),
            (paths.vm(vms[1]), paths.data().join("away")),
        ];
        for (from, to) in &moves {
            std::fs::rename(from, to).unwrap();
        }
        let before = launches(life);
        tokio::time::sleep(20 * MINUTE).await;
        assert_eq!(launches(life), before);
        for (vm, why) in [
            (vms[0], "volume-data.img is missing"),
            (vms[1], "its folder is missing"),
        ] {
            let wait = life.row(vm).await.status.wait.unwrap();
            assert_eq!(wait.on, Awaited::Disks);
            assert!(wait.reason.contains(why), "{}", wait.reason);
        }
        assert!(!paths.vm(vms[1]).exists(), "a new disk was made");
        for (from, to) in &moves {
            std::fs::rename(to, from).unwrap();
        }
        life.settled("they run").await;
    });
}

#[test]
fn the_users_word_wins_over_what_is_waited_for() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vms = world.live(async |life| {
        let manual = with(BootstrapPolicy::Manual, always("manual", &["db"]));
        run(
            life,
            vec![
                always("web", &["db"]),
                always("api", &["db"]),
                manual,
                always("db", &[]),
            ],
        )
        .await
    });
    world.host.reboot();
    let mute = Guest {
        agent: Reaction::Missing,
        ..Guest::default()
    };
    world.host.guests.insert(vms[3], mute);
    world.live(async |life| {
        let waits = |rows: &[VmRow], _: &hearth_sim::SimHost| {
            rows[..2].iter().all(|row| row.status.wait.is_some())
        };
        life.until("two wait", waits).await;
        let begun = Instant::now();
        // A start, of one that waits and of one that was left; and a stop of one that waits.
        life.set_goal(vms[0], Goal::Running).await;
        life.set_goal(vms[2], Goal::Running).await;
        life.set_goal(vms[1], Goal::Stopped).await;
        runs(life, vms[0]).await;
        runs(life, vms[2]).await;
        assert!(begun.elapsed() < MINUTE, "{:?}", begun.elapsed());
        tokio::time::sleep(10 * MINUTE).await;
        let stopped = life.row(vms[1]).await;
        assert_eq!(stopped.status.phase, Phase::Exited);
        assert_eq!(
            (&stopped.status.wait, &stopped.status.reason),
            (&None, &None)
        );
        assert_eq!(stopped.status.bootstrap.unwrap().fate, Fate::Stopped);
        life.settled("as the user said").await;
    });
}

#[test]
fn a_daemon_that_dies_during_the_bootstrap_is_followed_by_one_that_ends_it() {
    if !root() {
        return;
    }
    for nth in [1, 3, 6] {
        let mut world = World::new();
        let vms = world.live(async |life| {
            run(
                life,
                vec![
                    always("web", &["api"]),
                    always("api", &["db"]),
                    always("db", &[]),
                    with(BootstrapPolicy::Manual, always("m", &[])),
                ],
            )
            .await
        });
        world.host.reboot();
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
