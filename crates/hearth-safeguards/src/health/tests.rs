use super::*;
use crate::fake::FakeSigns;
use crate::signs::HostSigns;

const LONG: Duration = Duration::from_secs(60);

fn health(signs: impl Signs, budget: Duration) -> Health {
    let limits = Thresholds {
        budget,
        ..Thresholds::default()
    };
    let resolver: Resolver = Arc::new(|origin| match origin {
        Origin::Loop(_) => Whose::Pool("the pool's data".to_owned()),
        Origin::Process(7) => Whose::Volume("web".to_owned()),
        _ => Whose::Foreign,
    });
    Health::new(Arc::new(signs), limits, resolver)
}

#[tokio::test]
async fn a_look_that_does_not_come_back_is_unknown_and_holds_up_nobody() {
    let signs = FakeSigns::default();
    let health = health(signs.clone(), Duration::from_millis(50));
    signs.set_hangs(true);
    for _ in 0..2 {
        let report = health.look(Purpose::Change, None).await;
        let first = &report.findings[0];
        assert_eq!(
            (first.check, first.weight),
            (Check::DState, Weight::Settles)
        );
        assert!(first.reading.contains("not read in time"), "{first}");
    }
    signs.set_hangs(false);
    let give_up = Instant::now() + LONG;
    while health.look(Purpose::Change, None).await.weight() > Some(Weight::Warns) {
        assert!(Instant::now() < give_up);
    }
}

#[tokio::test]
async fn threads_that_cannot_be_listed_are_not_none() {
    let signs = FakeSigns::default();
    let health = health(signs.clone(), LONG);
    signs.hide_threads();
    signs.hide_log();
    let report = health.look(Purpose::Change, None).await;
    assert_eq!(report.weight(), Some(Weight::Settles));
    let of = |check| {
        report
            .readings
            .iter()
            .find(|reading| reading.check == check)
    };
    assert!(matches!(
        of(Check::DState).unwrap().said,
        Survey::Unknown(_)
    ));
    assert!(matches!(
        of(Check::KernelLog).unwrap().said,
        Survey::Unknown(_)
    ));
    assert!(matches!(of(Check::Memory).unwrap().said, Survey::Known(_)));
}

#[tokio::test]
async fn the_log_is_read_on_and_what_it_said_is_remembered_until_it_is_old() {
    let signs = FakeSigns::default();
    let health = health(signs.clone(), LONG);
    signs.say(3, "I/O error, dev loop4, sector 8");
    signs.say(3, "I/O error, dev sdz, sector 8");
    for _ in 0..2 {
        let report = health.look(Purpose::Change, None).await;
        assert_eq!(report.weight(), Some(Weight::Refuses), "{report:?}");
        assert_eq!(report.findings.len(), 2);
        assert!(
            report.findings[0]
                .reading
                .contains("on loop4 (the pool's data)")
        );
    }
    signs.pass(Duration::from_secs(601));
    let report = health.look(Purpose::Change, None).await;
    assert_eq!(report.weight(), Some(Weight::Warns), "{report:?}");
}

#[tokio::test]
async fn waiting_for_disks_is_counted_between_two_looks() {
    let signs = FakeSigns::default();
    let health = health(signs.clone(), LONG);
    assert_eq!(health.look(Purpose::Change, None).await.weight(), None);
    signs.spend(100, 51);
    let report = health.look(Purpose::Change, None).await;
    assert_eq!(report.weight(), Some(Weight::Settles));
    assert!(report.findings[0].reading.starts_with("51 %"), "{report:?}");
    signs.spend(100, 10);
    assert_eq!(health.look(Purpose::Change, None).await.weight(), None);
    // An hour's average says nothing of now.
    signs.pass(LONG * 60);
    signs.spend(100, 100);
    assert_eq!(health.look(Purpose::Change, None).await.weight(), None);
}

#[tokio::test]
async fn this_host_can_be_looked_at() {
    let health = health(HostSigns::default(), LONG);
    let report = health.look(Purpose::Change, None).await;
    let memory = |report: &Report| {
        let mut readings = report.readings.iter();
        readings.any(|reading| reading.check == Check::Memory && reading.said.known().is_some())
    };
    assert!(memory(&report), "{report:?}");
    let threads = report
        .readings
        .iter()
        .find(|reading| reading.check == Check::DState);
    assert!(threads.unwrap().said.known().is_some(), "{report:?}");
    println!("{report:#?}");
}
