//! A pool whose data is on a block device: a loop device, and a part of it that looks to everybody like a logical volume of
//! LVM's, which to the kernel is such a part.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_dm::thin::{Message, PoolStatus};
use hearth_dm::{Control, Device, DmError, Key, Remove, Table};
use hearth_host::loopdev::LoopDevice;
use hearth_pool::{PoolError, Unfit};
use hearth_types::InstallationId;
use hearth_types::pool::{ExtendPool, PoolState, SetUpPool};
use hearth_types::units::{GIB, MIB};

use super::file::file;
use super::loops_over;
use super::world::{World, patiently};

/// How long the kernel may take to take a disk off.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a device keeps free of data.
const ENDS: u64 = 2 * MIB;

/// A disk that can be taken off and put on again.
struct Disk {
    file: File,
    device: Option<LoopDevice>,
    _folder: tempfile::TempDir,
}

impl Disk {
    fn new(bytes: u64) -> Self {
        let (folder, file) = file(bytes);
        let device = Some(LoopDevice::attach(file.as_fd()).unwrap());
        Self {
            file,
            device,
            _folder: folder,
        }
    }

    fn device(&self) -> &LoopDevice {
        self.device.as_ref().unwrap()
    }

    fn name(&self) -> String {
        self.device().path().to_str().unwrap().to_owned()
    }

