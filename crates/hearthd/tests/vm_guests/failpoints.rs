//! The real daemon is killed before and after each of its effects, with real guests; the next one
//! finds everything in the middle of it, and the story ends as it does without a death.
//!
//! Every place is in a story, or it is said why it cannot be here: a new one that is not fails a
//! test. Each place costs a guest's life, so a fixed sample of them is taken unless
//! `HEARTH_FAILPOINTS=all` asks for all.

mod stories;

use std::collections::BTreeSet;

use hearthd::failpoint::places;

use crate::harness::Host;
use stories::Story;

/// A place: the side, and the step.
type Place = (&'static str, &'static str);

/// Stories with the steps that are taken in them.
const TOLD: [(Story, &[&str]); 8] = [
    (
        Story::Start,
        &[
            "ensure_bridge",
            "apply_rules",
            "ensure_names",
            "ensure_disks",
            "ensure_tap",
            "start_vmm",
            "launch",
        ],
    ),
    (Story::Stop, &["stop", "remove_tap"]),
    (Story::Again, &["stop", "start_vmm"]),
    (Story::Restart, &["start_vmm"]),
    (Story::Pause, &["pause", "resume"]),
    (Story::Adopt, &["adopt"]),
    (
        Story::Orphans,
        &["kill_orphan", "remove_orphan_tap", "remove_orphan_dir"],
    ),
    (
        Story::Remove,
        &[
            "stop",
            "remove_tap",
            "flush_conntrack",
            "remove_dir",
            "forget",
            "remove_rules",
            "remove_names",
            "remove_bridge",
        ],
    ),
];

/// Steps that are never taken on a host like this one. All of them have a death before and after
/// them on the simulated host (`sim/crash.rs`).
const ELSEWHERE: [(&str, &str); 23] = [
    ("set_goal", "is taken after a reboot of the host"),
    (
        "set_status",
        "begins its list, in one commit with the list's journal: whoever dies after it dies before the next step",
    ),
    ("snapshot_begun", SNAPSHOTS),
    ("snapshot_still", SNAPSHOTS),
    ("snapshot_disk", SNAPSHOTS),
    ("snapshot_disks_removed", SNAPSHOTS),
    ("restore_begun", SNAPSHOTS),
    ("restore_disk", SNAPSHOTS),
    ("restore_decided", SNAPSHOTS),
    ("restore_settled", SNAPSHOTS),
    ("clone_recorded", SNAPSHOTS),
    ("volume_begun", VOLUMES),
    ("volume_made", VOLUMES),
    ("volume_detached", VOLUMES),
    ("volume_grown", VOLUMES),
    ("volume_removal_begun", VOLUMES),
    ("volume_disks_removed", VOLUMES),
    ("move_begun", VOLUMES),
    ("move_copied", VOLUMES),
    ("move_decided", VOLUMES),
    ("draft_removed", VOLUMES),
    ("remove_orphan_unit", "is taken where systemd is the init"),
    ("ensure_limits", "is taken where systemd is the init"),
];

/// Where the deaths in the work on snapshots are.
const SNAPSHOTS: &str = "is in the story of sim/snapshots.rs";

/// Where the deaths in the work on volumes, and in moves of disks, are.
const VOLUMES: &str = "is in the story of sim/volumes.rs";

/// What is taken unless all are asked for: each kind of story, and the places where most is at
/// stake.
const SAMPLE: [(Story, &[Place]); 8] = [
    (
        Story::Start,
        &[
            ("before", "ensure_bridge"),
            ("after", "apply_rules"),
            ("before", "ensure_disks"),
            ("after", "ensure_disks"),
            ("after", "ensure_tap"),
            ("before", "start_vmm"),
            ("after", "launch"),
            ("after", "start_vmm"),
        ],
    ),
    (Story::Stop, &[("before", "stop"), ("after", "stop")]),
    (
        Story::Restart,
        &[("before", "start_vmm"), ("after", "start_vmm")],
    ),
    (Story::Again, &[("before", "start_vmm")]),
    (Story::Pause, &[("after", "pause"), ("before", "resume")]),
    (Story::Adopt, &[("before", "adopt"), ("after", "adopt")]),
    (Story::Orphans, &[("after", "kill_orphan")]),
    (
        Story::Remove,
        &[
            ("after", "stop"),
            ("before", "remove_tap"),
            ("before", "remove_dir"),
            ("after", "remove_dir"),
            ("before", "forget"),
            ("after", "forget"),
            ("before", "remove_rules"),
            ("after", "remove_bridge"),
        ],
    ),
];

