//! Room and metadata of the pool on the kernel's own device-mapper: grown under writes, filled to the
//! end, damaged and mended. Where there is none these tests are skipped; the testbed's scenario
//! `pool-space` runs them where there is one.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and skips are said"
)]

mod kernel;
#[path = "kernel/world.rs"]
mod world;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_dm::thin::Message;
use hearth_dm::{Key, Remove, Suspend};
use hearth_pool::{Limits, PoolError};
use hearth_types::pool::{ExtendPool, PoolState, PoolVerdict};
use hearth_types::units::{Bytes, MIB};

use world::{World, patiently};

/// How long anything may take that waits for another.
const PATIENCE: Duration = Duration::from_secs(45);

impl World {
    /// One with so many bytes for data. `None`, and a word, where there cannot be one.
    async fn of(data: u64) -> Option<Self> {
        let world = Self::new()?;
        world.pool.setup(Some(Bytes(data))).await.unwrap();
        Some(world)
    }

    /// Switches a thin device of this many bytes on.
    fn activate(&self, id: u32, size: u64) -> File {
        let node = self.switch_on(id, size / 512);
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(node).unwrap()
    }

    fn deactivate(&self, id: u32) {
        let uuid = self.uuid(id);
        patiently(|| self.control.remove(Key::Uuid(&uuid), Remove::Now));
    }

    async fn state(&self) -> PoolState {
        self.pool.view().await.state
    }

    /// Data and metadata as the kernel says them, in bytes.
    async fn sizes(&self) -> (u64, u64) {
        let view = self.pool.view().await;
        (view.data.unwrap().size, view.metadata.unwrap().size)
    }
}

/// Writes so many MiB, each with its number, past the page cache's patience.
fn fill(file: &File, mebibytes: std::ops::Range<u64>) -> std::io::Result<()> {
    for at in mebibytes {
        let block = vec![u8::try_from(at % 251).unwrap(); 1 << 20];
        file.write_all_at(&block, at * MIB)?;
        file.sync_data()?;
    }
    Ok(())
}

fn holds(file: &File, mebibytes: std::ops::Range<u64>) {
    let mut block = vec![0; 1 << 20];
    for at in mebibytes {
        file.read_exact_at(&mut block, at * MIB).unwrap();
        let wanted = u8::try_from(at % 251).unwrap();
        assert!(block.iter().all(|byte| *byte == wanted), "at {at} MiB");
    }
}

fn by(bytes: u64) -> ExtendPool {
    ExtendPool {
        by: Some(Bytes(bytes)),
        ..ExtendPool::default()
    }
}