    /// Takes it off, and waits until the kernel has.
    fn take_off(&mut self) {
        let file = format!("/sys/dev/block/{}/loop/backing_file", self.number());
        drop(self.device.take());
        let end = Instant::now() + PATIENCE;
        while Path::new(&file).exists() {
            assert!(Instant::now() < end, "{file} is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn number(&self) -> Device {
        let (major, minor) = self.device().number().unwrap();
        Device { major, minor }
    }

    fn begin(&self) -> Vec<u8> {
        let mut begin = vec![0; 4096];
        let node = File::open(self.device().path()).unwrap();
        node.read_exact_at(&mut begin, 0).unwrap();
        begin
    }
}

fn on(device: &str) -> SetUpPool {
    SetUpPool {
        device: Some(device.to_owned()),
        ..SetUpPool::default()
    }
}

#[tokio::test]
async fn on_a_device_written_grown_moved_and_put_together_with_its_data() {
    let Some(world) = World::new() else { return };
    let mut disk = Disk::new(256 * MIB + ENDS);
    world.pool.set_up(&on(&disk.name())).await.unwrap();
    let view = world.pool.view().await;
    assert_eq!(view.state, PoolState::Up, "{view:?}");
    assert_eq!(view.data.unwrap().size, 256 * MIB);
    assert_eq!(view.data_device.unwrap().given, disk.name());
    let place = world.pool.place().clone();
    assert_eq!(loops_over(&place), [place.metadata()].map(String::from));

    world.tell(Message::CreateThin { id: 1 });
    let volume = world.activate(1);
    volume.write(b"first");
    // It is the pool's now, and nobody else's.
    let Some(other) = World::new() else { return };
    for force in [false, true] {
        let asked = SetUpPool {
            force,
            ..on(&disk.name())
        };
        let refused = other.pool.set_up(&asked).await;
        assert!(
            matches!(
                refused,
                Err(PoolError::Device {
                    unfit: Unfit::InUse,
                    ..
                })
            ),
            "{refused:?}"
        );
    }

    // While it is written to, it takes what the device has become larger by.
    assert_eq!(world.pool.keep_room().await.unwrap(), None);
    disk.file.set_len(512 * MIB + ENDS).unwrap();
    disk.device().refresh_capacity().unwrap();
    let grown = world.pool.keep_room().await.unwrap().unwrap();
    assert_eq!(grown.data, 512 * MIB);
    volume.write(b"later");
    let (_, status) = world.control.status(world.ours(), false).unwrap();
    let status: PoolStatus = status[0].params.parse().unwrap();
    let PoolStatus::Works { data, .. } = status else {
        unreachable!("{status:?}");
    };
    assert_eq!(data.total, 512 * MIB / (64 << 10));
    assert_eq!(volume.read(), b"later");
    volume.switch_off();

    // As a reboot does after which the disk has another name, or is not there.
    assert!(world.pool.take_down().await.unwrap());
    let before = disk.number();
    disk.take_off();
    let view = world.pool.view().await;
    assert_eq!(view.state, PoolState::Down, "its name is there: {view:?}");
    let lost = world.pool.bring_up().await.unwrap_err();
    assert!(
        matches!(
            lost,
            PoolError::Device {
                unfit: Unfit::Lost,
                ..
            }
        ),
        "{lost:?}"
    );
    let in_its_place = Disk::new(64 * MIB);
    disk.device = Some(LoopDevice::attach(disk.file.as_fd()).unwrap());
    assert!(in_its_place.number() != disk.number());
    println!("{before} is {} now", disk.number());
    assert!(world.pool.bring_up().await.unwrap());
    let volume = world.activate(1);
    assert_eq!(volume.read(), b"later");
    volume.switch_off();

    world.pool.destroy(true).await.unwrap();
    assert!(disk.begin().iter().all(|byte| *byte == 0));
    let gone = world
        .control
        .info(Key::Name(&format!("{}-data", place.name)));
    assert!(matches!(gone, Err(DmError::Absent { .. })), "{gone:?}");
    // It can be used again, by whoever comes first.
    other.pool.set_up(&on(&disk.name())).await.unwrap();
    other.pool.destroy(false).await.unwrap();
}

#[tokio::test]
async fn what_a_daemon_that_died_has_left_below_is_gone_on_with() {
    let Some(world) = World::new() else { return };
    let disk = Disk::new(256 * MIB + ENDS);
    world.pool.set_up(&on(&disk.name())).await.unwrap();
    world.pool.take_down().await.unwrap();
    let place = world.pool.place();
    let (name, uuid) = (
        format!("{}-data", place.name),
        format!("{}-data", place.uuid),
    );
    // It died after the device was made, and after it was switched on, and a growth was not begun.
    world.control.create(&name, &uuid).unwrap();
    assert!(world.pool.bring_up().await.unwrap());
    world.pool.take_down().await.unwrap();
    let key = Key::Uuid(&uuid);
    world.control.create(&name, &uuid).unwrap();
    let short = Table {
        start: 0,
        length: 128 * MIB / 512,
        kind: "linear".to_owned(),
        params: format!("{} 2048", disk.number()),
    };
    world.control.load(key, &[short], false).unwrap();
    world.control.resume(key).unwrap();
    assert!(world.pool.bring_up().await.unwrap());
    assert_eq!(world.pool.view().await.data.unwrap().size, 256 * MIB);
    world.pool.destroy(false).await.unwrap();
}

/// A logical volume of this size, as LVM would make it.
fn logical_volume(control: &Control, below: Device, bytes: u64) -> String {
    let id = InstallationId::new().to_string().replace('-', "");
    let (name, uuid) = (format!("vg--{id}-pool"), format!("LVM-{id}"));
    control.create(&name, &uuid).unwrap();
    lengthen(control, &uuid, below, bytes);
    uuid
}

fn lengthen(control: &Control, uuid: &str, below: Device, bytes: u64) {
    let table = Table {
        start: 0,
        length: bytes / 512,
        kind: "linear".to_owned(),
        // LVM's own header comes first.
        params: format!("{below} {}", 4 * MIB / 512),
    };
    control.load(Key::Uuid(uuid), &[table], false).unwrap();
    control.resume(Key::Uuid(uuid)).unwrap();
}

#[tokio::test]
async fn on_a_logical_volume_that_is_extended_under_it() {
    let Some(world) = World::new() else { return };
    let disk = Disk::new(GIB);
    let uuid = logical_volume(&world.control, disk.number(), 256 * MIB + ENDS);
    let node = world.control.info(Key::Uuid(&uuid)).unwrap().device.node();
    let name = node.to_str().unwrap();
    world.pool.set_up(&on(name)).await.unwrap();
    let device = world.pool.view().await.data_device.unwrap();
    let volume = device.volume.clone().unwrap();
    assert!(
        volume.starts_with("vg-") && volume.ends_with("/pool"),
        "{volume}"
    );
    assert!(
        device
            .how_to_extend()
            .contains(&format!("lvextend --size +10G {volume}"))
    );
    world.tell(Message::CreateThin { id: 1 });
    let thin = world.activate(1);
    thin.write(b"first");
    let full = world.pool.extend(&ExtendPool::default()).await.unwrap();
    assert_eq!(full.data, 256 * MIB, "all of it is the pool's already");

    lengthen(&world.control, &uuid, disk.number(), 512 * MIB + ENDS);
    let grown = world.pool.extend(&ExtendPool::default()).await.unwrap();
    assert_eq!(grown.data, 512 * MIB);
    assert_eq!(thin.read(), b"first");
    thin.switch_off();

    // A reboot after which its group is not active.
    world.pool.take_down().await.unwrap();
    patiently(|| world.control.remove(Key::Uuid(&uuid), Remove::Now));
    let view = world.pool.view().await;
    assert_eq!(view.state, PoolState::Unknown, "{view:?}");
    assert!(view.hint.unwrap().contains("vgchange"));
    assert!(world.pool.setup(None).await.is_err());
    let again = logical_volume(&world.control, disk.number(), 512 * MIB + ENDS);
    assert!(world.pool.bring_up().await.unwrap());
    let thin = world.activate(1);
    assert_eq!(thin.read(), b"first");
    thin.switch_off();
    world.pool.destroy(true).await.unwrap();
    patiently(|| world.control.remove(Key::Uuid(&again), Remove::Now));
}
