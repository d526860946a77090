//! Words of the user that come while a plan that was made before them is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use hearth_types::mode::{Mode, SetMode};
use hearth_types::status::{Goal, Phase};
use hearthd::failpoint::Hook;
use tokio::sync::Notify;

use super::world::{World, root, spec};

/// Holds the next status that a plan stores until it is let go.
#[derive(Default)]
struct Gate {
    armed: AtomicBool,
    arrived: Notify,
    opened: Notify,
}

impl Gate {
    fn hook(self: &Arc<Self>) -> Hook {
        let gate = Arc::clone(self);
        Arc::new(move |side, step| {
            let gate = Arc::clone(&gate);
            async move {
                let here = (side, step) == ("before", "set_status");
                if here && gate.armed.swap(false, Ordering::Relaxed) {
                    gate.arrived.notify_one();
                    gate.opened.notified().await;
                }
            }
            .boxed()
        })
    }
}

#[test]
fn a_restart_that_comes_while_a_status_is_stored_is_carried_out() {
    if !root() {
        return;
    }
    let gate = Arc::new(Gate::default());
    let lived = World::new().live_with(gate.hook(), std::future::pending(), async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let first = life.row(vm).await.status.vmm.unwrap();
        gate.armed.store(true, Ordering::Relaxed);
        life.set_goal(vm, Goal::Paused).await;
        // Paused, and about to be written down as such.
        gate.arrived.notified().await;
        life.restart(vm).await;
        gate.opened.notify_one();
        life.until("another VMM runs", |rows, host| {
            let status = &rows[0].status;
            status.phase == Phase::Running
                && status.vmm.as_ref() != Some(&first)
                && host.vmms(vm).count() == 1
        })
        .await;
        life.settled("all is well").await;
    });
    assert!(lived.is_some());
}

#[test]
fn a_mode_that_cannot_be_read_is_taken_for_readonly_until_another_is_set() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.live(async |life| {
        life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let store = &life.engine.parts.store;
        let stored = store.set_setting("mode", Some(serde_json::json!("what?")));
        stored.await.unwrap();
    });
    world.live(async |life| {
        let mut passes = life.engine.passes();
        passes.wait_for(Option::is_some).await.unwrap();
        let view = life.engine.modes.view();
        assert_eq!(view.mode, Mode::Readonly);
        assert!(view.reason.unwrap().contains("cannot be read"));
        let set = SetMode {
            mode: Mode::Normal,
            reason: None,
        };
        assert_eq!(life.engine.set_mode(set).await.mode, Mode::Normal);
    });
    world.live(async |life| {
        life.settled("it runs on").await;
        assert_eq!(life.engine.modes.mode(), Mode::Normal);
    });
}
