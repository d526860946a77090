//! What the tests of the store share.

use std::net::Ipv4Addr;

use camino::Utf8PathBuf;
use hearth_store::{LeaseRanges, NewSpec, NewVm, Store, VmRow};
use hearth_types::ids::ImageId;
use hearth_types::spec::VmSpec;
use hearth_types::status::Goal;
use ipnet::Ipv4Net;
use jiff::Timestamp;

pub(crate) struct Dir {
    /// Removes the folder at the end.
    _root: tempfile::TempDir,
    pub(crate) db: Utf8PathBuf,
}

pub(crate) fn dir() -> Dir {
    let root = tempfile::tempdir().unwrap();
    let db = Utf8PathBuf::try_from(root.path().join("hearth.db")).unwrap();
    Dir { _root: root, db }
}

pub(crate) fn open(dir: &Dir) -> Store {
    Store::open(&dir.db).unwrap()
}

pub(crate) fn ranges() -> LeaseRanges {
    ranges_with_prefix(24)
}

pub(crate) fn ranges_with_prefix(prefix: u8) -> LeaseRanges {
    LeaseRanges {
        subnet: Ipv4Net::new(Ipv4Addr::new(10, 213, 0, 0), prefix).unwrap(),
        uid_base: 2_000_000_000,
        uid_count: 100_000,
        cid_base: 100,
    }
}

pub(crate) fn image() -> ImageId {
    format!("sha256:{}", "a".repeat(64)).parse().unwrap()
}

pub(crate) fn new_vm(name: &str) -> NewVm {
    NewVm {
        spec: VmSpec::new(name.parse().unwrap(), "debian:12"),
        goal: Goal::Running,
        image: image(),
        kernel: None,
    }
}

pub(crate) fn with_port(name: &str, port: &str) -> NewVm {
    let mut new = new_vm(name);
    new.spec.ports = vec![port.parse().unwrap()];
    new
}

pub(crate) fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

pub(crate) fn later(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + seconds).unwrap()
}

pub(crate) fn respec(row: &VmRow) -> NewSpec {
    NewSpec {
        spec: row.spec.clone(),
        image: row.image.clone(),
        kernel: row.kernel.clone(),
    }
}
