use super::*;
use hearth_types::spec::HealthSpec;
use proptest::prelude::*;

const OLD: Duration = Duration::from_secs(3600);
const YOUNG: Duration = Duration::from_secs(1);

fn check() -> Check {
    HealthSpec::default().checks(None).remove(0)
}

fn machine() -> Machine {
    Machine::new(&check())
}

fn after(verdicts: &[Verdict], age: Duration) -> Machine {
    let mut machine = machine();
    for verdict in verdicts {
        machine.record(*verdict, age);
    }
    machine
}

use Verdict::{Fail, Pass, Unknown};

#[test]
fn the_way_down_and_up_again() {
    let mut machine = machine();
    let mut seen = Vec::new();
    for verdict in [Pass, Fail, Pass, Fail, Fail, Fail, Fail, Pass, Pass] {
        machine.record(verdict, OLD);
        seen.push(machine.state());
    }
    use Health::{Degraded, Healthy, Unhealthy};
    assert_eq!(
        seen,
        [
            Healthy, Degraded, Healthy, Degraded, Degraded, Unhealthy, Unhealthy, Unhealthy,
            Healthy
        ]
    );
}

#[test]
fn a_guest_that_comes_up_may_fail() {
    let mut machine = machine();
    for _ in 0..100 {
        assert!(!machine.record(Fail, YOUNG));
        assert!(!machine.record(Unknown, YOUNG));
    }
    assert_eq!(machine.state(), Health::Starting);
    // Its time is over.
    for _ in 0..2 {
        assert!(machine.record(Fail, OLD));
        assert_eq!(machine.state(), Health::Starting);
    }
    machine.record(Fail, OLD);
    assert_eq!(machine.state(), Health::Unhealthy);
}

#[test]
fn its_first_success_ends_the_start_period() {
    let machine = after(&[Fail, Pass, Fail, Fail, Fail], YOUNG);
    assert_eq!(machine.state(), Health::Unhealthy);
}

#[test]
fn what_cannot_be_made_is_unknown_in_the_end_and_no_failure() {
    let mut machine = after(&[Pass, Unknown, Unknown], OLD);
    assert_eq!(machine.state(), Health::Healthy);
    machine.record(Unknown, OLD);
    assert_eq!(machine.state(), Health::Unknown);
    assert_eq!(machine.failures(), 0);
    machine.record(Fail, OLD);
    assert_eq!(machine.state(), Health::Degraded);
}

#[test]
fn a_pause_breaks_the_row() {
    let mut machine = after(&[Pass, Fail, Fail], OLD);
    machine.interrupted();
    assert_eq!(machine.state(), Health::Healthy);
    machine.record(Fail, OLD);
    assert_eq!(machine.state(), Health::Degraded);
    let mut ill = after(&[Fail, Fail, Fail, Pass], OLD);
    ill.interrupted();
    ill.record(Pass, OLD);
    assert_eq!(ill.state(), Health::Unhealthy);
}

#[test]
fn all_checks_in_one_word() {
    use Health::*;
    for (states, word) in [
        (&[][..], None),
        (&[Healthy, Healthy], Healthy),
        (&[Healthy, Unknown], Unknown),
        (&[Degraded, Unknown], Degraded),
        (&[Degraded, Starting], Starting),
        (&[Unhealthy, Starting, Degraded], Unhealthy),
    ] {
        assert_eq!(worst(states.iter().copied()), word, "{states:?}");
    }
}

fn verdicts() -> impl Strategy<Value = Vec<Verdict>> {
    let verdict = prop_oneof![Just(Pass), Just(Fail), Just(Unknown)];
    proptest::collection::vec(verdict, 0..60)
}

proptest! {
    /// Unhealthy is said after as many failures as it takes, no success between them, and
    /// never for any other reason.
    #[test]
    fn unhealthy_takes_its_failures(verdicts in verdicts(), threshold in 1u32..5) {
        let mut check = check();
        check.failure_threshold = threshold;
        let mut machine = Machine::new(&check);
        let mut row = 0;
        for verdict in verdicts {
            let before = machine.state();
            machine.record(verdict, OLD);
            match verdict {
                Pass => row = 0,
                Fail => row += 1,
                Unknown => {}
            }
            if machine.state() == Health::Unhealthy && !matches!(before, Health::Unhealthy | Health::Unknown) {
                prop_assert!(row >= threshold);
            }
            if row >= threshold && verdict == Fail {
                prop_assert_eq!(machine.state(), Health::Unhealthy);
            }
        }
    }

    /// What says nothing changes nothing.
    #[test]
    fn unknown_only_hides(verdicts in verdicts()) {
        let known: Vec<_> = verdicts.iter().copied().filter(|v| *v != Unknown).collect();
        let mut with = after(&verdicts, OLD);
        let mut without = after(&known, OLD);
        with.record(Pass, OLD);
        without.record(Pass, OLD);
        prop_assert_eq!(with, without);
    }

    /// Enough successes heal whatever was.
    #[test]
    fn successes_heal(verdicts in verdicts()) {
        let mut machine = after(&verdicts, OLD);
        machine.record(Pass, OLD);
        machine.record(Pass, OLD);
        prop_assert_eq!(machine.state(), Health::Healthy);
    }

    /// A hang is known after one interval and a timeout for each failure that it takes.
    #[test]
    fn a_hang_is_known_in_time(verdicts in verdicts(), spread in 0.0..1.0f64, threshold in 1u32..6) {
        let mut check = check();
        check.failure_threshold = threshold;
        let mut machine = Machine::new(&check);
        for verdict in verdicts {
            machine.record(verdict, OLD);
        }
        // Two, in case it was ill.
        machine.record(Pass, OLD);
        machine.record(Pass, OLD);
        let mut took = machine.rest(&check, OLD, spread);
        loop {
            machine.record(Fail, OLD);
            if machine.state() == Health::Unhealthy {
                break;
            }
            // Each attempt takes as long as it may; the next begins no earlier than that.
            took += machine.rest(&check, OLD, spread).max(check.timeout);
        }
        took += check.timeout;
        prop_assert!(took <= check.interval + check.timeout * threshold, "{took:?}");
    }

    /// Whatever comes, the next attempt is neither at once nor later than the interval.
    #[test]
    fn rests_have_bounds(verdicts in verdicts(), spread in 0.0..1.0f64, age in 0u64..1000) {
        let check = check();
        let age = Duration::from_secs(age);
        let machine = after(&verdicts, age);
        let rest = machine.rest(&check, age, spread);
        prop_assert!(rest <= check.interval && rest >= BOOT_PAUSE.min(check.timeout), "{rest:?}");
    }
}
