//! The load: volumes made, written, snapshotted and removed, the pool extended and backed up, and
//! what of it was acknowledged when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use camino::Utf8Path;
use hearth_dm::Device;
use hearth_pool::thin::Wanted;
use hearth_pool::{HostGround, Place, Pool, Thins};
use hearth_types::InstallationId;
use hearth_types::pool::ExtendPool;
use hearth_types::thin::{ThinDevice, ThinKind};
use hearth_types::units::{Bytes, MIB};

use crate::disk::Disk;
use crate::ledger::FileLedger;
use crate::random::Random;

/// Of the pool at the beginning, and of each extension.
const DATA: Bytes = Bytes::mib(64);
const MORE: Bytes = Bytes::mib(16);
/// Of a volume.
const SIZE: u64 = 2 * MIB;
/// Volumes that may be there at once.
const NAMES: usize = 10;
/// Where a volume says what it holds.
const AT: u64 = MIB + 4096;
const MARKER: usize = 4096;

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moment {
    /// What each volume that was acknowledged holds.
    pub holds: BTreeMap<String, u64>,
    /// What was asked for and not acknowledged yet, and what the volume holds then.
    pub open: Option<(String, Option<u64>)>,
    /// All ids that were ever handed out, and to whom.
    pub ids: BTreeMap<u32, String>,
    /// How much data the pool has, if it was acknowledged.
    pub data: u64,
}

/// Pool and volumes of a disk that is mounted.
pub(crate) struct World {
    pub pool: Pool,
    pub thins: Thins,
}

impl World {
    pub(crate) async fn open(folder: &Utf8Path, installation: InstallationId) -> Self {
        let place = Place::new(&folder.join("pool"), installation);
        let pool = Pool::new(place, Arc::new(HostGround));
        let ledger = Arc::new(FileLedger::open(folder).await);
        let thins = Thins::new(pool.clone(), Arc::new(HostGround), ledger);
        Self { pool, thins }
    }

    pub(crate) async fn set_up(&self) {
        self.pool.setup(Some(DATA)).await.unwrap();
    }

    pub(crate) async fn named(&self, name: &str) -> ThinDevice {
        let found = self.thins.find(name).await.unwrap();
        found.unwrap_or_else(|| panic!("{name} is not there"))
    }

    pub(crate) async fn make(&self, name: &str, origin: Option<u32>) -> ThinDevice {
        let wanted = Wanted {
            name: name.to_owned(),
            kind: ThinKind::Data,
            bytes: SIZE,
            origin,
        };
        self.thins.make(&wanted).await.unwrap()
    }

    /// Switches all off, and the pool with it.
    pub(crate) async fn close(&self) {
        self.thins.let_go().await.unwrap();
        self.pool.take_down().await.unwrap();
    }

    /// How much data the pool has.
    pub(crate) async fn data(&self) -> u64 {
        self.pool.view().await.data.unwrap().size
    }
}

/// Writes what a volume holds, and something else of which nobody was told that it is there.
fn write(device: Device, content: u64) {
    let file = OpenOptions::new().write(true).open(device.node()).unwrap();
    file.write_all_at(&content.to_le_bytes().repeat(MARKER / 8), AT)
        .unwrap();
    file.sync_data().unwrap();
    let elsewhere = content % 15 * (64 << 10);
    file.write_all_at(&[0xee; MARKER], elsewhere).unwrap();
}

