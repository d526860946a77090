//! Volumes, snapshots and templates, when the database is lost.

use hearth_types::ids::{SnapshotId, VolumeId};
use hearth_types::snapshot::{Snapshot, SnapshotDisk, SnapshotState};
use hearth_types::spec::PartialSpec;
use hearth_types::template::Template;
use hearth_types::units::Bytes;
use hearth_types::volume::{Attachment, StorageKind, Volume, VolumeState, VolumeView};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::engine::paths::Paths;
use crate::keepsakes::{self, Kept};

/// What a disk of these tests holds.
const SIZE: u64 = 16 << 20;

fn volume(name: &str, disk: u32) -> Volume {
    Volume {
        id: VolumeId::new(),
        name: name.parse().unwrap(),
        size: Bytes(SIZE),
        storage: StorageKind::Files,
        snapshot_of: None,
        consistency: None,
        created_at: Timestamp::UNIX_EPOCH,
        state: VolumeState::Ready,
        disk,
        draft: None,
    }
}

fn snapshot(name: &str, of: &VmRow) -> Snapshot {
    Snapshot {
        id: SnapshotId::new(),
        name: name.parse().unwrap(),
        vm: of.id,
        vm_name: of.spec.name.clone(),
        image: of.image.clone(),
        kernel: None,
        spec: of.spec.clone(),
        disks: vec![SnapshotDisk {
            volume: None,
            attached: None,
            bytes: SIZE,
        }],
        attached: Vec::new(),
        consistency: None,
        frozen_ms: None,
        created_at: Timestamp::UNIX_EPOCH,
        state: SnapshotState::Ready,
    }
}

/// A file that is a disk.
fn disk(path: &Utf8Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
}

fn keep<T: Serialize + DeserializeOwned + PartialEq>(path: &Utf8Path, kept: &Kept<T>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    keepsakes::write_own(path, kept).unwrap();
}

impl Ruin {
    fn paths(&self) -> Paths {
        Paths::new(self.config.data_dir.clone())
    }

    /// With a disk of this number.
    fn keep_volume(&self, volume: &Volume, there: u32, attached: Vec<Attachment>) {
        disk(&self.paths().volume_disk(volume.id, there));
        let path = keepsakes::of_volume(&self.paths(), volume.id);
        let volume = volume.clone();
        let view = VolumeView { volume, attached };
        keep(&path, &Kept::of_volume(self.installation, view));
    }

    fn keep_snapshot(&self, snapshot: &Snapshot) -> Utf8PathBuf {
        let path = keepsakes::of_snapshot(&self.paths(), snapshot.id);
        let kept = Kept::of_snapshot(self.installation, snapshot.clone());
        keep(&path, &kept);
        path.with_file_name("root.img")
    }

    fn attached(&self, volume: &Volume, mount: &str) -> Attachment {
        Attachment {
            volume: volume.id,
            name: volume.name.clone(),
            vm: self.rows[0].id,
            vm_name: "once".parse().unwrap(),
            mount: mount.to_owned(),
            read_only: false,
        }
    }
}

