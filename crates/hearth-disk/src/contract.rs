//! What every implementation of [`Volumes`] must keep, as one function for its tests.
//!
//! An implementation brings its [`Ground`]: how a test makes a source volume and looks into a
//! volume, which for files is plain reading and for a simulated host is memory.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::units::{Bytes, MIB};
use hearth_types::volume::StorageKind;

use crate::{Borrower, DiskError, Made, Volumes};

/// The test's own access to the ground that volumes stand on.
pub trait Ground: Sync {
    /// A path for a volume of this name, in a folder that exists.
    fn path(&self, name: &str) -> Utf8PathBuf;
    /// Makes a volume of `size` that holds `data` at `offset` and zeros else.
    fn put(&self, path: &Utf8Path, size: Bytes, offset: u64, data: &[u8]);
    /// The size of a volume; `None` when there is none.
    fn size(&self, path: &Utf8Path) -> Option<Bytes>;
    /// Bytes of a volume that is there.
    fn read(&self, path: &Utf8Path, offset: u64, length: usize) -> Vec<u8>;
    /// Overwrites bytes of a volume that is there, as a guest does.
    fn write(&self, path: &Utf8Path, offset: u64, data: &[u8]);
    /// Owner and permission bits of a volume that is there.
    fn owner_and_mode(&self, path: &Utf8Path) -> (u32, u32);
    /// Names of everything that is there.
    fn names(&self) -> Vec<String>;
}

/// A folder whose names are volumes: files, or nodes of devices, which are read as files are.
pub trait InFolder: Sync {
    /// The folder.
    fn folder(&self) -> &Utf8Path;
}

impl<T: InFolder> Ground for T {
    fn path(&self, name: &str) -> Utf8PathBuf {
        self.folder().join(name)
    }

    fn put(&self, path: &Utf8Path, size: Bytes, offset: u64, data: &[u8]) {
        let file = File::create_new(path).expect("a new file");
        file.set_len(size.0).expect("a file has any size");
        file.write_all_at(data, offset).expect("it can be written");
    }

    fn size(&self, path: &Utf8Path) -> Option<Bytes> {
        // The metadata of a node do not say it.
        let mut file = File::open(path).ok()?;
        file.seek(SeekFrom::End(0)).ok().map(Bytes)
    }

    fn read(&self, path: &Utf8Path, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let file = File::open(path).expect("a volume that is there");
        let read = file.read_exact_at(&mut bytes, offset);
        read.expect("it has so many bytes");
        bytes
    }

    fn write(&self, path: &Utf8Path, offset: u64, data: &[u8]) {
        let file = File::options().write(true).open(path);
        let file = file.expect("a volume that is there");
        file.write_all_at(data, offset).expect("it can be written");
        file.sync_all().expect("it can be synced");
    }

    fn owner_and_mode(&self, path: &Utf8Path) -> (u32, u32) {
        let meta = path.metadata().expect("a volume that is there");
        (meta.uid(), meta.mode() & 0o7777)
    }

