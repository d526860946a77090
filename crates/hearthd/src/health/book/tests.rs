use hearth_types::spec::HealthSpec;
use hearth_types::spec::health::{CheckKind, CheckSpec};

use super::*;

const OLD: Duration = Duration::from_secs(3600);

fn checks(restart: bool) -> Vec<Check> {
    let health = HealthSpec {
        on_failure: restart.then_some(OnFailure::Restart),
        without: vec![CheckKind::Console, CheckKind::VmmApi],
        ..HealthSpec::default()
    };
    health.checks(None)
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn book(restart: bool) -> Book {
    let mut book = Book::default();
    book.set(&checks(restart), now());
    book
}

fn say(book: &mut Book, index: usize, outcome: Outcome) -> Change {
    book.result(index, outcome, Duration::from_millis(3), OLD, now())
}

fn fail(book: &mut Book, index: usize) -> Change {
    say(book, index, Outcome::fail("nobody\nanswers"))
}

fn pass(book: &mut Book, index: usize) -> Change {
    say(book, index, Outcome::pass("fine"))
}

#[test]
fn the_world_is_told_once_and_once_again() {
    let mut book = book(false);
    let mut told = Vec::new();
    for index in [0, 1] {
        told.extend(pass(&mut book, index).told);
    }
    assert_eq!(told, []);
    for _ in 0..5 {
        told.extend(fail(&mut book, 1).told);
    }
    assert_eq!(told, [Health::Unhealthy]);
    assert_eq!(
        book.reason().as_deref(),
        Some("check agent: nobody answers")
    );
    for _ in 0..5 {
        told.extend(pass(&mut book, 1).told);
    }
    assert_eq!(told, [Health::Unhealthy, Health::Healthy]);
    assert_eq!(book.reason(), None);
}

#[test]
fn only_who_is_asked_to_calls_for_a_restart() {
    let mut reports = book(false);
    let mut restarts = book(true);
    for _ in 0..2 {
        assert!(!fail(&mut restarts, 1).calls_for_restart);
    }
    for _ in 0..3 {
        fail(&mut reports, 1);
    }
    assert!(fail(&mut restarts, 1).calls_for_restart);
    assert!(
        !fail(&mut restarts, 1).calls_for_restart,
        "it is called once"
    );
    assert_eq!(reports.calls_for_restart(), None);
    let (_, reason) = restarts.calls_for_restart().unwrap();
    assert_eq!(reason, "check agent: nobody answers");
    // Who cannot be asked any more is not ill.
    for _ in 0..3 {
        say(&mut restarts, 1, Outcome::unknown("no descriptors"));
    }
    assert_eq!(restarts.calls_for_restart(), None);
    assert_eq!(restarts.view().checks[1].state, Health::Unknown);
}

#[test]
fn the_last_ten_results_are_kept_newest_first() {
    let mut book = book(false);
    for number in 0..20 {
        say(&mut book, 0, Outcome::pass(number.to_string()));
    }
    say(&mut book, 0, Outcome::fail("x".repeat(10_000)));
    let view = book.view();
    let history = &view.checks[0].history;
    assert_eq!(history.len(), HISTORY);
    assert_eq!(history[0].message.len(), MESSAGE_MAX);
    assert_eq!(history[1].message, "19");
    assert_eq!(history[1].millis, 3);
}

#[test]
fn a_check_that_stays_keeps_what_is_known_of_it() {
    let mut book = book(false);
    pass(&mut book, 0);
    pass(&mut book, 1);
    assert_eq!(book.health(), Health::Healthy);
    let mut more = checks(false);
    let tcp = HealthSpec {
        checks: vec![CheckSpec {
            port: Some(1),
            ..CheckSpec::new(CheckKind::Tcp)
        }],
        ..HealthSpec::default()
    };
    more.push(tcp.checks(None).pop().unwrap());
    assert!(book.set(&more, now()));
    let states: Vec<_> = book.view().checks.iter().map(|c| c.state).collect();
    assert_eq!(states, [Health::Healthy, Health::Healthy, Health::Starting]);
    assert!(book.set(&[], now()));
    assert_eq!(book.health(), Health::None);
}