#[tokio::test]
async fn what_folders_keep_of_volumes_snapshots_and_templates_comes_back() {
    let ruin = Ruin::new(&["web"]).await;
    let (data, moved) = (volume("data", 1), volume("moved", 1));
    ruin.keep_volume(&data, 1, vec![ruin.attached(&data, "/data")]);
    // Moved after its record was kept: only the other disk is there.
    let gone = Attachment {
        vm: VmId::new(),
        vm_name: "gone".parse().unwrap(),
        ..ruin.attached(&moved, "/data")
    };
    let clash = ruin.attached(&moved, "/data/");
    ruin.keep_volume(&moved, 2, vec![gone, clash]);
    let before = snapshot("before", &ruin.rows[0]);
    disk(&ruin.keep_snapshot(&before));
    let defaults = PartialSpec {
        env: [("TOKEN".to_owned(), "hunter2".to_owned())].into(),
        ..PartialSpec::default()
    };
    let template = Template {
        name: "base".parse().unwrap(),
        image: "demo:1".to_owned(),
        image_id: before.image.clone(),
        defaults,
        created_at: Timestamp::UNIX_EPOCH,
        changed_at: None,
    };
    let path = keepsakes::templates(&ruin.paths()).join("base.json");
    keep(&path, &Kept::of_template(ruin.installation, template));
    assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter2"));
    ruin.damage();

    let said = ruin.rebuild(false, None).await;
    for part in [
        "2 volume(s), 1 snapshot(s), 1 template(s), 0 folder(s)",
        "volumes: data moved\n",
        "snapshots: before\n",
        "templates: base\n",
        "who has volume moved: gone had it at /data, and has no record",
        "who has volume moved: volume moved cannot be attached to web",
        "that snapshot before has: PASSWORD",
        "that template base has: TOKEN",
        "which web, snapshot before, template base came from: it is not here",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let store = Store::open(ruin.path("hearth.db")).unwrap();
    let moved = Volume { disk: 2, ..moved };
    assert_eq!(store.volumes().await.unwrap(), [data.clone(), moved]);
    let web = Attachment {
        vm_name: "web".parse().unwrap(),
        ..ruin.attached(&data, "/data")
    };
    assert_eq!(store.attachments().await.unwrap(), [web]);
    let mut kept = before;
    kept.spec.env.clear();
    assert_eq!(store.snapshots().await.unwrap(), [kept]);
    let templates = store.templates().await.unwrap();
    assert_eq!(
        (templates.len(), templates[0].image.as_str()),
        (1, "demo:1")
    );
}

#[tokio::test]
async fn what_cannot_be_known_is_told_and_stays() {
    let ruin = Ruin::new(&["web"]).await;
    let paths = ruin.paths();
    // A disk and nothing else: it gets a name. Two of them: which of them counts nobody knows.
    let (alone, two, lost) = (VolumeId::new(), VolumeId::new(), volume("lost", 1));
    disk(&paths.volume_disk(alone, 3));
    disk(&paths.volume_disk(two, 1));
    disk(&paths.volume_disk(two, 2));
    ruin.keep_volume(&lost, 1, Vec::new());
    std::fs::remove_file(paths.volume_disk(lost.id, 1)).unwrap();
    let foreign = volume("foreign", 1);
    ruin.keep_volume(&foreign, 1, Vec::new());
    let path = keepsakes::of_volume(&paths, foreign.id);
    let view = VolumeView {
        volume: foreign,
        attached: Vec::new(),
    };
    keep(&path, &Kept::of_volume(InstallationId::new(), view));
    // A snapshot without its disk, and disks without their snapshot.
    ruin.keep_snapshot(&snapshot("half", &ruin.rows[0]));
    let nameless = paths.snapshots().join(SnapshotId::new().to_string());
    disk(&nameless.join("root.img"));
    ruin.damage();

    let said = ruin.rebuild(false, None).await;
    let name = format!("recovered-{}", alone.short());
    for part in [
        "1 volume(s), 0 snapshot(s), 0 template(s), 5 folder(s)",
        &format!("what these volumes were called, and who had them: {name}"),
        "it has 2 disks, and nothing says which of them counts",
        "it has no disk that is whole",
        "it belongs to installation",
        "its disk root is not there",
        "whose disks these are nobody knows",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let store = Store::open(ruin.path("hearth.db")).unwrap();
    let volumes = store.volumes().await.unwrap();
    assert_eq!(volumes.len(), 1);
    assert_eq!((volumes[0].id, volumes[0].disk), (alone, 3));
    assert_eq!(volumes[0].size, Bytes(SIZE));
    assert_eq!(volumes[0].name.as_str(), name);
    assert!(nameless.join("root.img").exists());
    assert!(paths.volume_disk(two, 2).exists());
}

#[tokio::test]
async fn volumes_alone_say_whose_they_are() {
    let ruin = Ruin::new(&[]).await;
    ruin.damage();
    let error = ruin.try_rebuild(false, None).await.unwrap_err();
    assert!(error.to_string().contains("--installation"), "{error:#}");
    ruin.keep_volume(&volume("data", 1), 1, Vec::new());
    ruin.rebuild(false, None).await;
    let store = Store::open(ruin.path("hearth.db")).unwrap();
    assert_eq!(store.installation(), ruin.installation);
    assert_eq!(store.volumes().await.unwrap().len(), 1);
}
