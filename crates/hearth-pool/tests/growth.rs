//! Growth on a host in memory: by order and by itself, refused, and cut off at every call.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod in_memory;

use hearth_pool::space::Room;
use hearth_pool::{Limits, PoolError};
use hearth_types::pool::{ExtendPool, PoolState};
use hearth_types::units::{Bytes, GIB, MIB, TIB};

use in_memory::World;

/// Blocks of 64 KiB in the pool of these tests.
const BLOCKS: u64 = 1024;

impl World {
    /// Bytes of data: of the kernel's pool, of the file.
    fn sizes(&self) -> (Option<u64>, u64) {
        let file = self.pool.place().data().metadata().unwrap().len();
        (self.ground.size(self.pool.place()), file)
    }

    async fn told(&self) -> (u64, u64) {
        let view = self.pool.view().await;
        assert_eq!(view.state, PoolState::Up, "{view:?}");
        (view.data.unwrap().size, view.metadata.unwrap().size)
    }
}

fn data(size: u64) -> ExtendPool {
    ExtendPool {
        data: Some(Bytes(size)),
        ..ExtendPool::default()
    }
}

#[tokio::test]
async fn it_grows_by_order_and_keeps_what_is_in_it() {
    let mut world = World::new().await;
    world.pool.extend(&data(128 * MIB)).await.unwrap();
    assert_eq!(world.sizes(), (Some(128 * MIB), 128 * MIB));
    assert_eq!(world.told().await, (128 * MIB, 16 * MIB));
    let by = ExtendPool {
        by: Some(Bytes::mib(64)),
        metadata: Some(Bytes::mib(32)),
        ..ExtendPool::default()
    };
    world.pool.extend(&by).await.unwrap();
    assert_eq!(world.told().await, (192 * MIB, 32 * MIB));
    // A reboot later it is as large, with what was stored.
    world.ground.reboot();
    world.restart();
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!(world.told().await, (192 * MIB, 32 * MIB));
    assert_eq!(world.ground.stored(world.pool.place()).unwrap(), 7);
    assert_eq!(world.ground.formatted(), 1);
    // With no size it follows its own rule: a GiB more is the least.
    let grown = world.pool.extend(&ExtendPool::default()).await.unwrap();
    assert_eq!(grown.data, 192 * MIB + GIB);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_figures() {
    let world = World::new().await;
    let smaller = world.pool.extend(&data(32 * MIB)).await.unwrap_err();
    assert!(
        matches!(smaller, PoolError::Shrink { what: "data", .. }),
        "{smaller}"
    );
    world.ground.set_room(Room::Files {
        free: 11 * GIB,
        total: 200 * GIB,
        allotted: 0,
    });
    // 10 GiB are kept back.
    let large = world.pool.extend(&data(2 * GIB)).await.unwrap_err();
    assert!(large.to_string().contains("1 GiB are the most"), "{large}");
    let metadata = ExtendPool {
        metadata: Some(Bytes::mib(2048)),
        ..ExtendPool::default()
    };
    let large = world.pool.extend(&metadata).await.unwrap_err();
    assert!(
        matches!(
            large,
            PoolError::TooLarge {
                what: "metadata",
                ..
            }
        ),
        "{large}"
    );
    assert_eq!(world.told().await, (64 * MIB, 16 * MIB));
    world.pool.take_down().await.unwrap();
    let down = world.pool.extend(&data(GIB)).await.unwrap_err();
    assert!(matches!(down, PoolError::NotWorking { .. }), "{down}");
}

#[tokio::test]
async fn at_low_water_it_grows_by_itself_once() {
    let world = World::new().await;
    assert_eq!(world.pool.keep_room().await.unwrap(), None);
    world.ground.set_full(BLOCKS - 50, 11);
    let grown = world.pool.keep_room().await.unwrap().unwrap();
    assert_eq!(grown.data, 64 * MIB + GIB);
    assert_eq!(world.told().await.0, grown.data);
    assert_eq!(world.pool.keep_room().await.unwrap(), None);
    // Metadata has a mark of its own: 4096 blocks.
    world.ground.set_full(BLOCKS - 50, 3100);
    let grown = world.pool.keep_room().await.unwrap().unwrap();
    assert_eq!(world.told().await, (64 * MIB + GIB, grown.metadata));
    assert_eq!(grown.metadata, 32 * MIB);
}

#[tokio::test]
async fn it_does_not_grow_where_it_may_not() {
    let world = World::new().await;
    world.ground.set_full(BLOCKS - 50, 11);
    let limits = Limits {
        grow: false,
        ..Limits::default()
    };
    let pool = world.pool.clone().with_limits(limits);
    assert_eq!(pool.keep_room().await.unwrap(), None);
    let capped = Limits {
        most: Some(96 * MIB),
        ..Limits::default()
    };
    let pool = world.pool.clone().with_limits(capped);
    let grown = pool.keep_room().await.unwrap().unwrap();
    assert_eq!(grown.data, 96 * MIB);
}

#[tokio::test]
async fn a_kernel_that_refuses_is_asked_again() {
    let world = World::new().await;
    world.ground.set_refuses(true);
    let refused = world.pool.extend(&data(128 * MIB)).await.unwrap_err();
    assert!(matches!(refused, PoolError::NotWorking { .. }), "{refused}");
    assert!(world.pool.is_unsettled().await.unwrap());
    assert_eq!(world.sizes(), (Some(64 * MIB), 128 * MIB));
    world.ground.set_refuses(false);
    // The next look goes on with it, though nothing is low.
    assert_eq!(world.pool.keep_room().await.unwrap(), None);
    assert!(!world.pool.is_unsettled().await.unwrap());
    assert_eq!(world.told().await.0, 128 * MIB);
}

#[tokio::test]
async fn a_file_that_cannot_grow_leaves_everything_as_it_was() {
    let world = World::new().await;
    world.ground.set_room(Room::Files {
        free: 100 * TIB,
        total: 200 * TIB,
        allotted: 0,
    });
    // More than ext4 lets a file have.
    let much = ExtendPool {
        data: Some(Bytes(20 * TIB)),
        metadata: Some(Bytes::mib(32)),
        ..ExtendPool::default()
    };
    let probe = tempfile::tempfile().unwrap();
    if probe.set_len(20 * TIB).is_err() {
        let refused = world.pool.extend(&much).await.unwrap_err();
        assert!(matches!(refused, PoolError::Io { .. }), "{refused}");
        assert_eq!(world.sizes(), (Some(64 * MIB), 64 * MIB));
    }
    assert!(!world.pool.is_unsettled().await.unwrap());
    world.pool.extend(&data(128 * MIB)).await.unwrap();
    assert_eq!(world.told().await, (128 * MIB, 16 * MIB));
}

#[tokio::test]
async fn cut_off_at_any_call_it_is_gone_on_with() {
    for reboots in [false, true] {
        for call in 0..10 {
            for after in [false, true] {
                let mut world = World::new().await;
                world.ground.cut_at(call, after);
                let grown = world.pool.extend(&data(128 * MIB)).await;
                if reboots {
                    world.ground.reboot();
                } else {
                    world.ground.mend();
                }
                world.restart();
                world.pool.bring_up().await.unwrap();
                let told = world.told().await;
                assert_eq!(world.sizes().0, Some(told.0), "call {call}, {after}");
                assert!(grown.is_err() || told.0 == 128 * MIB);
                assert!(!world.pool.is_unsettled().await.unwrap());
                // Whatever came of it, the order can be given again.
                world.pool.extend(&data(128 * MIB)).await.unwrap();
                assert_eq!(world.sizes(), (Some(128 * MIB), 128 * MIB));
                assert_eq!(world.ground.stored(world.pool.place()).unwrap(), 7);
                assert_eq!(world.ground.formatted(), 1);
            }
        }
    }
}

#[tokio::test]
async fn nothing_new_is_made_beyond_what_is_allowed() {
    let world = World::new().await;
    world.pool.admit(Bytes(GIB)).await.unwrap();
    let limits = Limits {
        overcommit: 2,
        grow: false,
        ..Limits::default()
    };
    let pool = world.pool.clone().with_limits(limits);
    pool.set_provisioned(100 * MIB);
    pool.admit(Bytes::mib(28)).await.unwrap();
    let over = pool.admit(Bytes::mib(29)).await.unwrap_err();
    assert!(matches!(over, PoolError::Overcommitted { .. }), "{over}");
    let space = pool.view().await.space.unwrap();
    assert_eq!(space.provisioned, 100 * MIB);
    assert_eq!(space.overcommit_percent, 156);
    world.ground.set_full(BLOCKS - 30, 11);
    let tight = pool.admit(Bytes::mib(1)).await.unwrap_err();
    assert!(matches!(tight, PoolError::Tight { .. }), "{tight}");
}
