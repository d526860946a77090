//! Garbage: found without a change, cleaned on order, refused on a host that is in no state for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_pool::thin::Wanted;
use hearth_pool::volume_name;
use hearth_safeguards::fake::FakeSigns;
use hearth_safeguards::{Health, OperationGuard, Settings, Thresholds, Whose};
use hearth_types::VmId;
use hearth_types::gc::{GcKind, GcOutcome, GcReport};
use hearth_types::thin::{ThinDevice, ThinKind};
use hearth_types::units::MIB;
use serde_json::{Value, json};

use crate::rig::{IMAGE, Rig, raw_disk};

async fn device(rig: &Rig, name: &str, kind: ThinKind) -> ThinDevice {
    let wanted = Wanted {
        name: name.to_owned(),
        kind,
        bytes: MIB,
        origin: None,
    };
    rig.api.thins.make(&wanted).await.unwrap()
}

async fn garbage_of(rig: &Rig, asked: Value) -> GcReport {
    let answer = rig.post("/v1/gc", asked).await;
    assert!(answer.status.is_success(), "{answer:?}");
    serde_json::from_value(answer.json()).unwrap()
}

fn told(report: &GcReport) -> Vec<(&str, GcOutcome)> {
    let items = report.items.iter();
    items
        .map(|item| (item.object.as_str(), item.outcome))
        .collect()
}

