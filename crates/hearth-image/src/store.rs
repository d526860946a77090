//! The image store: a folder of sealed images, verified blobs and names.
//!
//! ```text
//! DIR/blobs/sha256/HEX           a verified download
//! DIR/blobs/sha256/HEX.partial   one that can be resumed
//! DIR/images/HEX/image.json      what is known of an image
//! DIR/images/HEX/root.img        its volume
//! DIR/images/.tmp-*              work in progress; removed when the store is opened
//! DIR/jobs/ID.json               a pull or import, under way or ended
//! DIR/objects/HEX.json           what came from an object of S3, by place and ETag
//! DIR/refs.json                  name → image id
//! ```
//!
//! An image exists when its folder has its name: it is built in a temporary folder, written
//! out and renamed. One process at a time may have the store open. Work on one digest is
//! done by one task; a second one waits for it and finds the result.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::aside::aside;
use hearth_types::api::ImportKind;
use hearth_types::ids::ImageId;
use hearth_types::image::ImageRecord;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use crate::name::Name;
use crate::progress::{self, Reporter};
use crate::{ImageError, Layers, Limits, ProgressSink, PullRequest, digest, import, pull};

/// Prefix of temporary folders in `images`.
const TEMPORARY: &str = ".tmp-";
/// The volume's file in an image's folder.
pub(crate) const VOLUME: &str = "root.img";
const RECORD: &str = "image.json";
const REFS: &str = "refs.json";

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    dir: Utf8PathBuf,
    pub(crate) limits: Limits,
    refs: Mutex<BTreeMap<String, ImageId>>,
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Places for images that are downloaded.
    pub(crate) downloads: Arc<Semaphore>,
    /// Places for layers that are unpacked.
    pub(crate) unpacks: Arc<Semaphore>,
    /// Where layers are shared, if they are.
    pub(crate) layers: OnceLock<Arc<dyn Layers>>,
}

/// `image.json`: the record (its references live in `refs.json`) and the blobs it came from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sealed {
    #[serde(flatten)]
    pub(crate) record: ImageRecord,
    #[serde(default)]
    pub(crate) blobs: Vec<String>,
}

/// The right to work on one digest; others wait.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl ImageStore {
    /// Opens a store, making its folders, and removes what crashed work has left.
    ///
    /// # Errors
    /// When a folder cannot be made or read, or `refs.json` is damaged.
    pub fn open(dir: &Utf8Path, limits: Limits) -> Result<Self, ImageError> {
        for folder in ["blobs/sha256", "images", "objects", "jobs"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(ImageError::file("create", &path))?;
        }
        remove_leftovers(&dir.join("images"))?;
        let path = dir.join(REFS);
        let mut refs: BTreeMap<String, ImageId> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| ImageError::Damaged {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(ImageError::file("read", &path)(error)),
        };
        // A crash between the removal of an image and that of its names.
        refs.retain(|_, id| dir.join("images").join(id.hex()).join(RECORD).exists());
        let inner = Inner {
            downloads: Arc::new(Semaphore::new(limits.downloads.max(1))),
            unpacks: Arc::new(Semaphore::new(limits.unpacks.max(1))),
            dir: dir.to_owned(),
            limits,
            refs: Mutex::new(refs),
            locks: Mutex::new(HashMap::new()),
            layers: OnceLock::new(),
        };
        inner.remove_stale_blobs(SystemTime::now());
        inner.forget_objects();
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Pulls an image from a registry, or finds that it is here already.
    ///
    /// Dropping the future stops the work; downloads so far are kept for the next time.
    ///
    /// # Errors
    /// When the registry fails or the image is refused; the store is then as before, apart
    /// from verified blobs.
    pub async fn pull(
        &self,
        request: PullRequest,
        sink: &dyn ProgressSink,
    ) -> Result<ImageRecord, ImageError> {
        let (reporter, reports) = Reporter::channel();
        progress::relay(pull::run(self, request, None, reporter), reports, sink).await
    }

    /// Imports an image from a file or folder on this host and gives it a reference. The kind
    /// is guessed from the content when it is not given.
    ///
    /// # Errors
    /// When the file cannot be read or is refused; the store is then as before.
    pub async fn import(
        &self,
        path: &Utf8Path,
        reference: &str,
        kind: Option<ImportKind>,
        sink: &dyn ProgressSink,
    ) -> Result<ImageRecord, ImageError> {
        let (reporter, reports) = Reporter::channel();
        let work = import::run(self, path, reference, kind, reporter);
        progress::relay(work, reports, sink).await
    }

    /// All images, by id.
    ///
    /// # Errors
    /// When the folder or a record cannot be read: a list that is not whole is no list.
    pub async fn list(&self) -> Result<Vec<ImageRecord>, ImageError> {
        self.blocking(|inner| {
            let sealed = inner.all()?;
            Ok(sealed
                .into_iter()
                .map(|sealed| inner.named(sealed.record))
                .collect())
        })
        .await
    }

    /// The image of a reference, an id (with or without `sha256:`) or a prefix of an id of at
    /// least four digits. References go first.
    ///
    /// # Errors
    /// When there is none, the prefix fits several, or the record cannot be read.
    pub async fn get(&self, name: &str) -> Result<ImageRecord, ImageError> {
        let (name, inner) = (name.to_owned(), Arc::clone(&self.inner));
        let read = aside(move || {
            let (id, _) = inner.resolve(&name)?;
            Ok(inner.named(inner.read(&id)?.record))
        });
        read.await.map_err(|e| ImageError::Volume(Box::new(e)))?
    }

    /// Gives an image one more reference; one that led elsewhere now leads here.
    ///
    /// # Errors
    /// When the image is not there or the reference is malformed.
    pub async fn tag(&self, name: &str, reference: &str) -> Result<ImageRecord, ImageError> {
        let reference = Name::Reference(reference.parse()?);
        let name = name.to_owned();
        let (id, _) = self.blocking(move |inner| inner.resolve(&name)).await?;
        self.name(reference, id).await
    }

    /// Lets a reference lead to an image, unless that has been removed meanwhile.
    pub(crate) async fn name(&self, name: Name, id: ImageId) -> Result<ImageRecord, ImageError> {
        let turn = self.turn(id.as_str()).await;
        self.blocking(move |inner| {
            let _turn = turn;
            let record = inner.read(&id)?.record;
            inner.set_reference(&name, &id)?;
            Ok(inner.named(record))
        })
        .await
    }

    /// Where an image's volume is. It must be copied before it is written to.
    #[must_use]
    pub fn volume_path(&self, id: &ImageId) -> Utf8PathBuf {
        self.inner.image_dir(id).join(VOLUME)
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|e| ImageError::Volume(Box::new(e)))?
    }

    /// Waits for the right to work on `key`.
    pub(crate) async fn turn(&self, key: &str) -> Turn {
        self.lock_of(key).lock_owned().await
    }

    /// The same, if nobody else has it at this moment.
    pub(crate) fn turn_now(&self, key: &str) -> Option<Turn> {
        self.lock_of(key).try_lock_owned().ok()
    }

    /// The same, and says so when somebody else has it.
    pub(crate) async fn turn_after(&self, key: &str, reporter: &Reporter) -> Turn {
        let lock = self.lock_of(key);
        if let Ok(turn) = Arc::clone(&lock).try_lock_owned() {
            return turn;
        }
        reporter.waits(Some("another pull of the same"));
        let turn = lock.lock_owned().await;
        reporter.waits(None);
        turn
    }

    fn lock_of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.inner.locks);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

