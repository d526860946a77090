//! Volumes of the pool on the kernel's own device-mapper: the contract that files keep, too, what a
//! crash leaves, and how long a snapshot takes.

use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::time::Instant;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::contract::{Ground as _, InFolder, contract};
use hearth_disk::{FileVolumes, Volumes};
use hearth_dm::Suspend;
use hearth_dm::thin::Message;
use hearth_pool::thin::{MemoryLedger, ThinGround, Wanted, uuid_of};
use hearth_pool::{Choice, HostGround, Place, Pool, ThinVolumes, Thins};
use hearth_types::thin::{ThinDevice, ThinKind, ThinState};
use hearth_types::units::{Bytes, MIB};

use super::{Key, SIZE, World};

pub(super) const OWNER: u32 = 34567;
const AT: u64 = 3 * MIB + 512;

pub(super) struct Thin {
    world: World,
    folder: Utf8PathBuf,
    pub(super) thins: Thins,
    pub(super) volumes: ThinVolumes,
}

impl Thin {
    async fn new() -> Option<Self> {
        Self::on(Arc::new(HostGround)).await
    }

    /// By those who make its calls.
    pub(super) async fn on(ground: Arc<dyn ThinGround>) -> Option<Self> {
        let mut world = World::new()?;
        world.pool = Pool::new(world.pool.place().clone(), Arc::clone(&ground) as _);
        world.pool.setup(SIZE).await.unwrap();
        let folder = world.pool.place().dir.parent().unwrap().join("vm");
        std::fs::create_dir(&folder).unwrap();
        let ledger = Arc::new(MemoryLedger::default());
        let thins = Thins::new(world.pool.clone(), ground, ledger);
        let files = Arc::new(FileVolumes::default());
        let volumes = ThinVolumes::new(thins.clone(), files, Choice::Auto);
        Some(Self {
            world,
            folder,
            thins,
            volumes,
        })
    }

    pub(super) fn place(&self) -> &Place {
        self.world.pool.place()
    }

    pub(super) async fn device(&self, name: &str) -> ThinDevice {
        let wanted = Wanted {
            name: name.to_owned(),
            kind: ThinKind::Data,
            bytes: 8 * MIB,
            origin: None,
        };
        let made = self.thins.make(&wanted).await.unwrap();
        self.thins.filled(made).await.unwrap()
    }

    pub(super) fn ids(&self) -> Vec<u32> {
        let place = self.world.pool.place();
        (1..30)
            .filter(|id| HostGround.holds(place, *id).unwrap())
            .collect()
    }
}

impl Drop for Thin {
    fn drop(&mut self) {
        // What is left on is in the way of the pool's own end.
        let place = self.world.pool.place();
        for active in HostGround.active(place).unwrap_or_default() {
            drop(HostGround.deactivate(place, active.id));
        }
    }
}

impl InFolder for Thin {
    fn folder(&self) -> &Utf8Path {
        &self.folder
    }
}

#[tokio::test]
async fn thin_volumes_keep_the_contract_of_volumes() {
    let Some(thin) = Thin::new().await else {
        return;
    };
    contract(&thin.volumes, &thin, OWNER).await;
    assert!(thin.ids().is_empty());
    assert!(thin.thins.devices().await.unwrap().is_empty());
    assert!(thin.thins.compare().await.unwrap().is_empty());
    thin.world.pool.destroy(false).await.unwrap();
}

#[tokio::test]
async fn a_root_disk_is_a_snapshot_whose_node_is_renewed() {
    let Some(thin) = Thin::new().await else {
        return;
    };
    let (source, path) = (thin.path("image"), thin.path("root.img"));
    thin.put(&source, Bytes::mib(16), AT, b"image");
    thin.volumes
        .clone_from(&source, &path, Bytes::mib(32), OWNER)
        .await
        .unwrap();
    assert!(path.metadata().unwrap().file_type().is_block_device());
    thin.write(&path, AT, b"guest");
    // As after a reboot: all is taken down, and the numbers are others'.
    thin.thins.let_go().await.unwrap();
    assert!(thin.world.pool.take_down().await.unwrap());
    let standing = thin.volumes.ready(&path, OWNER).await.unwrap();
    assert!(standing.device.unwrap().as_str().starts_with("/dev/dm-"));
    assert_eq!(thin.read(&path, AT, 5), b"guest");
    let begun = Instant::now();
    for number in 0..10 {
        let other = thin.path(&format!("other-{number}"));
        thin.volumes
            .clone_from(&path, &other, Bytes::mib(32), OWNER)
            .await
            .unwrap();
        assert_eq!(thin.read(&other, AT, 5), b"guest");
    }
    let each = begun.elapsed().as_secs_f64() * 100.0;
    super::figures::figure(
        "a snapshot of a volume in use to its usable device",
        each,
        "ms",
    );
    let shown = thin.thins.volumes().await.unwrap();
    assert_eq!(shown.unknown, None);
    assert_eq!(shown.volumes.len(), 12);
    assert!(shown.volumes.iter().all(|it| it.mapped >= Some(64 << 10)));
    thin.volumes.clear(&thin.folder).await.unwrap();
    assert!(thin.ids().is_empty());
}

#[tokio::test]
async fn what_a_crash_leaves_in_the_kernel_is_named_and_decided() {
    let Some(thin) = Thin::new().await else {
        return;
    };
    let place = thin.world.pool.place().clone();
    let kept = thin.device("kept").await;
    thin.thins.activate(&kept).await.unwrap();
    // Nobody wrote this one down; that one was suspended when its daemon died.
    thin.world.tell(Message::CreateThin { id: 9 });
    let uuid = uuid_of(&place, kept.id);
    thin.world
        .control
        .suspend(Key::Uuid(&uuid), Suspend::Flushed)
        .unwrap();
    // The metadata was being listed.
    thin.world.tell(Message::ReserveMetadataSnapshot);
    let found = thin.thins.compare().await.unwrap();
    let kinds: Vec<_> = found.iter().map(|it| (it.id, it.kind.as_str())).collect();
    assert_eq!(
        kinds,
        [(Some(1), "suspended"), (Some(9), "unrecorded")],
        "{found:?}"
    );
    assert!(thin.thins.compare().await.unwrap().is_empty());
    let all = thin.thins.devices().await.unwrap();
    assert_eq!(all[1].state, ThinState::Orphaned);
    thin.thins.remove(|it| it.id == kept.id).await.unwrap();
    assert_eq!(thin.ids(), [9]);
    HostGround.delete_thin(&place, 9).unwrap();
    thin.world.pool.destroy(true).await.unwrap();
}
