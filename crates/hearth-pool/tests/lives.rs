//! The pool on a host in memory: each of its states, and generated lives with power cuts.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use camino::Utf8PathBuf;
use hearth_dm::thin::Mode;
use hearth_pool::fake::FakeGround;
use hearth_pool::{Place, Pool, PoolError, Record, Stage};
use hearth_types::InstallationId;
use hearth_types::pool::{PoolState, PoolVerdict, SetUpPool};
use hearth_types::units::{Bytes, MIB};
use proptest::prelude::*;

/// Small, so that its files are quickly made.
const SIZE: Option<Bytes> = Some(Bytes::mib(64));

/// What a device would have for it.
const DISK: &str = "/dev/sdq";

struct World {
    ground: FakeGround,
    pool: Pool,
    on_device: bool,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::on(false)
    }

    /// With its data in a file, or on a device.
    fn on(on_device: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(folder.path().join("pool")).unwrap();
        let ground = FakeGround::default();
        ground.attach(DISK, 66 * MIB);
        let place = Place::new(&dir, InstallationId::new());
        let pool = Pool::new(place, Arc::new(ground.clone()));
        Self {
            ground,
            pool,
            on_device,
            _folder: folder,
        }
    }

    fn place(&self) -> &Place {
        self.pool.place()
    }

    /// The host and the daemon begin anew.
    fn reboot(&mut self) {
        self.ground.reboot();
        self.pool = Pool::new(self.place().clone(), Arc::new(self.ground.clone()));
    }

    async fn set_up(&self) -> Result<bool, PoolError> {
        let on_device = SetUpPool {
            device: Some(DISK.to_owned()),
            ..SetUpPool::default()
        };
        match self.on_device {
            true => self.pool.set_up(&on_device).await,
            false => self.pool.setup(SIZE).await,
        }
    }

    /// Nobody could tell that there was a pool.
    fn has_nothing(&self) -> bool {
        let header = self.ground.with_disk(DISK, |disk| disk.header.len());
        !self.has_files() && !self.ground.has_device() && header == Some(0)
    }

    fn stage(&self) -> Option<Stage> {
        Record::read(self.place())
            .unwrap()
            .map(|record| record.stage)
    }

    async fn state(&self) -> PoolState {
        self.pool.view().await.state
    }

    fn has_files(&self) -> bool {
        self.place().dir.exists()
    }
}

#[tokio::test]
async fn set_up_stored_rebooted_and_still_there() {
    let mut world = World::new();
    assert_eq!(world.state().await, PoolState::Absent);
    world.pool.setup(SIZE).await.unwrap();
    let view = world.pool.view().await;
    assert_eq!(view.state, PoolState::Up, "{view:?}");
    assert_eq!(view.data.unwrap().size, 64 * MIB);
    assert_eq!(view.last_check.unwrap().verdict, PoolVerdict::Good);
    world.ground.store(world.place(), 7).unwrap();

    world.reboot();
    assert_eq!(world.state().await, PoolState::Down);
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!(world.state().await, PoolState::Up);
    assert_eq!(world.ground.stored(world.place()).unwrap(), 7);
    // A daemon that is restarted finds it there, and asks nothing of it.
    assert!(!world.pool.bring_up().await.unwrap());
    assert_eq!(world.ground.formatted(), 1);
}

#[tokio::test]
async fn a_second_setup_is_a_success_and_another_size_is_not() {
    let world = World::new();
    world.pool.setup(SIZE).await.unwrap();
    world.pool.setup(None).await.unwrap();
    world.pool.setup(SIZE).await.unwrap();
    let other = world.pool.setup(Some(Bytes::mib(128))).await;
    assert!(
        matches!(other, Err(PoolError::Present { present }) if present == Bytes::mib(64)),
        "{other:?}"
    );
    assert_eq!(world.ground.formatted(), 1);
}

#[tokio::test]
async fn metadata_that_is_lost_is_never_formatted_over() {
    let mut world = World::new();
    world.pool.setup(SIZE).await.unwrap();
    world.ground.store(world.place(), 7).unwrap();
    world.reboot();
    let whole = std::fs::read(world.place().metadata()).unwrap();
    // As after a power cut on a disk that lied about its flush.
    std::fs::write(world.place().metadata(), vec![0; whole.len()]).unwrap();
    for _ in 0..2 {
        let refused = world.pool.bring_up().await;
        assert!(
            matches!(refused, Err(PoolError::Damaged { .. })),
            "{refused:?}"
        );
        assert_eq!(world.state().await, PoolState::Damaged);
    }
    assert!(world.pool.setup(None).await.is_err());
    assert_eq!(world.ground.formatted(), 1);
    // A file that is gone, or of another size, is told as such.
    std::fs::write(world.place().metadata(), b"short").unwrap();
    let short = world.pool.check().await;
    assert!(matches!(short, Err(PoolError::File { .. })), "{short:?}");
    // Put back, it is all there.
    std::fs::write(world.place().metadata(), whole).unwrap();
    world.pool.check().await.unwrap();
    assert_eq!(world.ground.stored(world.place()).unwrap(), 7);
}

