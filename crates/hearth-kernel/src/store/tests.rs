use super::*;
use crate::testkit::{install, kernel, package};

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.folder.path().join("kernels")).unwrap()
    }

    fn store(&self) -> KernelStore {
        KernelStore::open(self.path())
            .unwrap()
            .with_root(&self.folder.path().join("root"))
    }

    fn package(&self, version: &str) -> Import {
        let path = self.folder.path().join(format!("{version}.deb"));
        fs::write(&path, package(version, "data.tar.zst")).unwrap();
        Import::new(Source::File(path))
    }

    fn entries(&self) -> Vec<String> {
        let mut names = names_in(&self.path()).unwrap();
        names.sort();
        names
    }
}

#[test]
fn the_first_kernel_is_the_default_until_another_is_chosen() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let first = store.import(&fixture.package("6.1.0-1-test")).unwrap();
    assert!(first.default && first.has_bzimage && first.has_elf);
    assert_eq!(first.name, "6.1.0-1-test");
    let second = store.import(&fixture.package("6.1.0-2-test")).unwrap();
    assert!(!second.default);
    assert_eq!(store.get(None).unwrap(), first);
    let chosen = store.set_default(&second.name).unwrap();
    assert!(chosen.default);
    // What another process sees after a restart.
    let store = fixture.store();
    assert_eq!(store.get(None).unwrap(), chosen);
    let defaults: Vec<bool> = store
        .list()
        .unwrap()
        .iter()
        .map(|one| one.default)
        .collect();
    assert_eq!(defaults, [false, true]);
    let third = Import {
        default: true,
        ..fixture.package("6.1.0-3-test")
    };
    assert!(store.import(&third).unwrap().default);
}

#[test]
fn files_are_where_the_record_says() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let record = store.import(&fixture.package("6.1.0-1-test")).unwrap();
    let files = store.files(Some(&record.name)).unwrap();
    assert_eq!(files, store.files(None).unwrap());
    assert!(files.bzimage.unwrap().is_file());
    let elf = fs::read(files.elf.unwrap()).unwrap();
    assert_eq!(elf, kernel("6.1.0-1-test", &[]));
    assert_eq!(
        files.initramfs.metadata().unwrap().len(),
        record.initramfs_bytes
    );
}

#[test]
fn the_same_kernel_is_stored_once_and_another_does_not_take_its_name() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let first = store.import(&fixture.package("6.1.0-1-test")).unwrap();
    assert_eq!(
        store.import(&fixture.package("6.1.0-1-test")).unwrap(),
        first
    );
    assert_eq!(fixture.entries(), ["6.1.0-1-test", "default"]);
    let other = Import {
        name: Some(first.name.clone()),
        ..fixture.package("6.1.0-2-test")
    };
    let error = store.import(&other).unwrap_err();
    assert!(matches!(error, KernelError::NameTaken { .. }), "{error:?}");
    assert_eq!(fixture.entries(), ["6.1.0-1-test", "default"]);
    let named = Import {
        name: Some("mine".to_owned()),
        ..fixture.package("6.1.0-1-test")
    };
    assert_eq!(store.import(&named).unwrap().name, "mine");
}

#[test]
fn changed_modules_of_the_same_kernel_take_its_place() {
    let fixture = Fixture::new();
    let root = fixture.folder.path().join("root");
    install(&root, "6.1.0-1-test");
    let store = fixture.store();
    let import = Import::new(Source::Running);
    let first = store.import(&import).unwrap();
    assert_eq!(store.import(&import).unwrap(), first);
    let module = root.join("lib/modules/6.1.0-1-test/kernel/drivers/char/evdev.ko");
    fs::write(module, crate::testkit::module_needing("")).unwrap();
    let second = store.import(&import).unwrap();
    assert_eq!(second.modules.len(), first.modules.len() + 1);
    assert_eq!(store.get(None).unwrap(), second);
    assert_eq!(fixture.entries(), ["6.1.0-1-test", "default"]);
}

#[test]
fn removal_and_the_default() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for version in ["1.0-a", "1.0-b", "1.0-c"] {
        store.import(&fixture.package(version)).unwrap();
    }
    store.remove("1.0-a").unwrap();
    let error = store.get(None).unwrap_err();
    assert!(
        matches!(&error, KernelError::NoDefault { known } if *known == ["1.0-b", "1.0-c"]),
        "{error:?}"
    );
    store.remove("1.0-b").unwrap();
    // The only one left needs no choice.
    assert_eq!(store.get(None).unwrap().name, "1.0-c");
    let error = store.remove("1.0-b").unwrap_err();
    assert!(matches!(error, KernelError::Unknown { .. }), "{error:?}");
    store.remove("1.0-c").unwrap();
    assert_eq!(fixture.entries(), [""; 0]);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn failed_imports_and_crashes_leave_nothing() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let path = fixture.folder.path().join("broken.deb");
    let mut bytes = package("6.1.0-1-test", "data.tar.xz");
    bytes.truncate(bytes.len() / 2);
    fs::write(&path, bytes).unwrap();
    store.import(&Import::new(Source::File(path))).unwrap_err();
    assert_eq!(fixture.entries(), [""; 0]);
    let half = fixture.path().join(".tmp-crashed");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("bzImage"), b"half").unwrap();
    fs::write(fixture.path().join(".tmp-file"), b"half").unwrap();
    fixture.store();
    assert_eq!(fixture.entries(), [""; 0]);
}

#[test]
fn names_cannot_leave_the_folder() {
    let fixture = Fixture::new();
    let store = fixture.store();
    fs::write(fixture.folder.path().join("victim"), b"x").unwrap();
    for name in [
        "..",
        ".",
        "../victim",
        "a/b",
        "",
        ".tmp-x",
        "default",
        "-x",
        "a\0b",
    ] {
        let import = Import {
            name: Some(name.to_owned()),
            ..fixture.package("1.0")
        };
        for error in [
            store.import(&import).unwrap_err(),
            store.get(Some(name)).unwrap_err(),
            store.remove(name).unwrap_err(),
            store.set_default(name).unwrap_err(),
        ] {
            assert!(
                matches!(error, KernelError::InvalidName { .. }),
                "{name:?}: {error:?}"
            );
        }
    }
    assert!(fixture.folder.path().join("victim").exists());
}

#[test]
fn a_damaged_record_is_an_error_not_an_absence() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.import(&fixture.package("1.0-a")).unwrap();
    fs::write(fixture.path().join("1.0-a/record.json"), b"{").unwrap();
    let error = store.list().unwrap_err();
    assert!(matches!(error, KernelError::Record { .. }), "{error:?}");
}
