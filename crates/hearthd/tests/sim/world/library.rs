//! What the worlds of a process have in common: images, kernels, an empty database.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_image::{ImageStore, Limits};
use hearth_kernel::KernelStore;
use hearth_store::Store;
use hearth_types::ids::{ImageId, seeded};
use hearth_types::image::{ImageConfig, ImageRecord, KernelRecord};
use jiff::Timestamp;

/// What is the same in all worlds of a process.
pub(in super::super) struct Library {
    _dir: tempfile::TempDir,
    pub(super) images: ImageStore,
    pub(super) kernels: Arc<KernelStore>,
    pub(super) database: Utf8PathBuf,
}

/// The library of the worlds that there are, which goes with the last of them. Who makes many
/// worlds one after the other keeps it meanwhile.
pub(in super::super) fn library() -> Arc<Library> {
    static SHARED: Mutex<Weak<Library>> = Mutex::new(Weak::new());
    // A test that panicked meanwhile has made no library.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        // A thread of its own: no world's identifiers depend on who made it.
        let made = std::thread::spawn(|| {
            seeded::seed(Some(0));
            Library::new()
        });
        let made = Arc::new(made.join().unwrap());
        *shared = Arc::downgrade(&made);
        made
    })
}

impl Library {
    fn new() -> Self {
        let dir = folder();
        let data = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
        make_library(&data);
        let database = data.join("hearth.db");
        drop(Store::open_in_place(&database).unwrap());
        Self {
            images: ImageStore::open(&data.join("images"), Limits::default()).unwrap(),
            kernels: Arc::new(KernelStore::open(data.join("kernels")).unwrap()),
            database,
            _dir: dir,
        }
    }
}

/// One image and one kernel, as their stores lay them out; nothing in them is ever run.
fn make_library(data: &Utf8Path) {
    let image = ImageRecord {
        id: image_id(),
        references: Vec::new(),
        source: "test".to_owned(),
        architecture: "amd64".to_owned(),
        created: None,
        imported_at: Timestamp::UNIX_EPOCH,
        volume_bytes: 1 << 20,
        disk_bytes: 0,
        layers: 1,
        config: ImageConfig {
            cmd: vec!["/bin/true".to_owned()],
            ..ImageConfig::default()
        },
        origin: None,
        chain: Vec::new(),
    };
    let folder = data.join("images/images").join(image.id.hex());
    write_json(&folder.join("image.json"), &image);
    let record = KernelRecord {
        name: "test".to_owned(),
        version: "1".to_owned(),
        digest: "sha256:0".to_owned(),
        default: true,
        has_bzimage: true,
        has_elf: false,
        modules: Vec::new(),
        initramfs_bytes: 4,
        imported_at: Timestamp::UNIX_EPOCH,
    };
    let mut kernel = serde_json::to_value(&record).unwrap();
    kernel["builder"] = 1.into();
    kernel["initramfs_digest"] = "sha256:0".into();
    let folder = data.join("kernels/test");
    write_json(&folder.join("record.json"), &kernel);
    std::fs::write(folder.join("initramfs"), [0; 4]).unwrap();
}

fn write_json(path: &Utf8Path, value: &impl serde::Serialize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}

pub(super) fn image_id() -> ImageId {
    format!("sha256:{}", "5".repeat(64)).parse().unwrap()
}

/// Databases are synced at each commit: in memory that costs nothing.
pub(super) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}
