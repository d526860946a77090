use hearth_types::survey::Survey;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn seen() -> Seen {
    Seen {
        held: Some(Survey::Known(Vec::new())),
        log: Some(Survey::Known(LogSight::default())),
        memory: Some(Survey::Known(Memory {
            total: 1000,
            available: 50,
        })),
        io: Some(Io {
            wait: Survey::Known(Some(50)),
            pressure: Survey::Known(90),
        }),
    }
}

fn weight(seen: &Seen, purpose: Purpose, pool: Option<&PoolSign>) -> Option<(Check, Weight)> {
    let report = judge(seen, &Thresholds::default(), purpose, pool);
    let first = report.findings.first();
    first.map(|finding| (finding.check, finding.weight))
}

fn entry(kind: Kind, whose: Whose, age: Duration) -> (Entry, Whose, Duration) {
    let entry = Entry {
        kind,
        origin: Origin::Dm(3),
        at: Duration::ZERO,
        text: "words".to_owned(),
    };
    (entry, whose, age)
}

#[test]
fn a_host_at_its_thresholds_is_well() {
    assert_eq!(
        weight(&seen(), Purpose::Change, Some(&PoolSign::Good)),
        None
    );
}

#[test]
fn each_reading_beyond_its_threshold_is_told_by_its_check() {
    let with = |change: fn(&mut Seen)| {
        let mut seen = seen();
        change(&mut seen);
        (
            weight(&seen, Purpose::Change, None),
            weight(&seen, Purpose::Relief, None),
        )
    };
    let memory = Memory {
        total: 1000,
        available: 49,
    };
    let mut low = seen();
    low.memory = Some(Survey::Known(memory));
    let refused = weight(&low, Purpose::Change, None);
    assert_eq!(refused, Some((Check::Memory, Weight::Refuses)));
    let busy = with(|seen| {
        seen.io = Some(Io {
            wait: Survey::Known(Some(51)),
            pressure: Survey::Known(0),
        });
    });
    let io = |weight| Some((Check::IoWait, weight));
    assert_eq!(busy, (io(Weight::Settles), io(Weight::Warns)));
    let pressed = with(|seen| {
        seen.io = Some(Io {
            wait: Survey::Known(None),
            pressure: Survey::Known(91),
        });
    });
    assert_eq!(pressed.0, io(Weight::Settles));
    let unseen = with(|seen| seen.held = None);
    let held = |weight| Some((Check::DState, weight));
    assert_eq!(unseen, (held(Weight::Settles), held(Weight::Warns)));
    let unread = with(|seen| {
        seen.log = Some(Survey::Unknown("no".to_owned()));
        seen.memory = None;
        seen.io = None;
    });
    assert_eq!(unread.0, Some((Check::KernelLog, Weight::Warns)));
}

#[test]
fn a_pool_that_cannot_be_worked_with_refuses_changes() {
    let bad = PoolSign::Bad {
        state: "read_only".to_owned(),
        why: "its metadata is full".to_owned(),
    };
    let unknown = PoolSign::Unknown("no answer".to_owned());
    for pool in [bad, unknown] {
        let of = |purpose| weight(&seen(), purpose, Some(&pool));
        let found = |weight| Some((Check::Pool, weight));
        assert_eq!(of(Purpose::Change), found(Weight::Refuses));
        assert_eq!(of(Purpose::Relief), found(Weight::Warns));
    }
}

#[test]
fn old_errors_and_errors_of_others_do_not_block() {
    let pool = || Whose::Pool("the pool".to_owned());
    let volume = || Whose::Volume("web".to_owned());
    let (new, old) = (MINUTE, MINUTE * 11);
    for (found, expected) in [
        (entry(Kind::Bug, Whose::Unknown, new), Some(Weight::Refuses)),
        (entry(Kind::Bug, Whose::Unknown, old), Some(Weight::Warns)),
        (
            entry(Kind::HostOom, Whose::Unknown, new),
            Some(Weight::Refuses),
        ),
        (entry(Kind::CgroupOom, volume(), new), None),
        (
            entry(Kind::HungTask, Whose::Unknown, new),
            Some(Weight::Warns),
        ),
        (
            entry(Kind::DeviceMapper, pool(), new),
            Some(Weight::Refuses),
        ),
        (
            entry(Kind::DeviceMapper, Whose::Unknown, new),
            Some(Weight::Refuses),
        ),
        (
            entry(Kind::DeviceMapper, Whose::Unknown, old),
            Some(Weight::Warns),
        ),
        (
            entry(Kind::DeviceMapper, Whose::Foreign, new),
            Some(Weight::Warns),
        ),
        (entry(Kind::PoolSpace, pool(), new), Some(Weight::Warns)),
        (entry(Kind::PoolSpace, pool(), old), None),
        (entry(Kind::Io, pool(), new), Some(Weight::Refuses)),
        (entry(Kind::Io, volume(), new), Some(Weight::Warns)),
        (entry(Kind::Io, Whose::Unknown, new), Some(Weight::Warns)),
    ] {
        let mut seen = seen();
        let words = format!("{found:?}");
        seen.log = Some(Survey::Known(LogSight {
            entries: vec![found],
            ..LogSight::default()
        }));
        let got = weight(&seen, Purpose::Change, None).map(|(_, weight)| weight);
        assert_eq!(got, expected, "{words}");
    }
}

#[test]
fn a_refusal_has_the_reading_the_threshold_and_advice() {
    let mut seen = seen();
    let whose = Whose::Pool("the pool's data".to_owned());
    seen.log = Some(Survey::Known(LogSight {
        entries: vec![entry(Kind::Io, whose, MINUTE)],
        ..LogSight::default()
    }));
    let report = judge(&seen, &Thresholds::default(), Purpose::Change, None);
    let finding = &report.findings[0];
    assert_eq!(
        finding.to_string(),
        "kernel_log: I/O error 60 s ago on dm-3 (the pool's data): words (threshold: none within 600 s)"
    );
    assert!(!finding.hint.is_empty());
}
