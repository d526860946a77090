use hearth_types::pool::{PoolSpace, PoolUsage};
use hearth_types::units::{GIB, MIB};

use super::*;

fn view(state: PoolState) -> PoolView {
    serde_json::from_value(serde_json::json!({
        "state": state, "name": "pool", "uuid": "POOL", "folder": "/pool",
        "reason": "for this reason", "hint": "do that"
    }))
    .unwrap()
}

fn roomy(low: bool, most: u64) -> PoolView {
    PoolView {
        data: Some(PoolUsage {
            used: Some(GIB),
            size: 2 * GIB,
        }),
        metadata: Some(PoolUsage {
            used: Some(13 * MIB),
            size: 16 * MIB,
        }),
        space: Some(PoolSpace {
            provisioned: 0,
            most,
            bound: "POOL_MAX is reached".to_owned(),
            overcommit_percent: 0,
            overcommit_limit: 10,
            writable: GIB,
            low,
            metadata_low: low,
        }),
        ..view(PoolState::Up)
    }
}

fn codes(events: &[NewEvent]) -> Vec<&str> {
    events.iter().map(|event| event.code.as_str()).collect()
}

#[test]
fn each_change_is_told_once() {
    let mut told = Told::default();
    assert!(told.look(&roomy(false, 4 * GIB)).is_empty());
    for (state, code) in [
        (PoolState::Full, "pool.full"),
        (PoolState::ReadOnly, "pool.read_only"),
        (PoolState::Failed, "pool.gave_up"),
        (PoolState::Up, "pool.well"),
    ] {
        let events = told.look(&view(state));
        assert_eq!(codes(&events), [code]);
        assert!(state == PoolState::Up || events[0].message.contains("do that"));
        assert!(told.look(&view(state)).is_empty(), "told twice");
    }
}

#[test]
fn a_restarted_daemon_says_what_is_wrong_and_nothing_else() {
    assert!(Told::default().look(&view(PoolState::Up)).is_empty());
    assert!(Told::default().look(&view(PoolState::Absent)).is_empty());
    let full = Told::default().look(&view(PoolState::Full));
    assert_eq!(codes(&full), ["pool.full"]);
}

#[test]
fn room_is_told_when_it_becomes_little_and_again_the_next_time() {
    let mut told = Told::default();
    let low = ["pool.low", "pool.metadata_low"];
    let events = told.look(&roomy(true, 2 * GIB));
    assert_eq!(codes(&events), low);
    assert!(events[0].message.contains("POOL_MAX"), "{events:?}");
    assert_eq!(events[0].severity, Severity::Warning);
    assert!(told.look(&roomy(true, 2 * GIB)).is_empty());
    // What cannot be told for a moment is not well in between.
    assert!(told.look(&view(PoolState::Up)).is_empty());
    assert!(told.look(&roomy(true, 2 * GIB)).is_empty());
    assert!(told.look(&roomy(false, 2 * GIB)).is_empty());
    let events = told.look(&roomy(true, 4 * GIB));
    assert_eq!(codes(&events), low);
    assert!(events[0].message.contains("grows by itself"));
}

#[test]
fn a_look_that_fails_is_no_change() {
    let mut told = Told::default();
    assert_eq!(codes(&told.look(&view(PoolState::Full))), ["pool.full"]);
    assert!(told.look(&view(PoolState::Unknown)).is_empty());
    assert!(told.look(&view(PoolState::Full)).is_empty());
}

#[test]
fn metadata_that_must_be_checked_is_told_by_name() {
    let mut told = Told::default();
    let events = told.look(&PoolView {
        needs_check: true,
        ..view(PoolState::ReadOnly)
    });
    assert_eq!(codes(&events), ["pool.read_only", "pool.needs_check"]);
}
