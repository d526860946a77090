//! Archives that mean well and archives that do not.

mod craft;
mod hostile;
mod layers;
mod model;
mod ordinary;

use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::{EnoughRoom, Layer, Unpacker};
use crate::{ImageError, Limits};
use craft::Tar;

/// A root folder with a sentinel beside it that no archive may touch.
struct Root {
    dir: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/sentinel"), "safe").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    fn mode(&self, name: &str) -> u32 {
        self.path(name).symlink_metadata().unwrap().mode() & 0o7777
    }

    fn unpack(&self, layers: &[Tar]) -> Result<(), ImageError> {
        self.unpack_with(layers, &Limits::default())
    }

    fn unpack_with(&self, layers: &[Tar], limits: &Limits) -> Result<(), ImageError> {
        let (mut room, cancelled) = (EnoughRoom, AtomicBool::new(false));
        let root = std::fs::File::open(self.path("")).unwrap();
        let mut unpacker = Unpacker::new(root.as_fd(), limits, &mut room, &cancelled).unwrap();
        for tar in layers {
            unpacker.layer(layer(tar.bytes()))?;
        }
        Ok(())
    }

    /// Nothing beside the root was touched.
    fn assert_contained(&self, case: &str) {
        let names = |path: &Path| -> Vec<_> {
            std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect()
        };
        let outside = self.dir.path().join("outside");
        assert_eq!(names(&outside), ["sentinel"], "{case}");
        assert_eq!(names(self.dir.path()).len(), 2, "{case}");
        let sentinel = outside.join("sentinel");
        assert_eq!(
            std::fs::read_to_string(&sentinel).unwrap(),
            "safe",
            "{case}"
        );
        assert_eq!(sentinel.metadata().unwrap().nlink(), 1, "{case}");
    }
}

fn layer(bytes: Vec<u8>) -> Layer<'static> {
    Layer {
        name: "test",
        source: Box::new(std::io::Cursor::new(bytes)),
        total: None,
        packed_digest: None,
        unpacked_digest: None,
        hash: false,
    }
}

/// Owners and devices need root.
fn need_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIP: owners and devices need root");
    }
    root
}
