//! `FileVolumes` on real file systems: the temporary folder's, XFS with reflinks and a small
//! ext4 that runs full (both on loop devices, which needs root).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and a skipped test says why"
)]

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::contract::{Ground as _, InFolder, contract};
use hearth_disk::{DiskError, FileVolumes, Made, Volumes};
use hearth_types::units::{Bytes, MIB};

const NO_RESERVE: FileVolumes = FileVolumes::new(Bytes(0));

fn utf8(path: &Path) -> &Utf8Path {
    Utf8Path::from_path(path).expect("temporary paths are UTF-8")
}

struct Folder(Utf8PathBuf);

impl InFolder for Folder {
    fn folder(&self) -> &Utf8Path {
        &self.0
    }
}

/// A uid that volumes can be given to: any for root, else one's own.
fn owner() -> u32 {
    let own = rustix::process::geteuid();
    if own.is_root() { 34567 } else { own.as_raw() }
}

fn tool(program: &str, args: &[&str]) -> std::io::Result<Output> {
    Command::new(program).args(args).output()
}

/// A file system on a loop device, unmounted and freed when dropped.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// `None`, with the reason printed, where this machine cannot.
    fn make(mkfs: &[&str], size: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: mounting a loop device needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        let image = utf8(&image);
        let mut args = mkfs[1..].to_vec();
        args.push(image.as_str());
        match tool(mkfs[0], &args) {
            Ok(output) if output.status.success() => {}
            other => {
                println!("SKIP: {} does not work here: {other:?}", mkfs[0]);
                return None;
            }
        }
        let made = Self { folder };
        let at = made.path();
        std::fs::create_dir(&at).unwrap();
        let mount = tool("mount", &["-o", "loop", image.as_str(), at.as_str()]).unwrap();
        if !mount.status.success() {
            println!("SKIP: cannot mount a loop device: {mount:?}");
            return None;
        }
        Some(made)
    }

    fn path(&self) -> Utf8PathBuf {
        utf8(self.folder.path()).join("mnt")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // `-l`: a test that fails may still have files open. The loop device frees itself.
        drop(tool("umount", &["-l", self.path().as_str()]));
    }
}

#[tokio::test]
async fn contract_in_the_temporary_folder() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Folder(utf8(folder.path()).to_owned());
    contract(&NO_RESERVE, &ground, owner()).await;
    assert_eq!(ground.names(), [""; 0]);
}

#[tokio::test]
async fn contract_and_shared_blocks_on_xfs() {
    let mkfs = ["mkfs.xfs", "-q", "-m", "reflink=1"];
    let Some(mounted) = Mounted::make(&mkfs, 400 * MIB) else {
        return;
    };
    let ground = Folder(mounted.path());
    contract(&NO_RESERVE, &ground, owner()).await;
    let source = ground.path("source");
    let data = vec![7; 32 << 20];
    ground.put(&source, Bytes::mib(64), 0, &data);
    let copy = ground.path("copy");
    let made = NO_RESERVE
        .clone_from(&source, &copy, Bytes::mib(128), owner())
        .await;
    assert_eq!(made.unwrap(), Made::Reflink);
    assert_eq!(ground.read(&copy, 31 << 20, 1 << 20), data[31 << 20..]);
    assert_eq!(ground.size(&copy), Some(Bytes::mib(128)));
}

#[tokio::test]
async fn a_full_file_system_leaves_nothing_behind() {
    let Some(mounted) = Mounted::make(&["mkfs.ext4", "-q", "-F"], 64 * MIB) else {
        return;
    };
    let ground = Folder(mounted.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let source = utf8(elsewhere.path()).join("source");
    let data = vec![9; 80 << 20];
    ground.put(&source, Bytes::mib(80), 0, &data);
    let before = ground.names();
    let copy = ground.path("copy");
    let error = NO_RESERVE
        .clone_from(&source, &copy, Bytes::mib(80), owner())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, DiskError::NoSpace { path, needed, .. } if *path == copy && needed.0 >= 80 * MIB),
        "{error:?}"
    );
    assert_eq!(ground.names(), before);

    // The reserve counts too.
    std::fs::remove_file(&source).unwrap();
    ground.put(&source, Bytes::mib(4), 0, &data[..1 << 20]);
    let reserved = FileVolumes::new(Bytes::mib(60));
    let refused = reserved
        .clone_from(&source, &copy, Bytes::mib(4), owner())
        .await;
    assert!(matches!(refused, Err(DiskError::NoSpace { .. })));
    let refused = reserved
        .create_ext4(&copy, Bytes::mib(4), "data", owner())
        .await;
    assert!(matches!(refused, Err(DiskError::NoSpace { .. })));
    assert_eq!(ground.names(), before);
    let made = NO_RESERVE
        .clone_from(&source, &copy, Bytes::mib(4), owner())
        .await;
    assert_eq!(made.unwrap(), Made::Copy);
}

