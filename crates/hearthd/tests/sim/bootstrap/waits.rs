//! What a start waits for: other VMs, the network, the disks.

use super::*;

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
    // The last one first, and a high priority at the end of the chain.
    let mut web = always("web", &["api", "cache"]);
    web.resources.priority = hearth_types::resources::Priority::High;
    let mut specs = vec![web, always("api", &["db"])];
    specs.extend((0..10).map(|n| always(&format!("other-{n}"), &[])));
    specs.extend([always("cache", &[]), always("db", &[])]);
    let (mut world, vms) = rebooted(specs);
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
    let (mut world, vms) = rebooted(vec![
        always("web", &["db"]),
        always("db", &[]),
        always("last", &["web"]),
    ]);
    world.host.guests.insert(vms[1], mute());
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
        let (mut world, vms) = rebooted(vec![always("a", &[]), always("b", &[])]);
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
    let mut a = always("a", &[]);
    a.volumes = vec!["data:/srv:32MiB".parse().unwrap()];
    let (mut world, vms) = rebooted(vec![a, always("b", &[])]);
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
    let (mut world, vms) = rebooted(vec![
        always("web", &["db"]),
        always("api", &["db"]),
        with(BootstrapPolicy::Manual, always("manual", &["db"])),
        always("db", &[]),
    ]);
    world.host.guests.insert(vms[3], mute());
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
