//! A pool whose disk hangs, fails or is slow, on the kernel's own device-mapper. Where there is none these
//! tests are skipped; the testbed's scenario `pool-troubles` runs them where there is one.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and skips are said"
)]

#[path = "troubles/disk.rs"]
mod disk;
#[path = "kernel/file.rs"]
mod file;
mod kernel;
#[path = "kernel/run.rs"]
mod run;

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_pool::thin::{MemoryLedger, Wanted};
use hearth_pool::{HostGround, Place, Pool, ThinError, Thins};
use hearth_types::InstallationId;
use hearth_types::pool::{PoolOperationState, PoolState};
use hearth_types::survey::chain;
use hearth_types::thin::{ThinDevice, ThinKind};
use hearth_types::units::{Bytes, MIB};

use disk::{Below, Disk};

/// How long anything may take that waits for nothing but the host.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a change may take that hangs: its deadline, and some.
const GIVEN_UP: Duration = Duration::from_secs(150);
const AT: u64 = 3 * MIB + 512;

/// A pool on a disk that can be troubled, with its volumes.
struct World {
    pool: Pool,
    thins: Thins,
    // The last: what stands on it goes first.
    disk: Disk,
}

impl World {
    async fn new(name: &str) -> Option<Self> {
        let disk = Disk::new(name)?;
        let place = Place::new(&disk.mount_point().join("pool"), InstallationId::new());
        let pool = Pool::new(place, Arc::new(HostGround));
        let ledger = Arc::new(MemoryLedger::default());
        let thins = Thins::new(pool.clone(), Arc::new(HostGround), ledger);
        pool.setup(Some(Bytes::mib(128))).await.unwrap();
        Some(Self { pool, thins, disk })
    }

    async fn make(&self, name: &str, origin: Option<u32>) -> Result<ThinDevice, ThinError> {
        let wanted = Wanted {
            name: name.to_owned(),
            kind: ThinKind::Data,
            bytes: 8 * MIB,
            origin,
        };
        let made = self.thins.make(&wanted).await?;
        self.thins.filled(made).await
    }

    async fn open(&self, device: &ThinDevice) -> File {
        let on = self.thins.activate(device).await.unwrap();
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(on.node())
            .unwrap()
    }

    /// A volume with something in it.
    async fn with_data(&self) -> ThinDevice {
        let device = self.make("kept", None).await.unwrap();
        let file = self.open(&device).await;
        write(&file, AT).unwrap();
        device
    }

    /// How it is; the daemon waits no longer for that.
    async fn look(&self) -> hearth_types::pool::PoolView {
        in_time("a look at the pool", PATIENCE, self.pool.view()).await
    }

    async fn end(self) {
        self.thins.let_go().await.unwrap();
        self.pool.destroy(true).await.unwrap();
    }
}

fn write(file: &File, at: u64) -> std::io::Result<()> {
    file.write_all_at(b"kept", at)?;
    file.sync_data()
}

fn has(file: &File) {
    let mut found = [0; 4];
    file.read_exact_at(&mut found, AT).unwrap();
    assert_eq!(&found, b"kept");
}

async fn in_time<T>(what: &str, patience: Duration, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(patience, work).await;
    done.unwrap_or_else(|_| unreachable!("{what} took more than {patience:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_holds_up_nobody_and_is_gone_on_with() {
    let Some(world) = World::new("hangs").await else {
        return;
    };
    let Some(other) = World::new("other").await else {
        return;
    };
    let kept = world.with_data().await;
    world.disk.put(Below::Hanging);
    // A change is given up, and says what it waits for.
    let begun = Instant::now();
    let hung = in_time("a change", GIVEN_UP, world.make("late", None)).await;
    let said = chain(&hung.unwrap_err());
    println!(
        "MEASURED: given up after {:.1} s: {said}",
        begun.elapsed().as_secs_f64()
    );
    assert!(said.contains("has not ended"), "{said}");
    // A look comes back, and says so.
    let begun = Instant::now();
    let view = world.look().await;
    println!(
        "MEASURED: a look at a pool that hangs: {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    println!(
        "it says: {:?}, {:?}, {:?}",
        view.state, view.reason, view.hint
    );
    let stuck = |it: &hearth_types::pool::PoolOperation| it.state == PoolOperationState::Stuck;
    assert!(view.operations.iter().any(stuck), "{view:?}");
    assert!(view.hint.is_some(), "it does not say what to do: {view:?}");
    // What comes after it is refused at once, and names it.
    let behind = in_time("a change behind it", PATIENCE, world.make("later", None)).await;
    println!("behind it: {}", chain(&behind.unwrap_err()));
    // Another one's pool takes no notice.
    let theirs = in_time("another pool", PATIENCE, other.with_data()).await;
    has(&in_time("another pool", PATIENCE, other.open(&theirs)).await);

    world.disk.put(Below::Sound);
    let begun = Instant::now();
    while world.look().await.operations.iter().any(stuck) {
        assert!(begun.elapsed() < PATIENCE, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Whether the kernel had done it when it was given up is decided by looking.
    let found = world.thins.compare().await.unwrap();
    println!("afterwards: {found:?}");
    assert!(found.iter().all(|it| it.repaired), "{found:?}");
    assert!(world.thins.compare().await.unwrap().is_empty());
    assert_eq!(world.look().await.state, PoolState::Up);
    has(&world.open(&kept).await);
    world.make("late", None).await.unwrap();
    world.end().await;
    other.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_is_told_and_what_was_synced_is_there_when_it_is_sound_again() {
    let Some(mut world) = World::new("fails").await else {
        return;
    };
    let kept = world.with_data().await;
    let file = world.open(&kept).await;
    world.disk.put(Below::Failing);
    let failed = write(&file, 7 * MIB);
    assert!(failed.is_err(), "a write to a disk that fails: {failed:?}");
    let refused = in_time("a change", GIVEN_UP, world.make("more", None)).await;
    println!("a change: {}", chain(&refused.unwrap_err()));
    let view = world.look().await;
    println!(
        "it says: {:?}, {:?}, {:?}",
        view.state, view.reason, view.hint
    );
    assert!(
        matches!(view.state, PoolState::ReadOnly | PoolState::Failed),
        "{view:?}"
    );
    assert!(view.reason.is_some() && view.hint.is_some(), "{view:?}");
    drop(file);

    // Somebody brings the disk back, as the hint says: what stands on the pool is stopped first.
    world.disk.put(Below::Sound);
    world.thins.let_go().await.unwrap();
    world.pool.take_down().await.unwrap();
    world.disk.mount_again();
    world.pool.check().await.unwrap();
    assert_eq!(world.look().await.state, PoolState::Up);
    let found = world.thins.compare().await.unwrap();
    println!("afterwards: {found:?}");
    assert!(found.iter().all(|it| it.repaired), "{found:?}");
    has(&world.open(&kept).await);
    world.make("more", None).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_slow_makes_it_slow_and_nothing_else() {
    let Some(world) = World::new("slow").await else {
        return;
    };
    let kept = world.with_data().await;
    world.disk.put(Below::Slow);
    let begun = Instant::now();
    let snapshot = world.make("snapshot", Some(kept.id)).await.unwrap();
    println!(
        "MEASURED: a snapshot on a disk that takes 200 ms for each request: {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    has(&world.open(&snapshot).await);
    world.thins.remove(|it| it.id == kept.id).await.unwrap();
    assert!(world.thins.compare().await.unwrap().is_empty());
    assert_eq!(world.look().await.state, PoolState::Up);
    world.disk.put(Below::Sound);
    has(&world.open(&snapshot).await);
    world.end().await;
}
