//! A pool whose data is on a block device, on a host in memory: where it may be, what happens when the device moves, is
//! missing, is another one, or becomes larger.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use camino::Utf8PathBuf;
use hearth_pool::fake::FakeGround;
use hearth_pool::{Limits, Place, Pool, PoolError, Unfit};
use hearth_types::InstallationId;
use hearth_types::pool::{ExtendPool, PoolState, SetUpPool};
use hearth_types::units::{Bytes, GIB, MIB};

const DISK: &str = "/dev/sdq";
/// What a device keeps free of data.
const ENDS: u64 = 2 * MIB;

struct World {
    ground: FakeGround,
    pool: Pool,
    _folder: tempfile::TempDir,
}

fn on(device: &str) -> SetUpPool {
    SetUpPool {
        device: Some(device.to_owned()),
        ..SetUpPool::default()
    }
}

fn why(error: PoolError) -> Unfit {
    assert!(error.hint().is_some(), "{error}");
    match error {
        PoolError::Device { unfit, .. } => Some(unfit),
        _ => None,
    }
    .unwrap()
}

impl World {
    /// A host with an empty disk of a GiB.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(folder.path().join("pool")).unwrap();
        let ground = FakeGround::default();
        ground.attach(DISK, GIB + ENDS);
        let place = Place::new(&dir, InstallationId::new());
        let pool = Pool::new(place, Arc::new(ground.clone()));
        Self {
            ground,
            pool,
            _folder: folder,
        }
    }

    /// The same with a pool on it that has something in it.
    async fn up() -> Self {
        let world = Self::new();
        assert!(world.pool.set_up(&on(DISK)).await.unwrap());
        world.ground.store(world.pool.place(), 7).unwrap();
        world
    }

    fn stored(&self) -> u64 {
        self.ground.stored(self.pool.place()).unwrap()
    }

    fn header(&self, device: &str) -> Vec<u8> {
        self.ground
            .with_disk(device, |disk| disk.header.clone())
            .unwrap()
    }

    async fn state(&self) -> PoolState {
        self.pool.view().await.state
    }
}

#[tokio::test]
async fn set_up_stored_rebooted_under_another_name_and_still_there() {
    let world = World::up().await;
    let view = world.pool.view().await;
    assert_eq!(view.state, PoolState::Up, "{view:?}");
    assert_eq!(view.data.unwrap().size, GIB);
    assert_eq!(view.data_device.unwrap().given, DISK);
    assert!(!world.pool.place().data().exists(), "no file for its data");
    // It is there: by the same name, or by none, again is a success; by another one, or with a size, it is not.
    assert!(!world.pool.set_up(&on(DISK)).await.unwrap());
    assert!(!world.pool.setup(None).await.unwrap());
    world.ground.attach("/dev/sdz", GIB);
    let other = world.pool.set_up(&on("/dev/sdz")).await.unwrap_err();
    assert_eq!(why(other), Unfit::Elsewhere);
    let size = world.pool.setup(Some(Bytes::gib(2))).await.unwrap_err();
    assert!(matches!(size, PoolError::Present { .. }), "{size}");

    world.ground.reboot();
    let disk = world.ground.detach(DISK).unwrap();
    world.ground.attach_again("/dev/sda", disk);
    assert_eq!(world.state().await, PoolState::Down);
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!(world.state().await, PoolState::Up);
    assert_eq!(world.stored(), 7);
    assert_eq!(world.ground.formatted(), 1);
}

#[tokio::test]
async fn a_device_that_is_something_elses_is_refused_and_nothing_is_written() {
    let world = World::new();
    let refused = async |device: &str, force: bool| {
        let asked = SetUpPool {
            force,
            ..on(device)
        };
        let error = world.pool.set_up(&asked).await.unwrap_err();
        assert!(!world.pool.place().dir.exists(), "{error}");
        assert!(error.to_string().contains(device), "{error}");
        why(error)
    };
    world
        .ground
        .with_disk(DISK, |disk| disk.user = Some("is mounted".to_owned()));
    for force in [false, true] {
        assert_eq!(refused(DISK, force).await, Unfit::InUse);
    }
    world.ground.with_disk(DISK, |disk| {
        disk.user = None;
        disk.holds = Some("a file system (XFS)".to_owned());
    });
    assert_eq!(refused(DISK, false).await, Unfit::Holds);
    assert!(world.header(DISK).is_empty());
    assert_eq!(refused("/dev/none", true).await, Unfit::NoDevice);
    world.ground.attach("/dev/small", 65 * MIB);
    assert_eq!(refused("/dev/small", true).await, Unfit::Small);
    // One that was another pool's holds something, too.
    world.ground.attach("/dev/theirs", GIB);
    let theirs = |disk: &mut hearth_pool::fake::FakeDisk| disk.header = b"HEARTH-POOL 1".to_vec();
    world.ground.with_disk("/dev/theirs", theirs);
    assert_eq!(refused("/dev/theirs", false).await, Unfit::Holds);
    let both = SetUpPool {
        data: Some(Bytes::gib(1)),
        ..on(DISK)
    };
    assert_eq!(
        why(world.pool.set_up(&both).await.unwrap_err()),
        Unfit::Whole
    );
    // What is on it may be lost, says its owner.
    let asked = SetUpPool {
        force: true,
        ..on(DISK)
    };
    assert!(world.pool.set_up(&asked).await.unwrap());
}

