//! The same calls by a helper process: this program again, which makes them for the test.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_disk::contract::contract;
use hearth_pool::thin::{Target, ThinGround};
use hearth_pool::{HelperGround, Helpers, HostGround, Place, serve_helper, start_helper};
use hearth_types::InstallationId;
use hearth_types::mark::OwnerMark;
use hearth_types::observe::{ProcessRole, ROLE_ENV};
use hearth_types::thin::ThinState;
use hearth_types::units::MIB;

use super::thin::{OWNER, Thin};

/// So many snapshots are made each way.
const ROUNDS: u32 = 30;

/// Not a test of its own: what this program does when it was started as a helper.
#[test]
fn child() {
    if std::env::var(ROLE_ENV).ok().as_deref() != Some(ProcessRole::Helper.as_str()) {
        return;
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    serve_helper(UnixStream::from(stdin), &HostGround).unwrap();
}

fn ground() -> Arc<HelperGround> {
    let helpers = Helpers::new(|| {
        let mark = OwnerMark::shared(InstallationId::new());
        let args = ["--exact", "helper::child", "--nocapture"];
        start_helper("/proc/self/exe", &args, mark)
    });
    Arc::new(HelperGround::new(Arc::new(HostGround), helpers))
}

#[tokio::test]
async fn volumes_by_a_helper_keep_the_contract_of_volumes() {
    let Some(thin) = Thin::on(ground()).await else {
        return;
    };
    contract(&thin.volumes, &thin, OWNER).await;
    assert!(thin.ids().is_empty());
    assert!(thin.thins.compare().await.unwrap().is_empty());
}

/// Figures, not promises: nothing depends on them. Each way in turn, so that a slow moment hits both.
#[tokio::test]
async fn a_snapshot_by_a_helper_beside_one_by_plain_calls() {
    let by_helper = ground();
    let Some(thin) = Thin::on(by_helper.clone()).await else {
        return;
    };
    let image = thin.device("image").await;
    assert_eq!(image.state, ThinState::Ready);
    let place = thin.place().clone();
    let (plain, mut own, mut theirs) = (HostGround, Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let id = 100 + 2 * round;
        theirs.push(snapshot(&plain, &place, id, image.id));
        own.push(snapshot(&*by_helper, &place, id + 1, image.id));
    }
    let (plain, helper) = (median(theirs), median(own));
    println!(
        "FIGURE: snapshot to usable device: {} us by plain calls, {} us by the helper, {:.2} times",
        plain.as_micros(),
        helper.as_micros(),
        helper.as_secs_f64() / plain.as_secs_f64()
    );
}

/// Makes a snapshot and switches it on; then it goes, unmeasured.
fn snapshot(ground: &dyn ThinGround, place: &Place, id: u32, origin: u32) -> Duration {
    let target = Target {
        id,
        name: format!("{}.{id}", place.name),
        uuid: hearth_pool::thin::uuid_of(place, id),
        sectors: 8 * MIB / 512,
    };
    let begun = Instant::now();
    ground.create_snapshot(place, id, origin).unwrap();
    let device = ground.activate(place, &target).unwrap();
    let took = begun.elapsed();
    assert!(device.node().exists());
    ground.deactivate(place, id).unwrap();
    ground.delete_thin(place, id).unwrap();
    took
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}