/// A pool with an orphan, the device of an image that is gone, one being made, and two whose records may be lost: a snapshot's and a VM's.
async fn pool(rig: &Rig) {
    assert!(rig.post("/v1/pool", json!(null)).await.status.is_success());
    let thins = &rig.api.thins;
    let half = device(rig, "half", ThinKind::VmRoot).await;
    thins.orphan(half, "mkfs timed out").await.unwrap();
    for (name, kind) in [
        ("gone-volume", ThinKind::Image),
        ("snap", ThinKind::Snapshot),
        ("lost-root", ThinKind::VmRoot),
    ] {
        let made = device(rig, name, kind).await;
        thins.filled(made).await.unwrap();
    }
    device(rig, "new-volume", ThinKind::Image).await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_force_cleans_what_nobody_needs() {
    let rig = Rig::new().await;
    pool(&rig).await;
    let before = rig.ground.thin_ids();
    let dry: GcReport = serde_json::from_value(rig.get("/v1/gc").await.json()).unwrap();
    assert!(dry.dry_run && dry.unknown.is_empty(), "{dry:?}");
    let devices: Vec<_> = dry
        .items
        .iter()
        .filter(|item| item.kind == GcKind::ThinDevice)
        .collect();
    let words: Vec<_> = devices
        .iter()
        .map(|item| (item.object.as_str(), item.outcome))
        .collect();
    assert_eq!(
        words,
        [
            ("half", GcOutcome::Found),
            ("gone-volume", GcOutcome::Found),
            ("snap", GcOutcome::Skipped),
            ("lost-root", GcOutcome::Skipped),
        ]
    );
    assert_eq!(devices[0].reason, "mkfs timed out");
    assert_eq!(dry.summary.total_devices, 5);
    assert_eq!(rig.ground.thin_ids(), before);

    let done = garbage_of(&rig, json!({ "force": true, "kinds": ["thin_device"] })).await;
    assert!(!done.dry_run);
    assert_eq!(
        done.summary.to_string(),
        "cleaned=2 failed=0 orphaned=4 skipped=2 total_devices=5"
    );
    let left = rig.api.thins.devices().await.unwrap();
    let left: Vec<_> = left.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(left, ["snap", "lost-root", "new-volume"]);
    let again = garbage_of(&rig, json!({ "force": true, "kinds": ["thin_device"] })).await;
    let stay = [
        ("snap", GcOutcome::Skipped),
        ("lost-root", GcOutcome::Skipped),
    ];
    assert_eq!(told(&again), stay);
}

#[tokio::test]
async fn images_go_only_when_they_are_asked_for_and_nobody_uses_them() {
    let rig = Rig::new().await;
    let disk = rig.dir.join("other.img");
    raw_disk(&disk);
    let other = json!({ "path": disk, "reference": "other:1", "kind": "disk" });
    let imported = rig.post("/v1/images/import", other).await;
    assert!(imported.status.is_success());
    rig.create("web").await;
    let all = garbage_of(&rig, json!({ "force": true })).await;
    let images: Vec<_> = all
        .items
        .iter()
        .filter(|item| item.kind == GcKind::Image)
        .collect();
    assert_eq!(images.len(), 1, "the VM's image is none: {images:?}");
    assert!(images[0].object.contains("other:1"));
    assert_eq!(images[0].outcome, GcOutcome::Skipped);
    assert!(rig.get("/v1/images/other:1").await.status.is_success());
    let done = garbage_of(&rig, json!({ "force": true, "kinds": ["image"] })).await;
    assert_eq!((done.summary.cleaned, done.items.len()), (1, 1));
    rig.get("/v1/images/other:1")
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn a_host_that_is_not_well_is_left_alone() {
    let mut rig = Rig::new().await;
    pool(&rig).await;
    let signs = FakeSigns::default();
    let limits = Thresholds {
        held_for: Duration::from_millis(300),
        budget: Duration::from_secs(60),
        ..Thresholds::default()
    };
    let nobody = Arc::new(|_: &_| Whose::Unknown);
    let health = Health::new(Arc::new(signs.clone()), limits, nobody);
    let guard = OperationGuard::new(Settings::default(), Some(health));
    let pool = rig.api.pool.clone().with_guard(guard);
    rig.api.thins = hearth_pool::Thins::new(
        pool,
        Arc::new(rig.ground.clone()),
        Arc::new(hearthd::volumes::StoreLedger::new(
            rig.api.engine.parts.store.clone(),
        )),
    );
    let before = rig.ground.thin_ids();
    signs.hold("kworker/u8:1-dm-thin", "dm_pool_commit_metadata");
    let refused = rig.post("/v1/gc", json!({ "force": true })).await;
    let refused = refused.problem(503, "unavailable");
    let said = refused["detail"].as_str().unwrap();
    assert!(
        said.contains("in no state for it") && said.contains("d_state"),
        "{said}"
    );
    assert!(refused["hint"].as_str().unwrap().contains("reboot"));
    assert_eq!(rig.ground.thin_ids(), before);
    rig.post("/v1/gc", json!({ "kinds": ["everything"] }))
        .await
        .problem(400, "invalid");
}

/// A file of so many days ago.
pub(crate) fn old_file(path: &Utf8Path, days: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let age = Duration::from_secs(days * 24 * 3600 + 60);
    file.set_modified(SystemTime::now() - age).unwrap();
}

/// Each kind of file that is garbage, and beside it what is none. What is garbage comes first.
fn files(rig: &Rig, web: VmId) -> [Vec<Utf8PathBuf>; 2] {
    let [stale, fresh] = ["a".repeat(64), "b".repeat(64)];
    let blobs = rig.dir.join("images/blobs/sha256");
    let vm = rig.vm_dir(web);
    let backups = rig.dir.join("backups");
    rig.api.engine.backups.configure(Duration::ZERO, 1);
    let garbage = [
        blobs.join(&stale),
        blobs.join(format!("{stale}.partial")),
        vm.join("console.log.7"),
        vm.join("guest.dump"),
        vm.join("dumps/guest-20200101T120000Z.kdump"),
        vm.join("disks.json.new"),
        backups.join("hearth-20200101T120000Z.db"),
    ];
    let others = [
        (blobs.join(&fresh), 0),
        (blobs.join("somebody's notes"), 1000),
        (vm.join("console.log.1"), 1000),
        (vm.join("notes"), 1000),
        (backups.join("hearth-20200102T120000Z.db"), 1000),
        (backups.join("hearth-mine.db"), 1000),
        (rig.dir.join("hearth.db.old-mine"), 1000),
        (rig.dir.join("hearth.db.old-20200101T120000Z"), 0),
    ];
    garbage.iter().for_each(|path| old_file(path, 40));
    others.iter().for_each(|(path, days)| old_file(path, *days));
    [garbage.to_vec(), others.map(|(path, _)| path).to_vec()]
}

#[tokio::test]
async fn of_files_those_go_that_have_outlived_their_use() {
    let rig = Rig::new().await;
    let web = rig.create("web").await.id;
    let [garbage, others] = files(&rig, web);
    let dry: GcReport = serde_json::from_value(rig.get("/v1/gc").await.json()).unwrap();
    assert!(dry.unknown.is_empty(), "{dry:?}");
    assert!(garbage.iter().chain(&others).all(|path| path.exists()));
    let done = garbage_of(&rig, json!({ "force": true })).await;
    let left: Vec<_> = garbage.iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "{left:?} of {done:?}");
    let gone: Vec<_> = others.iter().filter(|path| !path.exists()).collect();
    assert!(gone.is_empty(), "{gone:?} of {done:?}");
    assert_eq!(
        (done.summary.cleaned, done.summary.failed),
        (7, 0),
        "{done:?}"
    );
    let skipped: Vec<_> = done
        .items
        .iter()
        .filter(|item| item.outcome == GcOutcome::Skipped && item.kind != GcKind::Image)
        .map(|item| item.kind)
        .collect();
    assert_eq!(skipped, [GcKind::Download, GcKind::Aside]);
    let asked = json!({ "force": true, "kinds": ["download", "aside"] });
    let done = garbage_of(&rig, asked).await;
    assert_eq!(done.summary.cleaned, 2, "{done:?}");
    assert!(!others[0].exists() && !others[7].exists());
}

#[tokio::test]
async fn what_an_image_has_in_the_pool_stays_with_it() {
    let rig = Rig::new().await;
    assert!(rig.post("/v1/pool", json!(null)).await.status.is_success());
    let images = &rig.api.engine.parts.images;
    let image = images.get(IMAGE).await.unwrap().id;
    let volume = images.volume_path(&image);
    let made = device(&rig, &volume_name(&volume), ThinKind::Image).await;
    rig.api.thins.filled(made).await.unwrap();
    let done = garbage_of(&rig, json!({ "force": true })).await;
    assert_eq!(told(&done).len(), 1, "{done:?}");
    assert_eq!(done.items[0].kind, GcKind::Image, "{done:?}");
    assert_eq!(rig.ground.thin_ids().len(), 1);
}

#[tokio::test]
async fn only_files_are_removed_and_nothing_is_followed() {
    let rig = Rig::new().await;
    let web = rig.create("web").await.id;
    let log = rig.vm_dir(web).join("console.log.9");
    old_file(&log, 1);
    let report = garbage_of(&rig, json!({ "kinds": ["log"] })).await;
    assert_eq!(told(&report), [(log.as_str(), GcOutcome::Found)]);
    std::os::unix::fs::symlink("/etc/hostname", rig.vm_dir(web).join("console.log.8")).unwrap();
    let done = garbage_of(&rig, json!({ "force": true, "kinds": ["log"] })).await;
    assert_eq!(told(&done), [(log.as_str(), GcOutcome::Cleaned)]);
    assert!(rig.vm_dir(web).join("console.log.8").is_symlink());
}