impl Inner {
    pub(crate) fn image_dir(&self, id: &ImageId) -> Utf8PathBuf {
        self.dir.join("images").join(id.hex())
    }

    pub(crate) fn blob_path(&self, digest: &str) -> Result<Utf8PathBuf, ImageError> {
        Ok(self.blobs_dir().join(digest::hex(digest)?))
    }

    pub(crate) fn jobs_dir(&self) -> Utf8PathBuf {
        self.dir.join("jobs")
    }

    pub(crate) fn objects_dir(&self) -> Utf8PathBuf {
        self.dir.join("objects")
    }

    pub(crate) fn blobs_dir(&self) -> Utf8PathBuf {
        self.dir.join("blobs/sha256")
    }

    /// A new temporary folder for an image; it goes away when dropped.
    pub(crate) fn temporary(&self) -> Result<tempfile::TempDir, ImageError> {
        let images = self.dir.join("images");
        tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&images)
            .map_err(ImageError::file("create a folder in", &images))
    }

    /// Makes a finished temporary folder an image. If it is there already, that one stays.
    pub(crate) fn seal(
        &self,
        folder: tempfile::TempDir,
        sealed: &Sealed,
    ) -> Result<(), ImageError> {
        let path = Utf8PathBuf::try_from(folder.path().to_owned())
            .map_err(|e| ImageError::Volume(Box::new(e)))?;
        if self.seal_at(&path, sealed)? {
            // The folder has moved: there is nothing left to clean up.
            drop(folder.keep());
        }
        Ok(())
    }

    /// The same with a finished folder that somebody else cleans up; whether it was moved.
    pub(crate) fn seal_at(&self, path: &Utf8Path, sealed: &Sealed) -> Result<bool, ImageError> {
        let target = self.image_dir(&sealed.record.id);
        let mut doomed = None;
        if target.join(RECORD).exists() {
            if self.read(&sealed.record.id)?.record.chain.is_empty() {
                return Ok(false);
            }
            // Its volume was lost with its pool, else nobody would have made it again.
            let old = self.temporary()?;
            let aside = old.path().join("image");
            fs::rename(&target, &aside).map_err(ImageError::file("replace", &target))?;
            doomed = Some(old);
        }
        write_durably(&path.join(RECORD), sealed)?;
        sync_folder(path)?;
        fs::rename(path, &target).map_err(ImageError::file("create", &target))?;
        drop(doomed);
        sync_folder(&self.dir.join("images"))?;
        Ok(true)
    }

    pub(crate) fn read(&self, id: &ImageId) -> Result<Sealed, ImageError> {
        let path = self.image_dir(id).join(RECORD);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ImageError::NotFound(id.to_string()),
            _ => ImageError::file("read", &path)(error),
        })?;
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Damaged { path, source })
    }

    /// The image if it is here.
    pub(crate) fn find(&self, id: &ImageId) -> Result<Option<ImageRecord>, ImageError> {
        match self.read(id) {
            Ok(sealed) => Ok(Some(self.named(sealed.record))),
            Err(ImageError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn all(&self) -> Result<Vec<Sealed>, ImageError> {
        self.ids()?.iter().map(|id| self.read(id)).collect()
    }

    fn ids(&self) -> Result<Vec<ImageId>, ImageError> {
        let images = self.dir.join("images");
        let failed = ImageError::file("read", &images);
        let names = fs::read_dir(&images)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(failed)?;
        let mut ids: Vec<ImageId> = names
            .iter()
            .filter_map(|name| format!("sha256:{}", name.to_str()?).parse().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// The id that a name leads to, and whether the name is a reference.
    pub(crate) fn resolve(&self, name: &str) -> Result<(ImageId, Option<String>), ImageError> {
        if let Ok(reference) = name.parse::<Name>() {
            let full = reference.to_string();
            if let Some(id) = lock(&self.refs).get(&full) {
                return Ok((id.clone(), Some(full)));
            }
        }
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        let hex = digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() < 4 || !hex {
            return Err(ImageError::NotFound(name.to_owned()));
        }
        let mut fitting = self.ids()?;
        fitting.retain(|id| id.hex().starts_with(digits));
        match fitting.len() {
            0 => Err(ImageError::NotFound(name.to_owned())),
            1 => Ok((fitting.remove(0), None)),
            count => Err(ImageError::Ambiguous {
                prefix: name.to_owned(),
                count,
            }),
        }
    }

    /// Makes a reference lead to an image, durably.
    pub(crate) fn set_reference(&self, name: &Name, id: &ImageId) -> Result<(), ImageError> {
        self.change_references(|refs| {
            refs.insert(name.to_string(), id.clone());
        })
    }

    pub(crate) fn change_references(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, ImageId>),
    ) -> Result<(), ImageError> {
        let mut refs = lock(&self.refs);
        let mut changed = refs.clone();
        change(&mut changed);
        if changed != *refs {
            replace_durably(&self.dir, REFS, &changed)?;
            *refs = changed;
        }
        Ok(())
    }

    /// The references that lead to an image.
    pub(crate) fn references(&self, id: &ImageId) -> Vec<String> {
        lock(&self.refs)
            .iter()
            .filter(|(_, other)| *other == id)
            .map(|(reference, _)| reference.clone())
            .collect()
    }

    /// A record with its references put in.
    pub(crate) fn named(&self, mut record: ImageRecord) -> ImageRecord {
        record.references = self.references(&record.id);
        record
    }
}

/// Bytes that a file takes on the disk.
pub(crate) fn disk_bytes(path: &Utf8Path) -> Result<u64, ImageError> {
    let blocks = fs::metadata(path)
        .map_err(ImageError::file("measure", path))?
        .blocks();
    // st_blocks counts 512 bytes each, whatever the file system's block size.
    Ok(blocks * 512)
}

pub(crate) fn sync_folder(path: &Utf8Path) -> Result<(), ImageError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(ImageError::file("write out", path))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is replaced whole, so a panic cannot have left half of it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_durably(path: &Utf8Path, value: &impl Serialize) -> Result<(), ImageError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| ImageError::Damaged {
        path: path.to_owned(),
        source,
    })?;
    bytes.push(b'\n');
    File::create(path)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        })
        .map_err(ImageError::file("write", path))
}

pub(crate) fn replace_durably(
    dir: &Utf8Path,
    name: &str,
    value: &impl Serialize,
) -> Result<(), ImageError> {
    let temporary = dir.join(format!("{name}.tmp"));
    let path = dir.join(name);
    write_durably(&temporary, value)?;
    fs::rename(&temporary, &path).map_err(ImageError::file("replace", &path))?;
    sync_folder(dir)
}

fn remove_leftovers(images: &Utf8Path) -> Result<(), ImageError> {
    let failed = |error| ImageError::file("read", images)(error);
    for entry in fs::read_dir(images).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(TEMPORARY)) else {
            continue;
        };
        let path = images.join(name);
        tracing::info!(path = %path, "[recovery] removing an unfinished image");
        fs::remove_dir_all(&path).map_err(ImageError::file("remove", &path))?;
    }
    Ok(())
}