#[tokio::test]
async fn without_its_device_it_is_unknown_and_nothing_is_made_anew() {
    let world = World::up().await;
    world.ground.reboot();
    let disk = world.ground.detach(DISK).unwrap();
    let view = world.pool.view().await;
    assert_eq!(view.state, PoolState::Unknown);
    assert!(view.data_device.unwrap().missing);
    assert!(view.hint.unwrap().contains("vgchange"), "{:?}", view.reason);
    world.ground.attach("/dev/sdz", GIB);
    for refused in [
        world.pool.bring_up().await.unwrap_err(),
        world.pool.setup(None).await.unwrap_err(),
        world.pool.set_up(&on("/dev/sdz")).await.unwrap_err(),
        world.pool.check().await.unwrap_err(),
        world.pool.destroy(false).await.unwrap_err(),
        world.pool.admit(Bytes::mib(1)).await.unwrap_err(),
    ] {
        assert!(refused.is_missing_device(), "{refused}");
    }
    // Another disk that has its name by now is not it.
    world.ground.attach(DISK, 2 * GIB);
    let other = world.pool.bring_up().await.unwrap_err();
    assert_eq!(why(other), Unfit::Lost);
    assert!(world.header(DISK).is_empty());
    world.ground.detach(DISK);

    world.ground.attach_again(DISK, disk);
    assert_eq!(world.state().await, PoolState::Down);
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!(world.stored(), 7);
    assert_eq!(world.ground.formatted(), 1);
}

#[tokio::test]
async fn one_whose_device_is_gone_for_good_can_be_given_up() {
    let world = World::up().await;
    world.ground.reboot();
    world.ground.detach(DISK);
    world.pool.destroy(true).await.unwrap();
    assert_eq!(world.state().await, PoolState::Absent);
    world.ground.attach(DISK, GIB);
    assert!(world.pool.set_up(&on(DISK)).await.unwrap());
}

#[tokio::test]
async fn what_the_device_has_become_larger_by_is_taken_while_it_is_used() {
    let world = World::up().await;
    let size = async || world.pool.view().await.data.unwrap().size;
    assert_eq!(world.pool.keep_room().await.unwrap(), None);
    let larger = |bytes| {
        world
            .ground
            .with_disk(DISK, |disk| disk.bytes = bytes + ENDS)
    };
    larger(4 * GIB + 4096);
    // By whole blocks, though nothing is low.
    let grown = world.pool.keep_room().await.unwrap().unwrap();
    assert_eq!(grown.data, 4 * GIB);
    assert_eq!((size().await, world.stored()), (4 * GIB, 7));
    larger(8 * GIB);
    let fixed = world.pool.clone().with_limits(Limits {
        grow: false,
        ..Limits::default()
    });
    assert_eq!(fixed.keep_room().await.unwrap(), None);
    let over = ExtendPool {
        data: Some(Bytes::gib(9)),
        ..ExtendPool::default()
    };
    let over = world.pool.extend(&over).await.unwrap_err();
    assert!(over.to_string().contains("its device is no larger"));
    assert!(over.hint().unwrap().contains("lvextend"), "{over}");
    // An order with no size takes all of it.
    let grown = world.pool.extend(&ExtendPool::default()).await.unwrap();
    assert_eq!(grown.data, 8 * GIB);
    world.ground.reboot();
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!((size().await, world.stored()), (8 * GIB, 7));
    // One that has become smaller is not put together.
    world.ground.reboot();
    larger(7 * GIB);
    let small = world.pool.bring_up().await.unwrap_err();
    assert_eq!(why(small), Unfit::Small);
}

#[tokio::test]
async fn it_leaves_the_device_as_one_that_can_be_used() {
    let world = World::up().await;
    world.pool.reset(true, async {}).await.unwrap();
    assert_eq!(world.state().await, PoolState::Up);
    assert_eq!(world.stored(), 0, "an empty one, on the same device");
    world.pool.destroy(true).await.unwrap();
    assert!(world.header(DISK).is_empty());
    // The configuration's device, when nobody names one; a size means a file.
    let pool = world.pool.clone().with_device(Some(DISK.into()));
    assert!(pool.setup(None).await.unwrap());
    assert_eq!(pool.view().await.data.unwrap().size, GIB);
    assert!(!pool.setup(None).await.unwrap());
    pool.destroy(true).await.unwrap();
    assert!(pool.setup(Some(Bytes::mib(64))).await.unwrap());
    assert_eq!(pool.view().await.data_device, None);
    // What there is stays where it is.
    assert!(!pool.setup(None).await.unwrap());
    let moved = pool.set_up(&on(DISK)).await.unwrap_err();
    assert_eq!(why(moved), Unfit::Elsewhere);
}

#[tokio::test]
async fn cut_off_at_any_call_its_making_is_begun_anew() {
    for call in 0..12 {
        for after in [false, true] {
            let world = World::new();
            world.ground.cut_at(call, after);
            let made = world.pool.set_up(&on(DISK)).await;
            world.ground.reboot();
            let again = world.pool.set_up(&on(DISK)).await;
            assert!(again.is_ok(), "call {call}, {after}: {made:?}, {again:?}");
            assert_eq!(world.state().await, PoolState::Up);
            world.pool.destroy(false).await.unwrap();
            assert!(world.header(DISK).is_empty());
        }
    }
}