    fn names(&self) -> Vec<String> {
        let entries = self.folder().read_dir_utf8().expect("a folder");
        let names = entries.map(|entry| entry.expect("a name").file_name().to_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

const SIZE: Bytes = Bytes::mib(8);
const GROWN: Bytes = Bytes::mib(24);
const AT: u64 = 5 * MIB + 123;
const DATA: &[u8] = b"what the image holds";

/// Runs the whole contract. `owner` is a uid that the volumes can be given to.
///
/// # Panics
/// When the implementation breaks it.
pub async fn contract(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    clones(volumes, ground, owner).await;
    refusals_leave_nothing(volumes, ground, owner).await;
    empty_volumes(volumes, ground, owner).await;
    grows(volumes, ground, owner).await;
    clones_of_clones(volumes, ground, owner).await;
    folders_are_cleared(volumes, ground, owner).await;
    duplicates_take_the_place(volumes, ground, owner).await;
    images_are_made_of_volumes(volumes, ground, owner).await;
    lent_and_taken_back(volumes, ground, owner).await;
    converted(volumes, ground, owner).await;
}

/// A second name is the same volume, of whoever it is lent to, and nothing is lost with it.
async fn lent_and_taken_back(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let [path, at, next] = ["kept", "lent", "next"].map(|it| ground.path(it));
    let made = volumes.create_ext4(&path, SIZE, "kept", 0).await;
    made.expect("an empty volume is made");
    for read_only in [false, true, false] {
        let to = Borrower { owner, read_only };
        for _ in 0..2 {
            volumes.lend(&path, &at, to).await.expect("it is lent");
        }
        assert_eq!(ground.owner_and_mode(&at), to.owner_and_mode());
        assert_eq!(ground.size(&at), Some(SIZE));
    }
    ground.write(&at, AT, b"CHANGED");
    assert_eq!(ground.read(&path, AT, 7), b"CHANGED");
    // It has grown under its second name, too.
    volumes.grow(&path, GROWN).await.expect("a volume grows");
    assert_eq!(ground.size(&at), Some(GROWN));
    for _ in 0..2 {
        volumes.take_back(&at).await.expect("it is taken back");
    }
    assert!(!ground.names().contains(&"lent".to_owned()));
    // Another one comes in the place of what was there.
    let to = Borrower {
        owner,
        read_only: false,
    };
    volumes.lend(&path, &at, to).await.expect("it is lent");
    let made = volumes.create_ext4(&next, SIZE, "next", 0).await;
    made.expect("an empty volume is made");
    volumes.lend(&next, &at, to).await.expect("it is lent");
    assert_eq!(ground.size(&at), Some(SIZE));
    assert_eq!(ground.read(&path, AT, 7), b"CHANGED");
    volumes.take_back(&at).await.expect("it is taken back");
    remove_all(volumes, ground, &[path, next]).await;
}

/// A copy in the same and, where there is one, in the other kind of storage.
async fn converted(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let [source, path] = ["source", "converted"].map(|it| ground.path(it));
    for (from, to) in [
        (StorageKind::Files, StorageKind::Files),
        (StorageKind::Files, StorageKind::Thin),
        (StorageKind::Thin, StorageKind::Files),
        (StorageKind::Thin, StorageKind::Thin),
    ] {
        let file = ground.path("file");
        ground.put(&file, SIZE, AT, DATA);
        let first = volumes.convert(&file, &source, from, owner).await;
        if first.is_err() {
            // No pool here: then nothing of it is there.
            assert_eq!(from, StorageKind::Thin);
            remove_all(volumes, ground, &[file]).await;
            continue;
        }
        remove_all(volumes, ground, &[file]).await;
        assert_eq!(volumes.kind(&source).await.expect("it is told"), from);
        let made = volumes.convert(&source, &path, to, owner).await;
        if made.is_ok() {
            volumes.ready(&path, owner).await.expect("it is usable");
            assert_eq!(volumes.kind(&path).await.expect("it is told"), to);
            assert_eq!(ground.size(&path), Some(SIZE));
            assert_eq!(ground.read(&path, AT, DATA.len()), DATA);
            assert_eq!(ground.read(&path, 0, 16), [0; 16]);
            assert_eq!(ground.owner_and_mode(&path), (owner, 0o600));
            remove_all(volumes, ground, std::slice::from_ref(&path)).await;
        } else {
            assert_eq!(to, StorageKind::Thin);
            assert_eq!(ground.size(&path), None);
        }
        remove_all(volumes, ground, std::slice::from_ref(&source)).await;
    }
}

async fn clones(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let source = ground.path("source");
    let copy = ground.path("copy");
    ground.put(&source, SIZE, AT, DATA);
    let made = volumes
        .clone_from(&source, &copy, GROWN, owner)
        .await
        .expect("a clone is made");
    assert!(
        matches!(made, Made::Reflink | Made::Copy | Made::Snapshot),
        "{made:?}"
    );
    assert_eq!(ground.size(&copy), Some(GROWN));
    assert_eq!(ground.read(&copy, AT, DATA.len()), DATA);
    assert_eq!(ground.read(&copy, SIZE.0, 16), [0; 16]);
    assert_eq!(ground.owner_and_mode(&copy), (owner, 0o600));

    // The two are independent from now on.
    ground.write(&copy, AT, b"CHANGED");
    assert_eq!(ground.read(&source, AT, DATA.len()), DATA);

    // Usable, and its content is what it was, however often it is asked for.
    for _ in 0..2 {
        volumes.ready(&copy, owner).await.expect("it is usable");
        assert_eq!(ground.owner_and_mode(&copy), (owner, 0o600));
        assert_eq!(ground.read(&copy, AT, 7), b"CHANGED");
    }
    assert!(!volumes.is_lost(&copy).await.expect("it is there"));

    // Again: what the guest has written is not overwritten.
    let again = volumes.clone_from(&source, &copy, GROWN, owner).await;
    assert_eq!(again.expect("a repetition is a success"), Made::Present);
    assert_eq!(ground.read(&copy, AT, 7), b"CHANGED");

    remove_all(volumes, ground, &[copy, source]).await;
}

async fn images_are_made_of_volumes(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let (source, root) = (ground.path("source"), ground.path("root"));
    let (image, copy) = (ground.path("image"), ground.path("copy"));
    ground.put(&source, SIZE, AT, DATA);
    let made = volumes.clone_from(&source, &root, SIZE, owner).await;
    made.expect("a volume of a guest");
    ground.write(&root, AT, b"WRITTEN");
    let made = volumes.image_of(&root, &image, SIZE).await;
    let made = made.expect("an image is made of it");
    assert!(
        matches!(made, Made::Reflink | Made::Copy | Made::Snapshot),
        "{made:?}"
    );
    // Again: it is there.
    let again = volumes.image_of(&root, &image, SIZE).await;
    assert_eq!(again.expect("a repetition is a success"), Made::Present);
    // It needs what it was made of no more.
    ground.write(&root, AT, b"CHANGED");
    volumes.remove(&root).await.expect("its source goes");
    let made = volumes.clone_from(&image, &copy, GROWN, owner).await;
    made.expect("a volume of the new image");
    assert_eq!(ground.read(&copy, AT, 7), b"WRITTEN");
    assert_eq!(ground.size(&copy), Some(GROWN));
    // What it stands on goes with it, and what was made of it stays.
    volumes.forget_source(&image).await.expect("it is given up");
    volumes.remove(&image).await.expect("it is removed");
    assert_eq!(ground.read(&copy, AT, 7), b"WRITTEN");
    volumes.forget_source(&source).await.expect("given up, too");
    remove_all(volumes, ground, &[copy, source]).await;
}

async fn refusals_leave_nothing(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let source = ground.path("source");
    let copy = ground.path("copy");
    let before = ground.names();
    let missing = volumes.clone_from(&source, &copy, SIZE, owner).await;
    assert!(matches!(missing, Err(DiskError::Io { .. })), "{missing:?}");
    assert_eq!(ground.names(), before);

    ground.put(&source, SIZE, AT, DATA);
    let before = ground.names();
    let small = volumes
        .clone_from(&source, &copy, Bytes(SIZE.0 - 1), owner)
        .await;
    assert!(
        matches!(small, Err(DiskError::TooSmall { present, .. }) if present == SIZE),
        "{small:?}"
    );
    assert_eq!(ground.names(), before);
    remove_all(volumes, ground, &[source]).await;
}

async fn empty_volumes(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let path = ground.path("data");
    let made = volumes.create_ext4(&path, SIZE, "data", owner).await;
    assert_eq!(made.expect("an empty volume is made"), Made::Empty);
    assert_eq!(ground.size(&path), Some(SIZE));
    assert_eq!(ground.owner_and_mode(&path), (owner, 0o600));
    ground.write(&path, AT, b"KEPT");
    let again = volumes.create_ext4(&path, SIZE, "data", owner).await;
    assert_eq!(again.expect("a repetition is a success"), Made::Present);
    assert_eq!(ground.read(&path, AT, 4), b"KEPT");
    remove_all(volumes, ground, &[path]).await;
}

async fn grows(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let source = ground.path("source");
    let path = ground.path("growing");
    ground.put(&source, SIZE, AT, DATA);
    volumes
        .clone_from(&source, &path, SIZE, owner)
        .await
        .expect("a clone is made");
    for _ in 0..2 {
        volumes.grow(&path, GROWN).await.expect("a volume grows");
        assert_eq!(ground.size(&path), Some(GROWN));
        assert_eq!(ground.read(&path, AT, DATA.len()), DATA);
    }
    let smaller = volumes.grow(&path, SIZE).await;
    assert!(
        matches!(smaller, Err(DiskError::TooSmall { .. })),
        "{smaller:?}"
    );
    assert_eq!(ground.size(&path), Some(GROWN));
    remove_all(volumes, ground, &[path.clone(), source]).await;
    assert!(
        volumes.grow(&path, GROWN).await.is_err(),
        "a volume that is gone cannot grow"
    );
    assert_eq!(ground.size(&path), None);
}

async fn clones_of_clones(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let (source, first, second) = (
        ground.path("source"),
        ground.path("first"),
        ground.path("second"),
    );
    ground.put(&source, SIZE, AT, DATA);
    for (from, to) in [(&source, &first), (&first, &second)] {
        volumes
            .clone_from(from, to, SIZE, owner)
            .await
            .expect("a clone is made");
    }
    ground.write(&first, AT, b"CHANGED");
    // What was kept of the source may go: nobody who was cloned from it loses anything.
    volumes
        .forget_source(&source)
        .await
        .expect("a source is forgotten");
    remove_all(volumes, ground, &[source]).await;
    assert_eq!(ground.read(&second, AT, DATA.len()), DATA);
    remove_all(volumes, ground, &[first]).await;
    assert_eq!(ground.read(&second, AT, DATA.len()), DATA);
    remove_all(volumes, ground, &[second]).await;
}

/// A volume is kept as it is at a moment, and put back later.
async fn duplicates_take_the_place(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let [source, path, kept, new] = ["source", "present", "kept", "new"].map(|it| ground.path(it));
    ground.put(&source, SIZE, AT, DATA);
    let made = volumes.clone_from(&source, &path, SIZE, owner).await;
    made.expect("a clone is made");
    // As it is now, each time: nothing of the first one is kept for the second.
    for content in [b"FIRST  ", b"CHANGED"] {
        volumes.ready(&path, owner).await.expect("it is usable");
        ground.write(&path, AT, content);
        let made = volumes.duplicate(&path, &kept, SIZE, owner).await;
        made.expect("a duplicate is made");
        assert_eq!(volumes.size(&kept).await.expect("it is measured"), SIZE);
        assert_eq!(ground.read(&kept, AT, 7), content);
        if content == b"FIRST  " {
            volumes.remove(&kept).await.expect("a volume is removed");
        }
    }
    ground.write(&path, AT, b"LATER  ");
    let at_once = volumes.clones_at_once(&kept, &new).await;
    at_once.expect("it can be told");
    assert_eq!(ground.size(&new), None, "to ask leaves nothing");
    let made = volumes.duplicate(&kept, &new, GROWN, owner).await;
    made.expect("a duplicate is made");
    assert_eq!(ground.read(&path, AT, 7), b"LATER  ");
    for _ in 0..2 {
        let replaced = volumes.replace(&path, &new).await;
        replaced.expect("it takes the place, and has it");
        volumes.ready(&path, owner).await.expect("it is usable");
        assert_eq!(ground.read(&path, AT, 7), b"CHANGED");
        assert_eq!(ground.size(&path), Some(GROWN));
        assert_eq!(ground.owner_and_mode(&path), (owner, 0o600));
        assert_eq!(ground.size(&new), None);
    }
    ground.write(&path, AT, b"AGAIN  ");
    assert_eq!(ground.read(&kept, AT, 7), b"CHANGED");
    let nowhere = volumes.replace(&new, &new.with_extension("none")).await;
    assert!(nowhere.is_err(), "there is neither");
    volumes
        .forget_source(&source)
        .await
        .expect("a source is forgotten");
    remove_all(volumes, ground, &[path, kept, source]).await;
}

async fn folders_are_cleared(volumes: &dyn Volumes, ground: &dyn Ground, owner: u32) {
    let path = ground.path("cleared");
    let made = volumes.create_ext4(&path, SIZE, "data", owner).await;
    assert_eq!(made.expect("an empty volume is made"), Made::Empty);
    let folder = path.parent().expect("a volume is in a folder");
    for _ in 0..2 {
        volumes.clear(folder).await.expect("a folder is cleared");
    }
    remove_all(volumes, ground, std::slice::from_ref(&path)).await;
    assert!(volumes.is_lost(&path).await.expect("it can be told"));
}

async fn remove_all(volumes: &dyn Volumes, ground: &dyn Ground, paths: &[Utf8PathBuf]) {
    for path in paths {
        // Twice: one that is gone is a success.
        for _ in 0..2 {
            volumes.remove(path).await.expect("a volume is removed");
            assert_eq!(ground.size(path), None);
        }
    }
}
