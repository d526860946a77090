//! Modes of the whole daemon: what they hold, what they let through, how they come and go.

use std::time::Duration;

use hearth_sim::SimHost;
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::mode::{Mode, ModeBy, ModeRule, SetMode};
use hearth_types::observe::ProcessRole;
use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};

use super::world::{Life, World, reached, root, spec};

const HOUR: Duration = Duration::from_secs(3600);

async fn set(life: &Life, mode: Mode) {
    let set = SetMode {
        mode,
        reason: Some("a test".to_owned()),
    };
    let view = life.engine.set_mode(set).await;
    assert_eq!(view.mode, mode);
    assert!(mode == Mode::Normal || view.hand.unwrap().stored);
}

/// Names of what there is, without what guests and shims do by themselves.
fn objects(host: &SimHost) -> (Vec<String>, usize, Option<bool>, bool) {
    (
        host.taps.keys().cloned().collect(),
        host.rules.as_ref().map_or(0, |rules| rules.guests.len()),
        host.bridge,
        host.names.running,
    )
}

async fn crash(life: &Life, vm: VmId) {
    let ends = life.row(vm).await.status.last_end;
    life.rooms.change(|host| {
        let pid = host.vmms(vm).next().unwrap().identity.pid;
        host.end(pid, ProcessExit::Signal(11), None);
    });
    life.until("the end is recorded", |rows, _| {
        let row = rows.iter().find(|row| row.id == vm).unwrap();
        row.status.vmm.is_none() && row.status.last_end != ends
    })
    .await;
}

fn always(name: &str) -> hearth_types::spec::VmSpec {
    let mut spec = spec(name);
    spec.restart = RestartPolicy::Always;
    spec
}

#[test]
fn readonly_in_the_middle_of_everything_leaves_the_host_as_it_is() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let web = life.create(always("web"), Goal::Running).await;
        let gone = life.create(spec("gone"), Goal::Running).await;
        life.settled("both run").await;
        // Under way at once: a removal, a new VM, a crash, a stray, lost filters.
        life.set_goal(gone, Goal::Absent).await;
        life.create(spec("new"), Goal::Running).await;
        life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, VmId::new());
            host.spawn(mark, ProcessRole::Vmm, false);
            host.rules = None;
        });
        set(life, Mode::Readonly).await;
        // What was in flight ends.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = life.rooms.change(|host| {
            host.attempts.clear();
            objects(host)
        });
        crash(life, web).await;
        assert_eq!(life.row(web).await.status.phase, Phase::Backoff);
        tokio::time::sleep(HOUR).await;
        let (after, tried) = life
            .rooms
            .change(|host| (objects(host), host.attempts.clone()));
        assert!(tried.is_empty(), "{tried:?}");
        assert_eq!(before, after);
        let plan = life.engine.dry_run().await.unwrap();
        assert!(plan.steps.is_empty() && !plan.held.is_empty(), "{plan:#?}");
        assert!(plan.held.iter().all(|held| held.by == "mode readonly"));
        set(life, Mode::Normal).await;
        life.until("every word comes true", |rows, host| {
            rows.len() == 2 && rows.iter().all(|row| reached(row, host))
        })
        .await;
        life.sane().await;
        assert_eq!(life.events("daemon.mode_changed").await, 2);
    });
}

#[test]
fn maintenance_does_what_is_asked_and_nothing_else() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let web = life.create(always("web"), Goal::Running).await;
        life.settled("it runs").await;
        set(life, Mode::Maintenance).await;
        crash(life, web).await;
        life.rooms.change(|host| host.attempts.clear());
        tokio::time::sleep(HOUR).await;
        life.rooms
            .change(|host| assert!(host.attempts.is_empty(), "{:?}", host.attempts));
        life.set_goal(web, Goal::Running).await;
        life.create(spec("new"), Goal::Running).await;
        life.settled("what was asked for runs").await;
        life.restart(web).await;
        life.settled("it was restarted").await;
        for row in life.engine.parts.store.vms().await {
            life.set_goal(row.id, Goal::Absent).await;
        }
        life.until("both are gone", |rows, _| rows.is_empty()).await;
        let bridge = life.rooms.change(|host| host.bridge);
        assert_eq!(bridge, Some(true), "the network is nobody's word");
        set(life, Mode::Normal).await;
        life.clean().await;
    });
}

