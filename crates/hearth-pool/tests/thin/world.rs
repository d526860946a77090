//! A pool, its ledger and its volumes, on a host in memory.

use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::FileVolumes;
use hearth_pool::fake::FakeGround;
use hearth_pool::thin::MemoryLedger;
use hearth_pool::{
    Choice, Ground, HelperGround, Helpers, Ledger, Place, Pool, Started, ThinError, ThinGround,
    ThinVolumes, Thins, serve_helper,
};
use hearth_types::InstallationId;
use hearth_types::thin::{NewThin, ThinDevice, ThinState};
use hearth_types::units::Bytes;

/// A ledger that ends with the power: its writes count as steps.
#[derive(Clone)]
pub(crate) struct CutLedger {
    ground: FakeGround,
    entries: MemoryLedger,
}

impl CutLedger {
    /// Writes an entry as if it had always been there.
    pub(crate) fn put_now(&self, device: ThinDevice) {
        futures_now(self.entries.put(device)).unwrap();
    }
}

/// The ledger in memory never waits.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[async_trait]
impl Ledger for CutLedger {
    async fn devices(&self) -> Result<Vec<ThinDevice>, ThinError> {
        self.entries.devices().await
    }

    async fn begin(&self, new: NewThin) -> Result<ThinDevice, ThinError> {
        let mut made = None;
        self.ground
            .step(|| made = Some(futures_now(self.entries.begin(new))))?;
        made.unwrap()
    }

    async fn put(&self, device: ThinDevice) -> Result<(), ThinError> {
        let mut done = Ok(());
        self.ground
            .step(|| done = futures_now(self.entries.put(device)))?;
        done
    }

    async fn forget(&self, id: u32) -> Result<(), ThinError> {
        self.ground
            .step(|| drop(futures_now(self.entries.forget(id))))?;
        Ok(())
    }
}

pub(crate) struct World {
    pub(crate) ground: FakeGround,
    pub(crate) ledger: CutLedger,
    pub(crate) pool: Pool,
    pub(crate) thins: Thins,
    pub(crate) volumes: ThinVolumes,
    pub(crate) folder: Utf8PathBuf,
    place: Place,
    choice: Choice,
    _folder: tempfile::TempDir,
}

impl World {
    /// A host without a pool.
    pub(crate) fn new(choice: Choice) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(temporary.path()).unwrap();
        let place = Place::new(&root.join("pool"), InstallationId::new());
        let folder = root.join("vm");
        std::fs::create_dir(&folder).unwrap();
        let ground = FakeGround::default();
        let ledger = CutLedger {
            ground: ground.clone(),
            entries: MemoryLedger::default(),
        };
        let (pool, thins, volumes) = rooms(&place, &ground, &ledger, choice);
        Self {
            ground,
            ledger,
            pool,
            thins,
            volumes,
            folder,
            place,
            choice,
            _folder: temporary,
        }
    }

    /// A host with a pool.
    pub(crate) async fn up() -> Self {
        let world = Self::new(Choice::Thin);
        world.pool.setup(Some(Bytes::mib(256))).await.unwrap();
        world
    }

    /// The daemon begins anew.
    pub(crate) fn restart(&mut self) {
        let rooms = rooms(&self.place, &self.ground, &self.ledger, self.choice);
        (self.pool, self.thins, self.volumes) = rooms;
    }

    /// The host and the daemon begin anew.
    pub(crate) fn reboot(&mut self) {
        self.ground.reboot();
        self.restart();
    }

    pub(crate) async fn state(&self, id: u32) -> Option<ThinState> {
        let all = self.thins.devices().await.unwrap();
        let found = all.into_iter().find(|device| device.id == id);
        found.map(|device| device.state)
    }
}

fn rooms(
    place: &Place,
    ground: &FakeGround,
    ledger: &CutLedger,
    choice: Choice,
) -> (Pool, Thins, ThinVolumes) {
    let (of_pool, of_thins) = over(ground);
    let pool = Pool::new(place.clone(), of_pool);
    let thins = Thins::new(pool.clone(), of_thins, Arc::new(ledger.clone()));
    let files = Arc::new(FileVolumes::new(Bytes(0)));
    let volumes = ThinVolumes::new(thins.clone(), files, choice);
    (pool, thins, volumes)
}

/// The ground as it is, or with a helper before it where the tests are those of `thin_by_helper`.
fn over(ground: &FakeGround) -> (Arc<dyn Ground>, Arc<dyn ThinGround>) {
    if !module_path!().contains("by_helper") {
        return (Arc::new(ground.clone()), Arc::new(ground.clone()));
    }
    let kernel = ground.clone();
    let helpers = Helpers::new(move || {
        let (stream, theirs) = std::os::unix::net::UnixStream::pair()?;
        let kernel = kernel.clone();
        std::thread::spawn(move || serve_helper(theirs, &kernel));
        let process = None;
        Ok(Started { stream, process })
    });
    let over = HelperGround::new(Arc::new(ground.clone()), helpers);
    (Arc::new(over.clone()), Arc::new(over))
}
