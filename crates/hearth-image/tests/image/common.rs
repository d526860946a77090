//! What the tests share: a store in a temporary folder and a look into its volumes.

pub(crate) mod certificates;
pub(crate) mod content;
pub(crate) mod proxy;
pub(crate) mod registry;
pub(crate) mod spy;
pub(crate) mod tokens;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
pub(crate) use hearth_image::NoProgress;
use hearth_image::{ImageStore, Limits};
use hearth_types::ids::ImageId;

/// Whether this is root; says so when it is not.
pub(crate) fn need_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIP: loop devices and mounts need root");
    }
    root
}

/// A store that goes away with the test.
pub(crate) struct Store {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) images: ImageStore,
}

impl Store {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("store");
        let images = ImageStore::open(&path, Limits::default()).unwrap();
        Self { dir, images }
    }

    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }

    /// Mounts a copy of an image's volume, where nobody else sees it.
    pub(crate) fn mount(&self, id: &ImageId) -> Mounted {
        let copy = self.path("copy.img");
        std::fs::copy(self.images.volume_path(id), &copy).unwrap();
        let file = File::options().read(true).write(true).open(&copy).unwrap();
        let device = hearth_host::loopdev::LoopDevice::attach(file.as_fd()).unwrap();
        let mount = hearth_host::mount::DetachedExt4::mount(device.path(), &[]).unwrap();
        let root = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&mount.as_fd())
        );
        Mounted {
            root: root.into(),
            image: self.images.volume_path(id),
            _mount: mount,
            _device: device,
        }
    }

    /// Names in the store's folder of images.
    pub(crate) fn image_folders(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path("store/images"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A mounted volume.
pub(crate) struct Mounted {
    pub(crate) root: Utf8PathBuf,
    image: Utf8PathBuf,
    _mount: hearth_host::mount::DetachedExt4,
    _device: hearth_host::loopdev::LoopDevice,
}

impl Mounted {
    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.root.join(path)).unwrap()
    }

    /// Kind, mode, owner, time and size (or target, or device) of one file.
    pub(crate) fn line(&self, path: &str) -> String {
        line(&self.root.join(path))
    }

    /// e2fsck finds nothing to mend.
    pub(crate) fn check(&self) {
        let output = Command::new("e2fsck")
            .args(["-f", "-n", self.image.as_str()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Kind, mode, owner, time and size (or target, or device) of a file.
pub(crate) fn line(path: &Utf8Path) -> String {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let (letter, rest) = if kind.is_symlink() {
        (
            'l',
            std::fs::read_link(path)
                .unwrap()
                .to_string_lossy()
                .into_owned(),
        )
    } else if kind.is_dir() {
        ('d', String::new())
    } else if kind.is_file() {
        ('f', meta.len().to_string())
    } else if kind.is_char_device() {
        ('c', meta.rdev().to_string())
    } else if kind.is_block_device() {
        ('b', meta.rdev().to_string())
    } else {
        ('p', String::new())
    };
    let text = format!(
        "{letter} {:04o} {}:{} {}.{:09} {rest}",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    text.trim_end().to_owned()
}
