//! A pool on a host in memory that has room for more.

use std::sync::Arc;

use camino::Utf8PathBuf;
use hearth_pool::fake::FakeGround;
use hearth_pool::space::Room;
use hearth_pool::{Place, Pool};
use hearth_types::InstallationId;
use hearth_types::units::{Bytes, GIB};

/// A pool of 64 MiB that has something in it.
pub(crate) struct World {
    pub(crate) ground: FakeGround,
    pub(crate) pool: Pool,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(folder.path().join("pool")).unwrap();
        let ground = FakeGround::default();
        ground.set_room(roomy());
        let place = Place::new(&dir, InstallationId::new());
        let pool = Pool::new(place, Arc::new(ground.clone()));
        pool.setup(Some(Bytes::mib(64))).await.unwrap();
        ground.store(pool.place(), 7).unwrap();
        Self {
            ground,
            pool,
            _folder: folder,
        }
    }

    /// A daemon that knows nothing of the one before.
    pub(crate) fn restart(&mut self) {
        self.pool = Pool::new(self.pool.place().clone(), Arc::new(self.ground.clone()));
    }
}

pub(crate) fn roomy() -> Room {
    Room::Files {
        free: 100 * GIB,
        total: 200 * GIB,
        allotted: 0,
    }
}