/// All places of a story.
fn all(story: Story) -> Vec<Place> {
    let told = TOLD.iter().filter(|(of, _)| *of == story);
    let steps: BTreeSet<&str> = told.flat_map(|(_, steps)| steps.iter().copied()).collect();
    places().filter(|(_, step)| steps.contains(step)).collect()
}

fn sample(story: Story) -> Vec<Place> {
    let sampled = SAMPLE.iter().filter(|(of, _)| *of == story);
    sampled
        .flat_map(|(_, places)| places.iter().copied())
        .collect()
}

#[test]
fn every_place_is_in_a_story() {
    let told: BTreeSet<Place> = TOLD.iter().flat_map(|(story, _)| all(*story)).collect();
    let steps = |place: &Place| ELSEWHERE.iter().any(|(step, _)| *step == place.1);
    let untold: Vec<_> = places()
        .filter(|place| !told.contains(place) && !steps(place))
        .collect();
    assert_eq!(untold, [], "no test kills the daemon there");
    for (story, some) in SAMPLE {
        for place in some {
            assert!(all(story).contains(place), "{place:?} is not in {story:?}");
        }
    }
}

/// Tells a story with a death at each of its places.
async fn tell(story: Story) {
    if !cfg!(feature = "failpoints") {
        println!("SKIP: built without the feature failpoints");
        return;
    }
    let everything = std::env::var("HEARTH_FAILPOINTS").is_ok_and(|which| which == "all");
    let (places, all) = (sample(story), all(story));
    let places = if everything { all.clone() } else { places };
    let left_out = all.len() - places.len();
    if left_out > 0 {
        println!(
            "SKIP: {left_out} of {} failpoints of {story:?}: HEARTH_FAILPOINTS=all",
            all.len()
        );
    }
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.set("ORPHAN_GRACE", "0s");
    for (number, (side, step)) in places.into_iter().enumerate() {
        println!("{story:?}: dies {side} {step}");
        let place = format!("{side}:{step}");
        story.tell(&mut host, &place, &format!("vm-{number}")).await;
        host.clean().await;
        host.terminate_daemon().await;
    }
}

/// Kills the daemon at this place in its next life.
fn arm(host: &mut Host, place: &str) {
    host.set("FAILPOINT", place);
}

/// Waits for the daemon's death at the armed place.
async fn dies(host: &mut Host, place: &str) {
    host.daemon_ends().await;
    let log = host.log();
    let last = log.lines().rfind(|line| line.contains("failpoint reached"));
    let (side, step) = place.split_once(':').unwrap();
    let last = last.unwrap_or_else(|| panic!("{place} was not reached"));
    assert!(last.contains(side) && last.contains(step), "{last}");
    host.unset("FAILPOINT");
}

/// The same, and starts a sound one.
async fn dies_and_comes_back(host: &mut Host, place: &str) {
    dies(host, place).await;
    host.start_daemon().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_comes_up_whenever_the_daemon_is_killed_on_the_way() {
    tell(Story::Start).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_stopped_whenever_the_daemon_is_killed_on_the_way() {
    tell(Story::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_started_again_whenever_the_daemon_is_killed_on_the_way() {
    tell(Story::Restart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_restarted_by_its_user_whenever_the_daemon_is_killed_on_the_way() {
    tell(Story::Again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_paused_and_resumed_whenever_the_daemon_is_killed_on_the_way() {
    tell(Story::Pause).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_adopted_whenever_the_daemon_is_killed_on_the_way() {
    tell(Story::Adopt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_orphans_go_whenever_the_daemon_is_killed_on_the_way() {
    tell(Story::Orphans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_goes_away_whenever_the_daemon_is_killed_on_the_way() {
    tell(Story::Remove).await;
}
