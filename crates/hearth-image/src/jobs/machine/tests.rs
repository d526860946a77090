use proptest::prelude::*;

use super::*;

const WORKING: [JobState; 5] = [
    JobState::Resolve,
    JobState::Download,
    JobState::Verify,
    JobState::Unpack,
    JobState::Seal,
];

fn event() -> impl Strategy<Value = Event> {
    let state = prop::sample::select(JobState::ALL.to_vec());
    prop_oneof![
        4 => state.clone().prop_map(Event::Done),
        4 => (state, any::<bool>()).prop_map(|(at, temporary)| Event::Failed { at, temporary }),
        2 => Just(Event::TimedOut),
        4 => Just(Event::Paused),
        2 => Just(Event::Restarted),
        1 => Just(Event::Cancel),
        1 => Just(Event::Retry),
    ]
}

proptest! {
    /// Whatever happens in whatever order.
    #[test]
    fn laws(events in prop::collection::vec(event(), 0..200)) {
        let patience = Patience::default();
        let mut machine = Machine::default();
        for event in events {
            let before = machine.clone();
            let next = machine.on(event, &patience);
            let (was, is) = (before.state, machine.state);
            if was.is_end() {
                // An end is left by a retry only, and one that is ready never.
                prop_assert!(is == was || event == Event::Retry);
                prop_assert!(was != JobState::Ready || is == was);
            } else {
                prop_assert!(is >= was, "{was} to {is} on {event:?}");
                prop_assert_eq!(next == Next::End, is.is_end());
            }
            // No state is begun more often than it may be; later ones can be begun ahead.
            if event != Event::Retry && !was.is_end() {
                for state in WORKING {
                    let begun = machine.attempts.get(&state).copied().unwrap_or(0);
                    prop_assert!(
                        begun <= patience.attempts(state) + patience.attempts(JobState::Download),
                        "{state} begun {begun} times"
                    );
                }
            }
            prop_assert!(machine.restarts <= patience.restarts + 1);
            if let Next::Pause(pause) = next {
                prop_assert!(pause >= patience.first_pause && pause <= patience.longest_pause);
                prop_assert!(machine.pausing);
            }
            if let Event::Failed { temporary: false, at } = event
                && !was.is_end() && !before.pausing
            {
                prop_assert_eq!(is, JobState::Aborted, "{:?}", at);
            }
            if event == Event::Cancel && !was.is_end() {
                prop_assert_eq!(is, JobState::Cancelled);
            }
            // What is written down is read back as it was.
            let text = serde_json::to_string(&machine).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Machine>(&text).unwrap(), &machine);
        }
    }

    /// A job that only ever fails comes to an end.
    #[test]
    fn nothing_is_tried_forever(at in prop::sample::select(WORKING.to_vec()), reached in 0..5_usize) {
        let patience = Patience::default();
        let mut machine = Machine::default();
        for state in &WORKING[..reached] {
            machine.on(Event::Done(*state), &patience);
        }
        let mut tries = 0;
        while !machine.state.is_end() {
            let next = machine.on(Event::Failed { at, temporary: true }, &patience);
            if let Next::Pause(_) = next {
                prop_assert_eq!(machine.on(Event::Paused, &patience), Next::Work);
            }
            tries += 1;
            prop_assert!(tries <= 12);
        }
        prop_assert_eq!(machine.state, JobState::Aborted);
    }
}

#[test]
fn the_way_of_a_good_job() {
    let patience = Patience::default();
    let mut machine = Machine::default();
    for (state, next) in WORKING.iter().zip(&WORKING[1..]) {
        assert_eq!(machine.state(), *state);
        assert_eq!(machine.on(Event::Done(*state), &patience), Next::Same);
        assert_eq!(machine.state(), *next);
    }
    assert_eq!(
        machine.on(Event::Done(JobState::Seal), &patience),
        Next::End
    );
    assert_eq!(machine.state(), JobState::Ready);
    assert!(machine.attempts().values().all(|count| *count == 1));
    assert_eq!(machine.on(Event::Retry, &patience), Next::Same);
}

#[test]
fn an_image_that_is_here_is_ready_at_once() {
    let mut machine = Machine::default();
    let next = machine.on(Event::Done(JobState::Seal), &Patience::default());
    assert_eq!((next, machine.state()), (Next::End, JobState::Ready));
}

#[test]
fn pauses_double_and_a_retry_begins_where_it_ended() {
    let patience = Patience::default();
    let mut machine = Machine::default();
    machine.on(Event::Done(JobState::Resolve), &patience);
    let failed = Event::Failed {
        at: JobState::Download,
        temporary: true,
    };
    let mut pauses = Vec::new();
    while let Next::Pause(pause) = machine.on(failed, &patience) {
        pauses.push(pause.as_secs());
        machine.on(Event::Paused, &patience);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16]);
    assert_eq!(machine.state(), JobState::Aborted);
    assert_eq!(machine.on(Event::Retry, &patience), Next::Work);
    assert_eq!(machine.state(), JobState::Download);
    assert_eq!(machine.attempts()[&JobState::Download], 1);
}

#[test]
fn a_job_that_ends_the_daemon_is_given_up() {
    let patience = Patience::default();
    let mut machine = Machine::default();
    for _ in 0..patience.restarts {
        assert_eq!(machine.on(Event::Restarted, &patience), Next::Work);
    }
    assert_eq!(machine.on(Event::Restarted, &patience), Next::End);
    assert_eq!(machine.state(), JobState::Aborted);
}