async fn until(what: &str, world: &World, state: PoolState) {
    let end = Instant::now() + PATIENCE;
    while world.state().await != state {
        assert!(
            Instant::now() < end,
            "{what}: {:?}",
            world.pool.view().await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_grows_under_writes_at_the_kernels_event_and_nothing_is_lost() {
    let Some(world) = World::of(128 * MIB).await else {
        return;
    };
    world.say(Message::CreateThin { id: 1 }).unwrap();
    let file = Arc::new(world.activate(1, 1024 * MIB));
    let mut events = world.pool.events().expect("the kernel tells of events");
    let writer = {
        let file = Arc::clone(&file);
        std::thread::spawn(move || fill(&file, 0..250))
    };
    // Nothing but the kernel's word makes it look.
    let (mut grown, mut took) = (None, Duration::ZERO);
    while grown.is_none() {
        tokio::time::timeout(PATIENCE, events.next())
            .await
            .expect("no event at low water")
            .unwrap();
        let begun = Instant::now();
        grown = world.pool.keep_room().await.unwrap();
        took = begun.elapsed();
    }
    println!(
        "from the kernel's event to more room: {} ms",
        took.as_millis()
    );
    writer.join().unwrap().unwrap();
    holds(&file, 0..250);
    let (data, _) = world.sizes().await;
    assert_eq!(data, grown.unwrap().data);
    assert_eq!(world.state().await, PoolState::Up);

    // A reboot later it is as large, and all is there.
    drop(file);
    world.deactivate(1);
    world.pool.check().await.unwrap();
    assert_eq!(world.sizes().await.0, data);
    let file = world.activate(1, 1024 * MIB);
    holds(&file, 0..250);
    drop(file);
    world.deactivate(1);
    world.pool.destroy(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn full_it_makes_writers_wait_and_extended_in_time_they_go_on() {
    let Some(world) = World::of(128 * MIB).await else {
        return;
    };
    let pool = world.pool.clone().with_limits(Limits {
        grow: false,
        ..Limits::default()
    });
    world.say(Message::CreateThin { id: 1 }).unwrap();
    let file = Arc::new(world.activate(1, 512 * MIB));
    let writer = {
        let file = Arc::clone(&file);
        std::thread::spawn(move || fill(&file, 0..200))
    };
    until("it fills up", &world, PoolState::Full).await;
    assert!(!writer.is_finished(), "a write without room did not wait");
    assert_eq!(pool.keep_room().await.unwrap(), None);
    let readings = pool.readings().await.unwrap();
    assert!(readings.tight(pool.limits(), false).is_some());
    let refused = pool.admit(Bytes(MIB)).await.unwrap_err();
    assert!(matches!(refused, PoolError::Tight { .. }), "{refused}");
    pool.extend(&by(256 * MIB)).await.unwrap();
    until("it has room", &world, PoolState::Up).await;
    writer.join().unwrap().unwrap();
    holds(&file, 0..200);
    drop(file);
    world.deactivate(1);
    world.pool.destroy(true).await.unwrap();
}

/// Makes empty thin devices, each of which takes a block of metadata, until a word is true of the pool.
/// The next id.
async fn devices_until(world: &World, first: u32, enough: impl Fn(u64, PoolState) -> bool) -> u32 {
    for id in first..first + 20_000 {
        // Looked at now and then: a look takes longer than a device.
        if id % 32 == 0 {
            let view = world.pool.view().await;
            let metadata = view.metadata.unwrap();
            let percent = metadata.used.unwrap() * 100 / metadata.size;
            if enough(percent, view.state) {
                return id;
            }
        }
        // The last ones are refused.
        drop(world.say(Message::CreateThin { id }));
    }
    first + 20_000
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_grows_before_it_is_full_and_brings_a_full_one_back() {
    let Some(world) = World::of(256 * MIB).await else {
        return;
    };
    let next = devices_until(&world, 1, |percent, _| percent > 76).await;
    println!("metadata of 16 MiB was low after {next} devices");
    let grown = world.pool.keep_room().await.unwrap().expect("it is low");
    assert_eq!(grown.metadata, 32 * MIB);
    assert_eq!(world.sizes().await.1, 32 * MIB);
    assert_eq!(world.pool.keep_room().await.unwrap(), None);

    // And one that nobody made larger in time.
    let next = devices_until(&world, next, |_, state| state == PoolState::ReadOnly).await;
    assert_eq!(world.state().await, PoolState::ReadOnly, "{next}");
    assert!(world.pool.back_up().await.is_err());
    let more = ExtendPool {
        metadata: Some(Bytes::mib(64)),
        ..ExtendPool::default()
    };
    match world.pool.extend(&more).await {
        Ok(grown) => assert_eq!(grown.metadata, 64 * MIB),
        // A write of it has failed: it is read first, and grows when it is put together.
        Err(error) => {
            assert!(matches!(error, PoolError::NeedsCheck), "{error}");
            assert!(world.pool.view().await.needs_check);
            world.pool.check().await.unwrap();
        }
    }
    until("it is writable again", &world, PoolState::Up).await;
    assert!(world.sizes().await.1 >= 64 * MIB);
    world.say(Message::CreateThin { id: 50_000 }).unwrap();
    world.pool.destroy(true).await.unwrap();
}

/// A pool with a volume that holds something, a backup of its metadata, and a snapshot that is younger. It
/// is taken down.
async fn with_a_backup(syncs: bool) -> Option<(World, String)> {
    let world = World::of(256 * MIB).await?;
    world.say(Message::CreateThin { id: 1 }).unwrap();
    let file = world.activate(1, 256 * MIB);
    if syncs {
        fill(&file, 0..32).unwrap();
    } else {
        // One commit: a tool has not much to choose from.
        for at in 0..32 {
            let number = u8::try_from(at % 251).unwrap();
            file.write_all_at(&vec![number; 1 << 20], at * MIB).unwrap();
        }
        file.sync_data().unwrap();
    }
    // While it is used, and a snapshot with it.
    let backup = world.pool.back_up().await.unwrap();
    let key = world.uuid(1);
    world
        .control
        .suspend(Key::Uuid(&key), Suspend::Flushed)
        .unwrap();
    world
        .say(Message::CreateSnapshot { id: 2, origin: 1 })
        .unwrap();
    world.control.resume(Key::Uuid(&key)).unwrap();
    assert!(world.pool.repair().await.is_err(), "it is in use");
    drop(file);
    world.deactivate(1);
    world.pool.take_down().await.unwrap();
    Some((world, backup.file))
}

/// Its first block is lost, and that is seen before it is put to use.
async fn lose_the_first_block(world: &World) {
    overwrite(&world.pool.place().metadata(), 0, &[0; 4096]);
    assert!(world.pool.bring_up().await.is_err());
    assert_eq!(world.state().await, PoolState::Damaged);
}

/// These devices have what was written to them.
fn have(world: &World, ids: &[u32]) {
    for id in ids {
        let file = world.activate(*id, 256 * MIB);
        holds(&file, 0..32);
        drop(file);
        world.deactivate(*id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_metadata_is_repaired_or_restored_and_the_data_is_there() {
    let Some((world, backup)) = with_a_backup(false).await else {
        return;
    };
    // What the first block said is known.
    lose_the_first_block(&world).await;
    let repaired = world.pool.repair().await.unwrap();
    assert!(repaired.kept.is_some());
    assert_eq!(world.state().await, PoolState::Up);
    let view = world.pool.view().await;
    assert_eq!(view.last_check.unwrap().verdict, PoolVerdict::Good);
    have(&world, &[1, 2]);

    // Nothing is left of it but the backup.
    world.pool.take_down().await.unwrap();
    let metadata = world.pool.place().metadata();
    overwrite(&metadata, 0, &vec![0xa5; 16 << 20]);
    let beyond = world.pool.repair().await.unwrap_err();
    assert!(matches!(beyond, PoolError::Beyond { .. }), "{beyond}");
    println!("{beyond}");
    world.pool.restore(&backup).await.unwrap();
    have(&world, &[1]);
    world.pool.destroy(true).await.unwrap();
    assert!(!world.pool.place().dir.exists());
}

/// The `thin_repair` of Debian 12 breaks down over that.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_with_a_history_is_repaired_also_where_the_tool_breaks_down() {
    let Some((world, _)) = with_a_backup(true).await else {
        return;
    };
    lose_the_first_block(&world).await;
    let hurt = std::fs::read(world.pool.place().metadata()).unwrap();
    let kept = world.pool.repair().await.unwrap().kept.unwrap();
    let kept = std::fs::read(world.pool.place().dir.join(kept)).unwrap();
    assert!(
        kept == hurt,
        "what is kept of the damaged metadata was changed"
    );
    have(&world, &[1, 2]);
    world.pool.destroy(true).await.unwrap();
    assert!(!world.pool.place().dir.exists());
}

fn overwrite(path: &camino::Utf8Path, at: u64, with: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(with, at).unwrap();
    file.sync_all().unwrap();
}
