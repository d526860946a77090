//! The pool and the room of the device-mapper on the kernel's own. Where there is none these tests
//! are skipped; the testbed's scenario `pool` runs them where there is one.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and skips are said"
)]

#[path = "device_mapper/device.rs"]
mod device;
#[path = "device_mapper/figures.rs"]
mod figures;
#[path = "kernel/file.rs"]
mod file;
#[path = "device_mapper/helper.rs"]
mod helper;
mod kernel;
#[path = "device_mapper/layers.rs"]
mod layers;
#[path = "device_mapper/lvm.rs"]
mod lvm;
#[path = "../../hearthd/src/layers.rs"]
#[expect(unreachable_pub, reason = "it is a part of the daemon's library, too")]
mod pool_layers;
#[path = "kernel/run.rs"]
mod run;
#[path = "device_mapper/thin.rs"]
mod thin;
#[path = "kernel/world.rs"]
mod world;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use hearth_dm::thin::{Message, PoolStatus, ThinStatus};
use hearth_dm::{Control, DmError, Key, Remove, Suspend};
use hearth_pool::{Place, PoolError};
use hearth_types::pool::{PoolState, PoolVerdict};
use hearth_types::units::{Bytes, MIB};

use world::{World, patiently};

const SIZE: Option<Bytes> = Some(Bytes::mib(256));
/// Of a volume, in sectors.
const SECTORS: u64 = 64 * MIB / 512;
const AT: u64 = 3 * MIB + 512;

impl World {
    /// Switches a thin device of the pool on.
    fn activate(&self, id: u32) -> Volume<'_> {
        let node = self.switch_on(id, SECTORS);
        assert!(node.exists(), "the kernel makes the node itself");
        Volume {
            control: &self.control,
            uuid: self.uuid(id),
        }
    }

    fn tell(&self, message: Message) {
        self.say(message).unwrap();
    }
}

/// A thin device that is switched on.
struct Volume<'a> {
    control: &'a Control,
    uuid: String,
}

impl Volume<'_> {
    fn key(&self) -> Key<'_> {
        Key::Uuid(&self.uuid)
    }

    fn file(&self) -> File {
        let node = self.control.info(self.key()).unwrap().device.node();
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(node)
            .unwrap()
    }

    fn write(&self, data: &[u8]) {
        let file = self.file();
        file.write_all_at(data, AT).unwrap();
        file.sync_all().unwrap();
    }

    fn read(&self) -> Vec<u8> {
        let mut data = vec![0; 5];
        self.file().read_exact_at(&mut data, AT).unwrap();
        data
    }

    fn switch_off(self) {
        patiently(|| self.control.remove(self.key(), Remove::Now));
    }
}