/// What a volume holds: of each sector of its marker. A write of several sectors may be cut off
/// between them.
pub(crate) fn read(device: Device) -> BTreeSet<u64> {
    let file = OpenOptions::new().read(true).open(device.node()).unwrap();
    let mut marker = [0; MARKER];
    file.read_exact_at(&mut marker, AT).unwrap();
    let numbers = marker.chunks_exact(8);
    numbers
        .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// Works on the disk that is recorded. The moments, by the numbers of their marks.
pub(crate) async fn load(
    disk: &Disk,
    installation: InstallationId,
    operations: usize,
    random: &mut Random,
) -> Vec<Moment> {
    let mut load = Load {
        disk,
        world: World::open(&disk.mount_point(), installation).await,
        moments: vec![Moment::default()],
        content: 0,
    };
    load.disk.mark("0");
    load.world.set_up().await;
    load.acknowledge(|now| now.data = DATA.0);
    for number in 0..operations {
        if number % 25 == 24 {
            load.extend().await;
        } else if number % 25 == 12 {
            load.world.pool.back_up().await.unwrap();
        } else if number % 10 == 9 {
            assert!(load.world.thins.compare().await.unwrap().is_empty());
        } else {
            load.work(random).await;
        }
    }
    load.world.close().await;
    load.moments
}

struct Load<'a> {
    disk: &'a Disk,
    world: World,
    moments: Vec<Moment>,
    content: u64,
}

impl Load<'_> {
    fn now(&mut self) -> &mut Moment {
        self.moments.last_mut().unwrap()
    }

    /// Somebody asks for a change of a volume.
    fn ask(&mut self, name: &str, then: Option<u64>) {
        self.now().open = Some((name.to_owned(), then));
    }

    /// … and is told that it is done.
    fn acknowledge(&mut self, change: impl FnOnce(&mut Moment)) {
        let mut next = self.now().clone();
        if let Some((name, then)) = next.open.take() {
            match then {
                Some(content) => drop(next.holds.insert(name, content)),
                None => drop(next.holds.remove(&name)),
            }
        }
        change(&mut next);
        self.disk.mark(&self.moments.len().to_string());
        self.moments.push(next);
    }

    /// A new volume's id was never anybody else's.
    fn acknowledge_new(&mut self, device: &ThinDevice) {
        let name = device.name.clone();
        let before = self.now().ids.get(&device.id).cloned();
        assert_eq!(before, None, "the id {} was another's", device.id);
        self.acknowledge(|now| drop(now.ids.insert(device.id, name)));
    }

    async fn work(&mut self, random: &mut Random) {
        let name = format!("v{}", random.below(NAMES));
        let Some(content) = self.now().holds.get(&name).copied() else {
            return match random.below(2) {
                0 => self.fill(&name).await,
                _ => self.snapshot(&name, random).await,
            };
        };
        match random.below(5) {
            0..2 => {
                self.ask(&name, None);
                self.world.thins.remove(|it| it.name == name).await.unwrap();
                self.acknowledge(|_| ());
            }
            2 => {
                // One that is there is asked for again: nothing changes.
                let device = self.world.make(&name, None).await;
                let on = self.world.thins.activate(&device).await.unwrap();
                assert_eq!(read(on), BTreeSet::from([content]));
            }
            _ => {
                self.content += 1;
                self.ask(&name, Some(self.content));
                let device = self.world.named(&name).await;
                write(
                    self.world.thins.activate(&device).await.unwrap(),
                    self.content,
                );
                self.acknowledge(|_| ());
            }
        }
    }

    async fn fill(&mut self, name: &str) {
        self.content += 1;
        self.ask(name, Some(self.content));
        let made = self.world.make(name, None).await;
        write(
            self.world.thins.activate(&made).await.unwrap(),
            self.content,
        );
        let device = self.world.thins.filled(made).await.unwrap();
        self.acknowledge_new(&device);
    }

    async fn snapshot(&mut self, name: &str, random: &mut Random) {
        let all: Vec<_> = self.now().holds.clone().into_iter().collect();
        let Some((origin, content)) = all.get(random.below(all.len())) else {
            return self.fill(name).await;
        };
        self.ask(name, Some(*content));
        let origin = self.world.named(origin).await;
        let device = self.world.make(name, Some(origin.id)).await;
        self.acknowledge_new(&device);
    }

    async fn extend(&mut self) {
        let more = ExtendPool {
            by: Some(MORE),
            ..ExtendPool::default()
        };
        let grown = self.world.pool.extend(&more).await.unwrap();
        self.acknowledge(|now| now.data = grown.data);
    }
}
