//! The service manager's watchdog is fed by passes that end, and by nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::observe::ProcessRole;
use hearth_types::status::Goal;
use hearthd::failpoint::Hook;
use hearthd::manager::{Manager, Send};
use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::sync::watch;

use super::world::{LIMIT, Life, World, root, spec};

/// What is asked of the daemon in these tests.
const WATCHDOG: Duration = Duration::from_secs(180);

/// What a service manager heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn manager(&self) -> Manager {
        let heard = Arc::clone(&self.0);
        let send: Send = Arc::new(move |states: &[NotifyState<'_>]| {
            heard.lock().extend(states.iter().map(ToString::to_string));
        });
        Manager::new(send, Some(WATCHDOG))
    }

    fn feeds(&self) -> usize {
        let heard = self.0.lock();
        heard.iter().filter(|line| *line == "WATCHDOG=1").count()
    }

    fn status(&self) -> Option<String> {
        let heard = self.0.lock();
        let of = |line: &String| line.strip_prefix("STATUS=").map(str::to_owned);
        heard.iter().rev().find_map(of)
    }

    /// Whether the watchdog is fed in each of so many stretches of its time, one after the other.
    async fn is_fed(&self, times: usize) -> bool {
        for _ in 0..times {
            let before = self.feeds();
            tokio::time::sleep(WATCHDOG).await;
            if self.feeds() == before {
                return false;
            }
        }
        true
    }
}

/// A hook that lets nothing pass the beginning of this step once `hangs` is true.
fn hang_in(step: &'static str, hangs: &Arc<AtomicBool>) -> Hook {
    let hangs = Arc::clone(hangs);
    Arc::new(move |side, reached| {
        if hangs.load(Ordering::SeqCst) && (side, reached) == ("before", step) {
            std::future::pending().boxed()
        } else {
            std::future::ready(()).boxed()
        }
    })
}

/// Runs a daemon with a watchdog; `scenario` may make it hang in `step`.
fn watched(step: &'static str, scenario: impl AsyncFnOnce(&Life, &Heard, &AtomicBool)) {
    if !root() {
        return;
    }
    let (hangs, heard) = (Arc::new(AtomicBool::new(false)), Heard::default());
    World::new()
        .live_with(
            hang_in(step, &hangs),
            std::future::pending(),
            async |life| {
                let (_stop, stopping) = watch::channel(false);
                let engine = Arc::clone(&life.engine);
                tokio::spawn(heard.manager().follow(engine, stopping));
                scenario(life, &heard, &hangs).await;
            },
        )
        .expect("nothing ends this daemon");
}

#[test]
fn an_idle_daemon_feeds_its_watchdog() {
    watched("ensure_bridge", async |life, heard, _| {
        assert!(heard.is_fed(20).await, "an hour without a change");
        life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        assert!(heard.is_fed(1).await);
        assert_eq!(heard.status().as_deref(), Some("1 of 1 VMs run"));
    });
}

#[test]
fn a_pass_that_hangs_starves_the_watchdog() {
    watched("ensure_bridge", async |life, heard, hangs| {
        assert!(heard.is_fed(1).await);
        hangs.store(true, Ordering::SeqCst);
        life.create(spec("web"), Goal::Running).await;
        // The last good passes may still be told of.
        tokio::time::sleep(WATCHDOG).await;
        assert!(!heard.is_fed(1).await, "a loop that stands still was fed");
        // Requests, events and the clock go on; none of them is a sign of life of the loop.
        life.engine.look_at_everything();
        life.engine.tell_changed();
        tokio::time::sleep(LIMIT).await;
        assert!(!heard.is_fed(1).await, "a loop that stands still was fed");
    });
}

#[test]
fn a_vm_that_hangs_does_not_starve_the_watchdog() {
    watched("start_vmm", async |life, heard, hangs| {
        hangs.store(true, Ordering::SeqCst);
        life.create(spec("web"), Goal::Running).await;
        assert!(heard.is_fed(20).await, "the loop comes round without it");
        assert_eq!(heard.status().as_deref(), Some("0 of 1 VMs run"));
    });
}

#[test]
fn orphans_that_do_not_die_hold_up_nothing() {
    watched("kill_orphan", async |life, heard, hangs| {
        life.settled("nothing is there").await;
        hangs.store(true, Ordering::SeqCst);
        life.rooms.change(|host| {
            for _ in 0..4 {
                let mark = OwnerMark::of_vm(host.installation, VmId::new());
                host.spawn(mark, ProcessRole::Vmm, false);
            }
        });
        let stuck = || {
            let stuck = life.engine.under_way.stuck().into_iter();
            stuck.filter(|work| work.what == "kill_orphan").count()
        };
        assert!(heard.is_fed(3).await, "each kill may take a minute");
        assert_eq!(stuck(), 4, "all of them are being killed, and once each");
        life.create(spec("web"), Goal::Running).await;
        life.settled("it runs meanwhile").await;
        assert!(heard.is_fed(3).await);
        assert_eq!(stuck(), 4);
    });
}
