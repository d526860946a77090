//! Figures, not promises: nothing depends on them. What a snapshot costs on its way to a usable device by
//! plain calls, which are the limit; by a helper; with all that a volume goes through; and by the tools that
//! people use instead. The ways take turns, so that a slow moment hits all of them.

use std::time::{Duration, Instant};

use hearth_disk::Volumes as _;
use hearth_disk::contract::Ground as _;
use hearth_dm::{Control, Key};
use hearth_host::command::find;
use hearth_pool::thin::{Target, ThinGround, uuid_of};
use hearth_pool::{HostGround, Place};
use hearth_types::thin::ThinKind;
use hearth_types::units::{Bytes, MIB};

use super::helper::ground;
use super::lvm::Lvm;
use super::run::run;
use super::thin::{OWNER, Thin};

/// So many snapshots are made each way.
const ROUNDS: u32 = 30;
/// So many volumes are made of one image.
const VOLUMES: u32 = 100;
const SIZE: Bytes = Bytes::mib(4);

/// A line that the testbed keeps.
pub(super) fn figure(name: &str, value: f64, unit: &str) {
    println!("FIGURE: {value:.2} {unit} {name}");
}

fn median(mut all: Vec<Duration>) -> Option<f64> {
    all.sort_unstable();
    let middle = all.get(all.len() / 2)?;
    Some(middle.as_secs_f64() * 1e6)
}

fn target(place: &Place, id: u32) -> Target {
    Target {
        id,
        name: format!("{}.{id}", place.name),
        uuid: uuid_of(place, id),
        sectors: SIZE.0 / 512,
    }
}

/// By calls, whoever makes them.
fn by_calls(ground: &dyn ThinGround, place: &Place, id: u32, origin: u32) -> Duration {
    let target = target(place, id);
    let begun = Instant::now();
    ground.create_snapshot(place, id, origin).unwrap();
    let device = ground.activate(place, &target).unwrap();
    let took = begun.elapsed();
    assert!(device.node().exists());
    took
}

/// By two runs of `dmsetup`: a message to the pool, and a device with its node.
fn by_dmsetup(place: &Place, id: u32, origin: u32) -> Duration {
    let target = target(place, id);
    let control = Control::open().unwrap();
    let pool = control.info(Key::Uuid(&place.uuid)).unwrap().device;
    let message = format!("create_snap {id} {origin}");
    let table = format!("0 {} thin {pool} {id}", target.sectors);
    let begun = Instant::now();
    run("dmsetup", &["message", &place.name, "0", &message]);
    let words = ["create", &target.name, "--uuid", &target.uuid];
    run("dmsetup", &[&words[..], &["--table", &table]].concat());
    begun.elapsed()
}

/// Unmeasured.
fn removed(place: &Place, id: u32) {
    super::patiently(|| {
        let control = Control::open()?;
        control.remove(Key::Uuid(&uuid_of(place, id)), hearth_dm::Remove::Now)
    });
    HostGround.delete_thin(place, id).unwrap();
}

/// With the record, the lock and the node that a VM's disk has.
async fn as_a_volume(thin: &Thin, name: &str) -> Duration {
    let (image, path) = (thin.path("image"), thin.path(name));
    let begun = Instant::now();
    let made = thin.volumes.clone_from(&image, &path, SIZE, OWNER).await;
    made.unwrap();
    begun.elapsed()
}

/// An image in the pool, and its id.
async fn with_an_image() -> Option<(Thin, u32)> {
    let thin = Thin::on(ground()).await?;
    thin.put(&thin.path("image"), SIZE, MIB, b"image");
    as_a_volume(&thin, "first").await;
    let all = thin.thins.devices().await.unwrap();
    let image = all.iter().find(|it| it.kind == ThinKind::Image).unwrap();
    let id = image.id;
    Some((thin, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_to_its_usable_device() {
    let Some((thin, image)) = with_an_image().await else {
        return;
    };
    let (place, by_helper) = (thin.place().clone(), ground());
    let (dmsetup, lvm) = (find("dmsetup").is_some(), Lvm::new());
    let mut all: [Vec<Duration>; 5] = Default::default();
    for round in 0..ROUNDS {
        let id = 1000 + 3 * round;
        all[0].push(by_calls(&HostGround, &place, id, image));
        all[1].push(by_calls(&*by_helper, &place, id + 1, image));
        removed(&place, id);
        removed(&place, id + 1);
        let name = format!("volume-{round}");
        all[2].push(as_a_volume(&thin, &name).await);
        thin.volumes.remove(&thin.path(&name)).await.unwrap();
        if dmsetup {
            all[3].push(by_dmsetup(&place, id + 2, image));
            removed(&place, id + 2);
        }
        if let Some(lvm) = &lvm {
            all[4].push(lvm.snapshot(round));
        }
    }
    let [plain, others @ ..] = all.map(median);
    let plain = plain.unwrap();
    figure("snapshot to usable device, plain calls", plain, "us");
    let names = ["a helper", "as a volume of a VM", "dmsetup", "lvcreate -s"];
    for (name, took) in names.into_iter().zip(others) {
        let Some(took) = took else {
            println!("{name} is not installed");
            continue;
        };
        figure(&format!("the same by {name}"), took, "us");
        figure(&format!("{name} to plain calls"), took / plain, "times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_volumes_of_one_image() {
    let Some((thin, image)) = with_an_image().await else {
        return;
    };
    let place = thin.place().clone();
    let mut ours = Duration::ZERO;
    for number in 0..VOLUMES {
        ours += as_a_volume(&thin, &format!("volume-{number}")).await;
    }
    figure("100 volumes of one image", ours.as_secs_f64() * 1e3, "ms");
    for number in 0..VOLUMES {
        let path = thin.path(&format!("volume-{number}"));
        thin.volumes.remove(&path).await.unwrap();
    }
    if find("dmsetup").is_none() {
        return;
    }
    let ids = 1000..1000 + VOLUMES;
    let theirs: Duration = ids.clone().map(|id| by_dmsetup(&place, id, image)).sum();
    let theirs = theirs.as_secs_f64() * 1e3;
    figure("100 volumes of one image, dmsetup", theirs, "ms");
    for id in ids {
        removed(&place, id);
    }
}