#[tokio::test]
async fn destroyed_on_order_and_never_by_mistake() {
    let world = World::new();
    let absent = world.pool.destroy(false).await;
    assert!(matches!(absent, Err(PoolError::Absent)), "{absent:?}");
    world.pool.setup(SIZE).await.unwrap();
    world.ground.store(world.place(), 7).unwrap();
    let holds = world.pool.destroy(false).await;
    assert!(
        matches!(holds, Err(PoolError::HoldsData { .. })),
        "{holds:?}"
    );
    world.ground.set_users(1);
    for force in [false, true] {
        let used = world.pool.destroy(force).await;
        assert!(
            matches!(used, Err(PoolError::InUse { users: 1 })),
            "{used:?}"
        );
    }
    assert!(matches!(
        world.pool.check().await,
        Err(PoolError::InUse { users: 1 })
    ));
    assert_eq!(world.ground.stored(world.place()).unwrap(), 7);
    world.ground.set_users(0);
    world.pool.destroy(true).await.unwrap();
    assert!(!world.ground.has_device());
    assert!(!world.has_files());
    // And again from the beginning; what holds nothing needs no force.
    world.pool.setup(SIZE).await.unwrap();
    world.pool.destroy(false).await.unwrap();
    assert!(!world.has_files());
}

#[tokio::test]
async fn taken_down_it_keeps_what_is_in_it() {
    let world = World::new();
    assert!(!world.pool.take_down().await.unwrap());
    world.pool.setup(SIZE).await.unwrap();
    world.ground.store(world.place(), 7).unwrap();
    assert!(world.pool.take_down().await.unwrap());
    assert_eq!(world.state().await, PoolState::Down);
    // Nobody can look into it now.
    let blind = world.pool.destroy(false).await;
    assert!(
        matches!(blind, Err(PoolError::MayHoldData { .. })),
        "{blind:?}"
    );
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!(world.ground.stored(world.place()).unwrap(), 7);
}

#[tokio::test]
async fn a_host_without_device_mapper_is_left_as_it_is() {
    let world = World::new();
    world.ground.set_unavailable(true);
    let refused = world.pool.setup(SIZE).await.unwrap_err();
    assert!(matches!(refused, PoolError::Unavailable(_)), "{refused:?}");
    assert!(refused.hint().unwrap().contains("dm_thin_pool"));
    assert!(!world.has_files());
    assert_eq!(world.state().await, PoolState::Unavailable);
    // A package that is removed there has nothing to take down.
    assert!(!world.pool.take_down().await.unwrap());
    assert!(!world.pool.bring_up().await.unwrap());
}

#[tokio::test]
async fn without_thin_check_nothing_is_set_up_and_nothing_is_left() {
    let world = World::new();
    world.ground.set_no_tool(true);
    let refused = world.pool.setup(SIZE).await.unwrap_err();
    assert!(matches!(refused, PoolError::Check(_)), "{refused:?}");
    assert!(refused.hint().unwrap().contains("thin-provisioning-tools"));
    assert!(!world.has_files());
    assert!(!world.ground.has_device());
}

#[tokio::test]
async fn what_others_have_is_not_touched() {
    let world = World::new();
    world.ground.set_foreign(true);
    for refused in [
        world.pool.setup(SIZE).await.unwrap_err(),
        world.pool.destroy(true).await.unwrap_err(),
        world.pool.take_down().await.unwrap_err(),
    ] {
        assert!(matches!(refused, PoolError::Foreign { .. }), "{refused:?}");
    }
    assert_eq!(world.state().await, PoolState::Foreign);
}

#[tokio::test]
async fn a_pool_whose_record_is_gone_is_not_taken_for_none() {
    let world = World::new();
    world.pool.setup(SIZE).await.unwrap();
    let record = world.place().record();
    let kept = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    assert_eq!(world.state().await, PoolState::Unknown);
    for refused in [
        world.pool.setup(SIZE).await.unwrap_err(),
        world.pool.destroy(false).await.unwrap_err(),
    ] {
        assert!(
            matches!(refused, PoolError::Unrecorded { .. }),
            "{refused:?}"
        );
    }
    std::fs::write(&record, b"{").unwrap();
    assert_eq!(world.state().await, PoolState::Unknown);
    assert!(world.pool.destroy(true).await.is_err());
    std::fs::write(&record, kept).unwrap();
    assert_eq!(world.state().await, PoolState::Up);
}