fn loops_over(place: &Place) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").unwrap() {
        let file = entry.unwrap().path().join("loop/backing_file");
        let backing = std::fs::read_to_string(file).unwrap_or_default();
        if backing.starts_with(place.dir.as_str()) {
            found.push(backing.trim().to_owned());
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn set_up_written_taken_apart_and_put_together_with_its_data() {
    let Some(world) = World::new() else { return };
    world.pool.setup(SIZE).await.unwrap();
    let view = world.pool.view().await;
    assert_eq!(view.state, PoolState::Up, "{view:?}");
    assert_eq!(view.data.unwrap().used, Some(0));
    assert_eq!(view.last_check.unwrap().verdict, PoolVerdict::Good);
    let place = world.pool.place().clone();
    assert_eq!(
        loops_over(&place),
        [place.data(), place.metadata()].map(String::from)
    );

    world.tell(Message::CreateThin { id: 1 });
    let volume = world.activate(1);
    volume.write(b"first");
    // A snapshot of a device that is in use: suspended for that moment.
    world
        .control
        .suspend(volume.key(), Suspend::Flushed)
        .unwrap();
    world.tell(Message::CreateSnapshot { id: 2, origin: 1 });
    world.control.resume(volume.key()).unwrap();
    volume.write(b"later");
    world.tell(Message::SetTransactionId { from: 0, to: 1 });

    let used = world.pool.destroy(true).await;
    assert!(
        matches!(used, Err(PoolError::InUse { users: 1 })),
        "{used:?}"
    );
    volume.switch_off();
    let holds = world.pool.destroy(false).await;
    assert!(
        matches!(holds, Err(PoolError::HoldsData { .. })),
        "{holds:?}"
    );

    // As a reboot does, but for the memory that the kernel keeps.
    assert!(world.pool.take_down().await.unwrap());
    assert!(
        loops_over(&place).is_empty(),
        "loop devices free themselves"
    );
    assert_eq!(world.pool.view().await.state, PoolState::Down);
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!(world.pool.view().await.transaction_id, Some(1));
    let (origin, snapshot) = (world.activate(1), world.activate(2));
    assert_eq!(origin.read(), b"later");
    assert_eq!(snapshot.read(), b"first");
    origin.switch_off();
    snapshot.switch_off();

    world.pool.destroy(true).await.unwrap();
    assert!(!place.dir.exists());
    assert!(loops_over(&place).is_empty());
    assert!(matches!(
        world.control.info(world.ours()),
        Err(DmError::Absent { .. })
    ));
}

#[tokio::test]
async fn metadata_that_was_lost_or_damaged_is_not_put_together() {
    let Some(world) = World::new() else { return };
    world.pool.setup(SIZE).await.unwrap();
    world.tell(Message::CreateThin { id: 1 });
    world.pool.take_down().await.unwrap();
    let metadata = world.pool.place().metadata();
    let whole = std::fs::read(&metadata).unwrap();
    let mut hurt = whole.clone();
    hurt[100] ^= 0xff;
    for bad in [vec![0; whole.len()], hurt] {
        std::fs::write(&metadata, bad).unwrap();
        let refused = world.pool.bring_up().await;
        assert!(
            matches!(refused, Err(PoolError::Damaged { .. })),
            "{refused:?}"
        );
        assert_eq!(world.pool.view().await.state, PoolState::Damaged);
        assert!(loops_over(world.pool.place()).is_empty());
    }
    std::fs::write(&metadata, &whole).unwrap();
    world.pool.check().await.unwrap();
    assert_eq!(world.pool.view().await.state, PoolState::Up);
    // The thin device of before is known: making it again is refused.
    let again = Message::CreateThin { id: 1 }.to_string();
    assert!(world.control.message(world.ours(), &again).is_err());
    world.pool.destroy(true).await.unwrap();
}

#[tokio::test]
async fn a_device_of_others_with_our_name_stays() {
    let Some(world) = World::new() else { return };
    let place = world.pool.place().clone();
    world.control.create(&place.name, "THEIRS-1").unwrap();
    for refused in [
        world.pool.setup(SIZE).await.unwrap_err(),
        world.pool.take_down().await.unwrap_err(),
        world.pool.destroy(true).await.unwrap_err(),
    ] {
        assert!(matches!(refused, PoolError::Foreign { .. }), "{refused:?}");
    }
    assert_eq!(world.pool.view().await.state, PoolState::Foreign);
    assert!(!Path::new(place.dir.as_str()).exists());
    let theirs = Key::Uuid("THEIRS-1");
    assert_eq!(world.control.info(theirs).unwrap().name, place.name);
    world.control.remove(theirs, Remove::Now).unwrap();
}

#[tokio::test]
async fn a_making_that_was_cut_off_in_the_kernel_is_begun_anew() {
    let Some(world) = World::new() else { return };
    let place = world.pool.place().clone();
    world.pool.setup(SIZE).await.unwrap();
    world.pool.take_down().await.unwrap();
    // The daemon died between the device and its table.
    world.control.create(&place.name, &place.uuid).unwrap();
    assert_eq!(world.pool.view().await.state, PoolState::Down);
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!(world.pool.view().await.state, PoolState::Up);
    world.pool.destroy(false).await.unwrap();
}

#[test]
fn what_the_kernel_says_is_understood() {
    let Some(world) = World::new() else { return };
    let [major, minor, _] = world.control.version().unwrap();
    assert!(major == 4 && minor > 0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(world.pool.setup(SIZE)).unwrap();
    let kinds = world.control.targets().unwrap();
    for kind in ["thin-pool", "thin"] {
        assert!(kinds.iter().any(|target| target.kind == kind), "{kinds:?}");
    }
    let listed = world.control.list().unwrap();
    let name = &world.pool.place().name;
    assert!(listed.iter().any(|device| device.name == *name));
    let below = world.control.deps(world.ours()).unwrap();
    assert_eq!(below.len(), 2);
    let (_, table) = world.control.table(world.ours()).unwrap();
    for device in below {
        assert!(table[0].params.contains(&device.to_string()), "{table:?}");
    }
    let (_, status) = world.control.status(world.ours(), false).unwrap();
    let status: PoolStatus = status[0].params.parse().unwrap();
    assert!(
        matches!(
            status,
            PoolStatus::Works {
                queues: true,
                discard_passdown: true,
                needs_check: false,
                ..
            }
        ),
        "{status:?}"
    );

    world.tell(Message::CreateThin { id: 3 });
    let volume = world.activate(3);
    volume.write(b"block");
    let (_, status) = world.control.status(volume.key(), false).unwrap();
    let status: ThinStatus = status[0].params.parse().unwrap();
    assert_eq!(
        status,
        ThinStatus::Works {
            mapped_sectors: 128,
            highest: Some(AT / 512 / 128 * 128 + 127)
        }
    );
    // Removed when its last user lets go.
    let file = volume.file();
    let busy = world.control.remove(volume.key(), Remove::Now);
    assert!(matches!(busy, Err(DmError::Busy { .. })), "{busy:?}");
    world
        .control
        .remove(volume.key(), Remove::WhenClosed)
        .unwrap();
    drop(file);
    // The kernel's worker does it; the pool has the device open until then.
    let delete = Message::Delete { id: 3 }.to_string();
    patiently(|| world.control.message(world.ours(), &delete).map(drop));
    let gone = world.control.info(volume.key());
    assert!(matches!(gone, Err(DmError::Absent { .. })), "{gone:?}");
    runtime.block_on(world.pool.destroy(false)).unwrap();
}

#[test]
fn events_wake_who_waits() {
    let Some(world) = World::new() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(world.pool.setup(SIZE)).unwrap();
    let event = world.control.info(world.ours()).unwrap().event;
    let uuid = world.pool.place().uuid.clone();
    let waiter = std::thread::spawn(move || {
        let control = Control::open().unwrap();
        control.wait(Key::Uuid(&uuid), event).unwrap().event
    });
    // Fewer free blocks than the low water mark: the kernel says so, once.
    world.tell(Message::CreateThin { id: 1 });
    let volume = world.activate(1);
    let file = volume.file();
    let block = vec![1; 1 << 20];
    for at in 0..64 {
        file.write_all_at(&block, at * MIB).unwrap();
    }
    file.sync_all().unwrap();
    world.tell(Message::CreateThin { id: 2 });
    world.tell(Message::CreateThin { id: 3 });
    world.tell(Message::CreateThin { id: 4 });
    let others: Vec<_> = [2, 3, 4].map(|id| world.activate(id)).into_iter().collect();
    for other in &others {
        let file = other.file();
        for at in 0..56 {
            file.write_all_at(&block, at * MIB).unwrap();
        }
        file.sync_all().unwrap();
    }
    assert!(waiter.join().unwrap() > event);
    drop(file);
    volume.switch_off();
    for other in others {
        other.switch_off();
    }
    runtime.block_on(world.pool.destroy(true)).unwrap();
}