#[test]
fn a_reboot_in_maintenance_starts_nothing() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let web = world.live(async |life| {
        let web = life.create(always("web"), Goal::Running).await;
        life.settled("it runs").await;
        set(life, Mode::Maintenance).await;
        web
    });
    world.host.reboot();
    world.live(async |life| {
        tokio::time::sleep(HOUR).await;
        let view = life.engine.modes.view();
        assert_eq!((view.mode, view.by), (Mode::Maintenance, ModeBy::Hand));
        assert_eq!(view.reason.as_deref(), Some("a test"));
        assert!(view.hand.unwrap().stored);
        assert_eq!(life.rooms.change(|host| host.vmms(web).count()), 0);
        assert!(life.row(web).await.status.last_end.is_some());
        set(life, Mode::Normal).await;
        life.settled("it runs again").await;
    });
    world.live(async |life| {
        life.settled("it still runs").await;
        assert_eq!(life.engine.modes.mode(), Mode::Normal);
    });
}

#[test]
fn a_full_disk_is_readonly_until_there_is_room() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let web = life.create(always("web"), Goal::Running).await;
        life.settled("it runs").await;
        life.rooms.change(|host| host.free = Some(10 << 20));
        crash(life, web).await;
        life.until("it is noticed", |_, _| {
            life.engine.modes.mode() == Mode::Readonly
        })
        .await;
        let view = life.engine.modes.view();
        assert_eq!(view.by, ModeBy::Rule);
        assert_eq!(view.rules[0].rule, ModeRule::DiskFull);
        assert!(view.reason.unwrap().contains("10MiB free"));
        life.rooms.change(|host| host.attempts.clear());
        // Enough for the reserve is not enough to leave.
        life.rooms.change(|host| host.free = Some(70 << 20));
        tokio::time::sleep(HOUR).await;
        assert_eq!(life.engine.modes.mode(), Mode::Readonly);
        life.rooms
            .change(|host| assert!(host.attempts.is_empty(), "{:?}", host.attempts));
        let freed = tokio::time::Instant::now();
        life.rooms.change(|host| host.free = Some(1 << 30));
        life.until("it is over", |_, _| {
            life.engine.modes.mode() == Mode::Normal
        })
        .await;
        assert!(freed.elapsed() < Duration::from_secs(10));
        life.settled("it runs again").await;
        life.told("daemon.mode_changed", 2).await;
    });
}

#[test]
fn a_word_sets_a_full_disk_aside() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let web = life.create(always("web"), Goal::Running).await;
        life.settled("it runs").await;
        life.rooms.change(|host| host.free = Some(0));
        life.engine.look_at_everything();
        life.until("it is noticed", |_, _| {
            life.engine.modes.mode() == Mode::Readonly
        })
        .await;
        set(life, Mode::Maintenance).await;
        life.set_goal(web, Goal::Absent).await;
        life.until("it is gone", |rows, _| rows.is_empty()).await;
        life.rooms.change(|host| host.free = None);
        set(life, Mode::Normal).await;
        life.clean().await;
    });
}

/// One switch off: what it names is not done, and the plan says so.
fn switched_off(
    switch: impl FnOnce(&mut hearth_plan::mode::Switches),
    key: &str,
    fault: impl AsyncFnOnce(&Life, VmId),
    untouched: impl Fn(&SimHost) -> bool,
) {
    if !root() {
        return;
    }
    let mut world = World::new();
    switch(&mut world.policy.auto);
    world.live(async |life| {
        let web = life.create(always("web"), Goal::Running).await;
        life.settled("it runs").await;
        fault(life, web).await;
        tokio::time::sleep(HOUR).await;
        assert!(life.rooms.change(|host| untouched(host)), "{key}");
        let plan = life.engine.dry_run().await.unwrap();
        assert!(plan.steps.is_empty(), "{plan:#?}");
        assert!(plan.held.iter().any(|held| held.by == key), "{plan:#?}");
        assert!(
            plan.notes.iter().any(|note| note.contains(key)),
            "{plan:#?}"
        );
        // The user's word is carried out all the same.
        life.set_goal(web, Goal::Stopped).await;
        life.until("it is stopped", |rows, host| {
            rows.iter().all(|row| row.status.vmm.is_none()) && host.vmms(web).count() == 0
        })
        .await;
        life.set_goal(web, Goal::Running).await;
        life.settled("it runs again").await;
    });
}

#[test]
fn auto_restart_off() {
    switched_off(
        |auto| auto.restart = false,
        "AUTO_RESTART",
        async |life, web| crash(life, web).await,
        |host| !host.processes.values().any(|p| p.role == ProcessRole::Vmm),
    );
}

#[test]
fn auto_drift_off() {
    switched_off(
        |auto| auto.drift = false,
        "AUTO_DRIFT",
        async |life, _| life.rooms.change(|host| host.rules = None),
        |host| host.rules.is_none(),
    );
}

