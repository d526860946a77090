//! What hangs, fails again and again or panics costs itself alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::Goal;
use hearthd::failpoint::Hook;
use tokio::time::Instant;

use super::world::{Life, World, root, spec};

const HOUR: Duration = Duration::from_secs(3600);

fn looks(life: &Life) -> u32 {
    life.rooms
        .see(|host| host.looks.get("processes").copied().unwrap_or_default())
}

#[test]
fn a_survey_that_never_returns_is_given_up_and_not_begun_again() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let web = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let pass = life.engine.last_pass();
        let before = looks(life);
        life.rooms.change(|host| {
            host.hung.insert("processes");
            host.attempts.clear();
        });
        life.engine.look_at(web);
        tokio::time::sleep(HOUR).await;
        assert_eq!(looks(life), before + 1, "no second one beside it");
        assert!(life.engine.last_pass() > pass, "the loop comes round");
        let plan = life.engine.dry_run().await.unwrap();
        let said = |note: &String| note.contains("processes could not be surveyed");
        assert!(plan.notes.iter().any(said), "{plan:#?}");
        life.rooms.change(|host| {
            assert_eq!(host.vmms(web).count(), 1);
            assert!(host.attempts.is_empty(), "{:?}", host.attempts);
            host.hung.clear();
        });
        life.set_goal(web, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn a_step_that_fails_again_and_again_is_no_reason_to_look_at_everything() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let web = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        life.rooms
            .change(|host| host.faults.insert("remove_tap", u32::MAX));
        life.set_goal(web, Goal::Stopped).await;
        life.told("vm.step_failed", 1).await;
        let before = looks(life);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let after = looks(life) - before;
        // Its own pauses double, and everything is looked at regularly.
        assert!(after <= 12, "{after} looks in a minute");
        life.rooms.change(|host| host.faults.clear());
        life.settled("it is down").await;
    });
}

#[test]
fn exit_records_are_waited_for_side_by_side() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        for n in 0..10 {
            life.create(spec(&format!("vm-{n}")), Goal::Running).await;
        }
        life.settled("all run").await;
        let takes = Duration::from_secs(3);
        life.rooms.change(|host| host.record_takes = takes);
        let begun = Instant::now();
        life.engine.dry_run().await.unwrap();
        let took = begun.elapsed();
        assert!(took >= takes && took < takes * 2, "{took:?}");
    });
}

#[test]
fn a_step_that_panics_has_failed_and_is_tried_again() {
    if !root() {
        return;
    }
    let panicked = Arc::new(AtomicBool::new(false));
    let once = Arc::clone(&panicked);
    let hook: Hook = Arc::new(move |side, step| {
        let now = (side, step) == ("before", "start_vmm") && !once.swap(true, Ordering::SeqCst);
        assert!(!now, "a bug that the test put there");
        std::future::ready(()).boxed()
    });
    World::new()
        .live_with(hook, std::future::pending(), async |life| {
            let mut web = spec("web");
            web.restart = RestartPolicy::Always;
            life.create(web, Goal::Running).await;
            life.settled("it runs all the same").await;
            assert!(panicked.load(Ordering::SeqCst));
            life.told("vm.start_failed", 1).await;
        })
        .expect("nothing ends this daemon");
}
