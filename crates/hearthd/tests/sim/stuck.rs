//! A step, or a pass, that does not end: it is told, with its VM, and told again when it has ended.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hearth_host::waits::KernelWait;
use hearth_types::ids::EventSeq;
use hearth_types::status::Goal;
use hearth_types::survey::Survey;
use hearthd::failpoint::Hook;
use hearthd::stuck::{PASS_DEADLINE, deadline};
use tokio::sync::watch;

use super::openmetrics::Scrape;
use super::world::{Life, World, root, spec};

/// Lets nothing pass the beginning of this step while the value is true.
pub(super) fn hang_in(step: &'static str, hangs: &watch::Sender<bool>) -> Hook {
    let hangs = hangs.subscribe();
    Arc::new(move |side, reached| {
        let mut hangs = hangs.clone();
        if (side, reached) != ("before", step) {
            return std::future::ready(()).boxed();
        }
        async move { drop(hangs.wait_for(|hangs| !*hangs).await) }.boxed()
    })
}

fn hanging(step: &'static str, scenario: impl AsyncFnOnce(&Life, &watch::Sender<bool>)) {
    if !root() {
        return;
    }
    let hangs = watch::Sender::new(false);
    let hook = hang_in(step, &hangs);
    World::new()
        .live_with(hook, std::future::pending(), async |life| {
            scenario(life, &hangs).await;
        })
        .expect("nothing ends this daemon");
}

async fn gauge(life: &Life, name: &str) -> f64 {
    Scrape::read(&life.engine.scrape().await.unwrap()).value(name)
}

/// A thread of which the kernel shows only a part, as it may be.
pub(super) fn a_wait() -> KernelWait {
    KernelWait {
        pid: 7,
        tid: 8,
        name: "mke2fs".to_owned(),
        channel: Survey::Known("folio_wait_bit".to_owned()),
        syscall: Survey::Known("74".to_owned()),
        stack: Survey::Unknown("stack: not permitted".to_owned()),
    }
}

#[test]
fn a_step_that_hangs_is_told_with_its_vm_and_goes_on() {
    hanging("start_vmm", async |life, hangs| {
        hangs.send_replace(true);
        let web = life.create(spec("web"), Goal::Running).await;
        life.create(spec("other"), Goal::Stopped).await;
        tokio::time::sleep(deadline("start_vmm") / 2).await;
        assert_eq!(life.events("daemon.step_stuck").await, 0, "not over it yet");
        life.told("daemon.step_stuck", 1).await;
        let events = life.engine.parts.store.events(EventSeq(0), 1000).await;
        let mut events = events.unwrap().into_iter();
        let told = events.find(|event| event.code == "daemon.step_stuck");
        let told = told.unwrap();
        assert_eq!((told.vm, told.name.as_deref()), (Some(web), Some("web")));
        let start = "[reconcile] step start_vmm (VMM) of web is stuck since ";
        assert!(told.message.starts_with(start), "{}", told.message);
        let kernel = told.details["kernel"].to_string();
        for part in ["thread 8 (mke2fs)", "folio_wait_bit", "stack unknown"] {
            assert!(kernel.contains(part), "{kernel}");
        }
        assert_eq!(gauge(life, "hearth_steps_stuck").await, 1.0);
        let counter = r#"hearth_step_stuck_total{kind="start_vmm"}"#;
        assert_eq!(gauge(life, counter).await, 1.0);
        let plan = life.engine.dry_run().await.unwrap();
        let said = plan.notes.iter().any(|note| note.contains("web is stuck"));
        assert!(said, "{plan:#?}");
        let explained = life.engine.dry_run_of(web).await.unwrap().unwrap();
        assert!(explained.reasons.iter().any(|why| why.topic == "stuck"));
        assert!(!life.engine.under_way.stalled(), "the loop comes round");
        // Told once, however long it takes.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(life.events("daemon.step_stuck").await, 1);
        hangs.send_replace(false);
        life.settled("it runs").await;
        life.told("daemon.step_goes_on", 1).await;
        assert_eq!(gauge(life, "hearth_steps_stuck").await, 0.0);
    });
}

#[test]
fn a_pass_that_hangs_is_told_with_what_it_does() {
    hanging("ensure_bridge", async |life, hangs| {
        hangs.send_replace(true);
        life.create(spec("web"), Goal::Running).await;
        tokio::time::sleep(PASS_DEADLINE / 2).await;
        assert!(!life.engine.under_way.stalled());
        life.told("daemon.loop_stalled", 1).await;
        assert!(life.engine.under_way.stalled());
        let stuck = life.engine.under_way.stuck();
        let words = stuck[0].words();
        assert!(words.contains("the steps on what all VMs share"), "{words}");
        assert!(stuck.iter().any(|work| work.what == "ensure_bridge"));
        let age = gauge(life, "hearth_pass_running_seconds").await;
        assert!(age > PASS_DEADLINE.as_secs_f64(), "{age}");
        hangs.send_replace(false);
        life.settled("it runs").await;
        life.told("daemon.loop_goes_on", 1).await;
        assert!(life.engine.under_way.stuck().is_empty());
        assert_eq!(gauge(life, "hearth_pass_running_seconds").await, 0.0);
    });
}

#[test]
fn steps_that_end_in_time_are_nobodys_business() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        for n in 0..5 {
            life.create(spec(&format!("vm-{n}")), Goal::Running).await;
        }
        life.settled("all run").await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        for code in ["daemon.step_stuck", "daemon.loop_stalled"] {
            assert_eq!(life.events(code).await, 0, "{code}");
        }
    });
}