#[tokio::test]
async fn the_kernels_own_states_are_told() {
    let world = World::new();
    world.pool.setup(SIZE).await.unwrap();
    for (mode, state) in [
        (Mode::OutOfDataSpace, PoolState::Full),
        (Mode::ReadOnly, PoolState::ReadOnly),
        (Mode::ReadWrite, PoolState::Up),
    ] {
        world.ground.set_mode(mode);
        let view = world.pool.view().await;
        assert_eq!(view.state, state);
        assert_eq!(view.reason.is_some(), state != PoolState::Up);
    }
}

/// What happens to a pool.
#[derive(Debug, Clone)]
enum Stroke {
    Setup,
    BringUp,
    Check,
    TakeDown,
    Store(u64),
    Destroy {
        force: bool,
    },
    Reboot,
    /// The power is cut during the next strokes.
    Cut {
        call: u32,
        after: bool,
    },
}

fn stroke() -> impl Strategy<Value = Stroke> {
    prop_oneof![
        4 => Just(Stroke::Setup),
        2 => Just(Stroke::BringUp),
        2 => Just(Stroke::Check),
        1 => Just(Stroke::TakeDown),
        3 => (1..u64::MAX).prop_map(Stroke::Store),
        2 => any::<bool>().prop_map(|force| Stroke::Destroy { force }),
        2 => Just(Stroke::Reboot),
        4 => (0..12_u32, any::<bool>()).prop_map(|(call, after)| Stroke::Cut { call, after }),
    ]
}

/// What must be true after each stroke.
#[derive(Default)]
struct Model {
    /// What was stored last and must still be there.
    stored: Option<u64>,
}

async fn strike(world: &mut World, model: &mut Model, stroke: &Stroke) {
    let (before, formatted) = (world.stage(), world.ground.formatted());
    let failed = match stroke {
        Stroke::Setup => world.set_up().await.is_err(),
        Stroke::BringUp => world.pool.bring_up().await.is_err(),
        Stroke::Check => world.pool.check().await.is_err(),
        Stroke::TakeDown => world.pool.take_down().await.is_err(),
        Stroke::Store(value) => {
            if before == Some(Stage::Ready) && world.ground.store(world.place(), *value).is_ok() {
                model.stored = Some(*value);
            }
            false
        }
        Stroke::Destroy { force } => {
            let done = world.pool.destroy(*force).await;
            // Cut off it goes on when it is ordered again, and is no longer anything else.
            if done.is_ok() || world.stage() == Some(Stage::Destroying) {
                assert!(*force || model.stored.is_none(), "destroyed without force");
                model.stored = None;
            }
            if done.is_ok() {
                assert!(world.has_nothing());
            }
            done.is_err()
        }
        Stroke::Reboot => {
            world.reboot();
            false
        }
        Stroke::Cut { call, after } => {
            world.ground.cut_at(*call, *after);
            false
        }
    };
    if before == Some(Stage::Ready) {
        assert_eq!(
            world.ground.formatted(),
            formatted,
            "formatted again by {stroke:?}"
        );
    }
    if failed {
        world.reboot();
    }
}

async fn live(strokes: &[Stroke], on_device: bool) {
    let mut world = World::on(on_device);
    let mut model = Model::default();
    for stroke in strokes {
        strike(&mut world, &mut model, stroke).await;
    }
    world.reboot();
    world.pool.bring_up().await.unwrap();
    if let Some(value) = model.stored {
        assert_eq!(world.ground.stored(world.place()).unwrap(), value);
    }
    // Whatever is left, it can be brought to an end, and to a new beginning.
    match world.stage() {
        None => assert!(!world.ground.has_device()),
        Some(_) => world.pool.destroy(true).await.unwrap(),
    }
    assert!(!world.has_files());
    world.set_up().await.unwrap();
    assert_eq!(world.state().await, PoolState::Up);
}

fn lives(strokes: &[Stroke], on_device: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(live(strokes, on_device));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_life_loses_what_was_stored(strokes in prop::collection::vec(stroke(), 1..24)) {
        lives(&strokes, false);
    }

    #[test]
    fn no_life_on_a_device_loses_what_was_stored(strokes in prop::collection::vec(stroke(), 1..24)) {
        lives(&strokes, true);
    }
}
