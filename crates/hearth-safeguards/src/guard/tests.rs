use std::sync::mpsc;

use hearth_types::pool::PoolOperationState;

use super::*;
use crate::check::Check;
use crate::fake::FakeSigns;
use crate::log::Whose;
use crate::thresholds::Thresholds;

const LONG: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(50);

fn guard(signs: &FakeSigns) -> OperationGuard {
    let limits = Thresholds {
        budget: LONG,
        held_for: Duration::from_millis(500),
        ..Thresholds::default()
    };
    let health = Health::new(
        Arc::new(signs.clone()),
        limits,
        Arc::new(|_| Whose::Unknown),
    );
    let settings = Settings {
        settle: LOOK_AGAIN * 5,
        ..Settings::default()
    };
    OperationGuard::new(settings, Some(health))
}

fn change(name: &'static str, deadline: Duration) -> Operation {
    Operation {
        name,
        purpose: Purpose::Change,
        deadline,
        pool: None,
    }
}

fn nothing() -> Result<u8, ()> {
    Ok(7)
}

fn text(guard: &OperationGuard) -> String {
    let mut registry = Registry::default();
    guard.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test]
async fn a_host_that_is_well_lets_it_through_and_it_is_counted() {
    let guard = guard(&FakeSigns::default());
    let done = guard.run(change("a load", LONG), nothing).await.unwrap();
    assert_eq!(done, Ok(7));
    let failed = guard
        .run(change("a load", LONG), || Err::<(), _>("no"))
        .await;
    assert_eq!(failed.unwrap(), Err("no"));
    assert!(guard.queue().is_empty());
    let text = text(&guard);
    for line in [
        "dm_operations_total{outcome=\"done\"} 1",
        "dm_operations_total{outcome=\"failed\"} 1",
        "dm_operation_duration_seconds_count 2",
        "dm_refusals_total{check=\"memory\"} 0",
        "dm_queue{state=\"stuck\"} 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_refusal_says_which_check_what_was_read_and_what_to_do_and_begins_nothing() {
    let signs = FakeSigns::default();
    let guard = guard(&signs);
    signs.set_memory(20);
    let refused = guard
        .run(change("a load", LONG), || -> Result<(), ()> {
            panic!("it was begun")
        })
        .await
        .unwrap_err();
    let said = refused.to_string();
    assert_eq!(
        said,
        "a load is refused: memory: 2.0 % available (threshold: 5 %)"
    );
    assert!(refused.hint().unwrap().contains("stop VMs"));
    let text = text(&guard);
    assert!(
        text.contains("dm_refusals_total{check=\"memory\"} 1"),
        "{text}"
    );
    assert!(text.contains("dm_operations_total{outcome=\"refused\"} 1"));
    // What mends goes on.
    let relief = Operation {
        purpose: Purpose::Relief,
        ..change("an extension", LONG)
    };
    assert_eq!(guard.run(relief, nothing).await.unwrap(), Ok(7));
}

#[tokio::test]
async fn a_thread_that_hangs_refuses_everything_and_one_that_moves_nothing() {
    let signs = FakeSigns::default();
    let guard = guard(&signs);
    signs.hold("kworker/u8:1-dm-thin", "dm_pool_commit_metadata");
    let report = guard.examine(Purpose::Relief, None).await;
    let finding = &report.findings[0];
    assert_eq!(
        (finding.check, finding.weight),
        (Check::DState, Weight::Refuses)
    );
    assert!(
        finding.reading.contains("dm_pool_commit_metadata"),
        "{finding}"
    );
    assert!(finding.reading.contains("not moved for 0."), "{finding}");
    assert!(text(&guard).contains("dm_hangs 1"));
    signs.set_restless(true);
    let report = guard.examine(Purpose::Change, None).await;
    assert!(report.weight() <= Some(Weight::Warns), "{report:?}");
    assert!(text(&guard).contains("dm_hangs 0"));
}

#[tokio::test]
async fn what_settles_is_waited_for_and_what_does_not_refuses() {
    let signs = FakeSigns::default();
    let guard = guard(&signs);
    signs.set_pressure(Some(99));
    let report = guard.examine(Purpose::Change, None).await;
    assert_eq!(report.weight(), Some(Weight::Refuses), "{report:?}");
    assert_eq!(report.findings[0].check, Check::IoWait);
    assert!(signs.looks() > 3, "it was looked again: {}", signs.looks());
    let looks = signs.looks();
    let later = signs.clone();
    tokio::spawn(async move {
        while later.looks() < looks + 2 {
            tokio::task::yield_now().await;
        }
        later.set_pressure(Some(1));
    });
    let report = guard.examine(Purpose::Change, None).await;
    assert_eq!(report.weight(), None, "{report:?}");
}

#[tokio::test]
async fn what_hangs_is_given_up_shown_and_holds_up_those_behind_it_at_once() {
    let guard = OperationGuard::default();
    let (free, held) = mpsc::channel::<()>();
    let hung = guard
        .run(change("a load", MOMENT), move || -> Result<bool, ()> {
            Ok(held.recv().is_ok())
        })
        .await
        .unwrap_err();
    assert!(matches!(hung, GuardError::Stuck { what: "a load", .. }));
    let queue = guard.queue();
    assert_eq!(queue.len(), 1);
    assert_eq!(queue[0].state, PoolOperationState::Stuck);
    // Nobody waits a minute behind what is known to be stuck.
    let behind = guard
        .run(change("a look", LONG), nothing)
        .await
        .unwrap_err();
    assert!(
        behind
            .to_string()
            .contains("a load has not come back since"),
        "{behind}"
    );
    assert!(matches!(behind, GuardError::Behind { .. }));
    free.send(()).unwrap();
    let give_up = Instant::now() + LONG;
    while !guard.queue().is_empty() {
        assert!(Instant::now() < give_up);
        tokio::task::yield_now().await;
    }
    assert_eq!(
        guard.run(change("a look", LONG), nothing).await.unwrap(),
        Ok(7)
    );
    let text = text(&guard);
    assert!(
        text.contains("dm_operations_total{outcome=\"timed_out\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("dm_operations_total{outcome=\"not_in_turn\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn one_after_the_other_and_who_waits_is_seen() {
    let guard = OperationGuard::default();
    let (free, held) = mpsc::channel::<()>();
    let (begun, begins) = oneshot::channel();
    let first = tokio::spawn({
        let guard = guard.clone();
        async move {
            let work = move || -> Result<(), ()> {
                begun.send(()).ok();
                held.recv().ok();
                Ok(())
            };
            guard.run(change("the first", LONG), work).await
        }
    });
    begins.await.unwrap();
    let late = guard.run(change("the second", MOMENT), nothing).await;
    let late = late.unwrap_err();
    assert!(
        late.to_string()
            .contains("the first has been under way since"),
        "{late}"
    );
    let third = tokio::spawn({
        let guard = guard.clone();
        async move { guard.run(change("the third", LONG), nothing).await }
    });
    let give_up = Instant::now() + LONG;
    while guard.queue().len() < 2 {
        assert!(Instant::now() < give_up);
        tokio::task::yield_now().await;
    }
    let states: Vec<_> = guard.queue().iter().map(|entry| entry.state).collect();
    assert_eq!(
        states,
        [PoolOperationState::Running, PoolOperationState::Waiting]
    );
    free.send(()).unwrap();
    first.await.unwrap().unwrap().unwrap();
    assert_eq!(third.await.unwrap().unwrap(), Ok(7));
}

#[tokio::test]
async fn work_that_panics_frees_its_turn() {
    let guard = OperationGuard::default();
    let broken = guard
        .run(change("a load", LONG), || -> Result<(), ()> {
            panic!("as a test wants it")
        })
        .await;
    assert!(matches!(broken, Err(GuardError::Broken { .. })));
    assert_eq!(
        guard.run(change("a load", LONG), nothing).await.unwrap(),
        Ok(7)
    );
}

#[tokio::test]
async fn several_at_once_where_that_is_asked_for() {
    let two = Settings {
        max_concurrent: 2,
        ..Settings::default()
    };
    let guard = OperationGuard::new(two, None);
    let (free, held) = mpsc::channel::<()>();
    let hung = guard
        .run(change("a load", MOMENT), move || -> Result<bool, ()> {
            Ok(held.recv().is_ok())
        })
        .await;
    assert!(matches!(hung, Err(GuardError::Stuck { .. })));
    // One place is left.
    assert_eq!(
        guard.run(change("a look", LONG), nothing).await.unwrap(),
        Ok(7)
    );
    free.send(()).unwrap();
}