#[test]
fn auto_orphans_off() {
    let stray = VmId::new();
    switched_off(
        |auto| auto.orphans = false,
        "AUTO_ORPHANS",
        async |life, _| {
            life.rooms.change(|host| {
                let mark = OwnerMark::of_vm(host.installation, stray);
                host.spawn(mark, ProcessRole::Vmm, false);
            });
        },
        |host| host.vmms(stray).count() == 1,
    );
}

#[test]
fn auto_cleanup_off() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.policy.auto.cleanup = false;
    world.live(async |life| {
        let mut once = spec("once");
        once.restart = RestartPolicy::No;
        let once = life.create(once, Goal::Running).await;
        life.settled("it runs").await;
        crash(life, once).await;
        tokio::time::sleep(HOUR).await;
        let taps = |host: &SimHost| host.taps.len();
        assert_eq!(life.rooms.see(taps), 1, "its TAP stays");
        let plan = life.engine.dry_run().await.unwrap();
        assert!(plan.steps.is_empty(), "{plan:#?}");
        assert!(plan.held.iter().any(|held| held.by == "AUTO_CLEANUP"));
        // The user's word is carried out all the same.
        life.set_goal(once, Goal::Stopped).await;
        life.until("its TAP is gone", |_, host| taps(host) == 0)
            .await;
        life.set_goal(once, Goal::Absent).await;
        life.until("it is gone", |rows, _| rows.is_empty()).await;
    });
}

#[test]
fn auto_bootstrap_off() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.policy.auto.bootstrap = false;
    let web = world.live(async |life| {
        let web = life.create(always("web"), Goal::Running).await;
        life.settled("it runs").await;
        web
    });
    world.host.reboot();
    world.live(async |life| {
        tokio::time::sleep(HOUR).await;
        assert_eq!(life.rooms.change(|host| host.vmms(web).count()), 0);
        let plan = life.engine.dry_run().await.unwrap();
        assert!(plan.held.iter().any(|held| held.by == "AUTO_BOOTSTRAP"));
        life.set_goal(web, Goal::Running).await;
        life.settled("the user starts it").await;
        // From then on it is looked after as ever.
        crash(life, web).await;
        life.settled("its policy restarts it").await;
    });
}

/// Set in the process that has a small `/dev/shm` of its own.
const SMALL: &str = "HEARTH_TEST_SMALL_SHM";

#[test]
fn on_a_small_file_system() {
    if std::env::var_os(SMALL).is_none() || !root() {
        return;
    }
    let mut world = World::new();
    let data = world.data();
    assert!(data.starts_with("/dev/shm"), "{data}");
    world.live(async |life| {
        let web = life.create(always("web"), Goal::Running).await;
        life.settled("it runs").await;
        let ballast = data.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        // Until the write-ahead log has to grow.
        while life.engine.database_writable() {
            let event = hearth_types::event::NewEvent::info("test.ballast", "x".repeat(2000));
            life.engine.tell(event).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let view = life.engine.modes.view();
        assert_eq!((view.mode, view.by), (Mode::Readonly, ModeBy::Rule));
        assert_eq!(view.rules[0].rule, ModeRule::DatabaseUnwritable);
        // A word is held in memory, and outweighs nothing.
        let normal = SetMode {
            mode: Mode::Maintenance,
            reason: None,
        };
        let view = life.engine.set_mode(normal).await;
        assert_eq!(view.mode, Mode::Readonly);
        assert!(!view.hand.unwrap().stored);
        life.rooms.change(|host| host.attempts.clear());
        tokio::time::sleep(HOUR).await;
        life.rooms
            .change(|host| assert!(host.attempts.is_empty(), "{:?}", host.attempts));
        std::fs::remove_file(&ballast).unwrap();
        drop(file);
        life.until("it can be written again", |_, _| {
            life.engine.modes.mode() == Mode::Maintenance
        })
        .await;
        // What was said meanwhile is stored now.
        life.until("the word is stored", |_, _| {
            life.engine.modes.view().hand.unwrap().stored
        })
        .await;
        set(life, Mode::Normal).await;
        life.set_goal(web, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn a_database_that_cannot_be_written_is_readonly_until_it_can() {
    let script = "mount -t tmpfs -o size=1m none /dev/shm || exit 99; exec \"$1\" --exact \
                  sim::mode::on_a_small_file_system --nocapture";
    // A mount namespace of its own: nothing of it stays.
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg("sh")
        .arg(std::env::current_exe().unwrap())
        .env(SMALL, "1")
        .output();
    match output {
        Ok(output) if output.status.code() != Some(99) && output.status.code() != Some(1) => {
            let said = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}\n{errors}");
            assert!(said.contains("1 passed"), "{said}");
        }
        _ => println!("SKIP: a mount namespace cannot be made here (not root?)"),
    }
}