#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_leaves_nothing_behind() {
    let Some(mounted) = Mounted::make(&["mkfs.ext4", "-q", "-F", "-m", "0"], 64 * MIB) else {
        return;
    };
    let ground = Folder(mounted.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let source = utf8(elsewhere.path()).join("source");
    ground.put(&source, Bytes::mib(40), 0, &vec![3; 40 << 20]);
    let before = ground.names();
    let (one, two) = (ground.path("one"), ground.path("two"));
    // Both pass the check, only one fits.
    let (first, second) = tokio::join!(
        NO_RESERVE.clone_from(&source, &one, Bytes::mib(40), owner()),
        NO_RESERVE.clone_from(&source, &two, Bytes::mib(40), owner()),
    );
    let failures: Vec<_> = [first, second]
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(!failures.is_empty(), "80 MiB do not fit into 64 MiB");
    for error in &failures {
        assert!(matches!(error, DiskError::NoSpace { .. }), "{error:?}");
    }
    assert_eq!(ground.names().len(), before.len() + 2 - failures.len());
    assert!(!ground.names().iter().any(|name| name.contains(".tmp-")));
}

#[tokio::test]
async fn an_empty_volume_is_a_clean_ext4() {
    let folder = tempfile::tempdir().unwrap();
    let path = utf8(folder.path()).join("data");
    NO_RESERVE
        .create_ext4(&path, Bytes::mib(64), "logs", owner())
        .await
        .unwrap();
    let check = tool("e2fsck", &["-f", "-n", path.as_str()]).unwrap();
    assert!(check.status.success(), "{check:?}");
    let shown = tool("dumpe2fs", &["-h", path.as_str()]).unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("Filesystem volume name:") && line.ends_with(" logs")),
        "{shown}"
    );
    let root = tool("debugfs", &["-R", "stat /", path.as_str()]).unwrap();
    let root = String::from_utf8(root.stdout).unwrap();
    assert!(root.contains("User:     0   Group:     0"), "{root}");
}

#[tokio::test]
async fn a_tool_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = utf8(folder.path()).join("data");
    // Too small for any ext4.
    let error = NO_RESERVE
        .create_ext4(&path, Bytes(1024), "data", owner())
        .await
        .unwrap_err();
    assert!(matches!(error, DiskError::Tool { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_what_is_in_work_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Folder(utf8(folder.path()).to_owned());
    let source = ground.path("source");
    ground.put(&source, Bytes::mib(1), 0, b"x");
    let stale = ground.path(".copy.tmp-0123456789abcdef");
    let busy = ground.path(".copy.tmp-fedcba9876543210");
    let other = ground.path(".other.tmp-0123456789abcdef");
    for path in [&stale, &busy, &other] {
        ground.put(path, Bytes(10), 0, b"y");
    }
    let held = File::open(&busy).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    NO_RESERVE
        .clone_from(&source, &ground.path("copy"), Bytes::mib(1), owner())
        .await
        .unwrap();
    assert!(!stale.exists());
    assert!(busy.exists());
    assert!(other.exists());
}

#[tokio::test]
async fn links_and_folders_are_never_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Folder(utf8(folder.path()).to_owned());
    let (source, victim) = (ground.path("source"), ground.path("victim"));
    ground.put(&source, Bytes::mib(1), 0, b"x");
    ground.put(&victim, Bytes(100), 0, b"secret");
    std::fs::set_permissions(&victim, Permissions::from_mode(0o644)).unwrap();
    let link = ground.path("link");
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    let dir = ground.path("dir");
    std::fs::create_dir(&dir).unwrap();
    for path in [&link, &dir] {
        let cloned = NO_RESERVE
            .clone_from(&source, path, Bytes::mib(1), owner())
            .await;
        assert!(matches!(cloned, Err(DiskError::Io { .. })), "{cloned:?}");
        assert!(NO_RESERVE.grow(path, Bytes::mib(2)).await.is_err());
    }
    assert!(
        NO_RESERVE
            .clone_from(&link, &ground.path("copy"), Bytes::mib(1), owner())
            .await
            .is_err()
    );
    assert_eq!(ground.size(&victim), Some(Bytes(100)));
    assert_eq!(ground.owner_and_mode(&victim).1, 0o644);
}

#[tokio::test]
async fn many_at_once_to_one_name_make_one_volume() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Folder(utf8(folder.path()).to_owned());
    let source = ground.path("source");
    ground.put(&source, Bytes::mib(2), 0, b"whole");
    let copy = ground.path("copy");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (source, copy) = (source.clone(), copy.clone());
        tasks.spawn(async move {
            NO_RESERVE
                .clone_from(&source, &copy, Bytes::mib(2), owner())
                .await
        });
    }
    let made: Vec<_> = tasks.join_all().await;
    let fresh = made
        .iter()
        .filter(|made| !matches!(made, Ok(Made::Present)))
        .count();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    assert_eq!(fresh, 1, "{made:?}");
    assert_eq!(ground.names(), ["copy", "source"]);
    assert_eq!(ground.read(&copy, 0, 5), b"whole");
}
