use std::fs;

use proptest::prelude::*;

use super::*;
use crate::testkit::{MODULES, compress, module, module_needing};

/// A modules folder with these files (path below `kernel/`, content).
fn tree(files: &[(&str, Vec<u8>)], builtin: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = folder.path().join("kernel").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.path().join("modules.builtin"), builtin).unwrap();
    folder
}

fn names(modules: &[Module]) -> Vec<&str> {
    modules.iter().map(|module| module.name.as_str()).collect()
}

fn whole() -> Vec<(String, Vec<u8>)> {
    MODULES
        .iter()
        .map(|(path, needs)| (format!("{path}.ko"), module_needing(needs)))
        .collect()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, Vec<u8>)> {
    files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.clone()))
        .collect()
}

const EXT4: &str = "kernel/fs/ext4/ext4.ko\n";

#[test]
fn everything_comes_after_what_it_needs() {
    let folder = tree(&borrowed(&whole()), EXT4);
    let index = Index::read_dir(folder.path()).unwrap();
    let modules = index.resolve(&WANTED).unwrap();
    assert_eq!(
        names(&modules),
        [
            "virtio_ring",
            "virtio",
            "virtio_pci",
            "virtio_console",
            "virtio_blk",
            "failover",
            "net_failover",
            "virtio_net"
        ]
    );
}

#[test]
fn an_essential_module_that_is_nowhere_is_an_error() {
    let folder = tree(&borrowed(&whole()), "");
    let index = Index::read_dir(folder.path()).unwrap();
    let error = index.resolve(&WANTED).unwrap_err();
    assert!(
        matches!(&error, ModuleError::Missing { name, wanted_by: None } if name == "ext4"),
        "{error:?}"
    );
    let mut files = whole();
    files.retain(|(path, _)| !path.ends_with("/failover.ko"));
    let folder = tree(&borrowed(&files), EXT4);
    let error = Index::read_dir(folder.path())
        .unwrap()
        .resolve(&WANTED)
        .unwrap_err();
    assert!(
        matches!(&error, ModuleError::Missing { name, wanted_by: Some(by) }
            if name == "failover" && by == "net_failover"),
        "{error:?}"
    );
}

#[test]
fn compressed_modules_are_stored_plain() {
    let plain = module_needing("");
    for (ending, compression) in [
        ("xz", Compression::Xz),
        ("zst", Compression::Zstd),
        ("gz", Compression::Gzip),
    ] {
        let path = format!("some-thing.ko.{ending}");
        let folder = tree(&[(&path, compress(compression, &plain))], "");
        let modules = Index::read_dir(folder.path())
            .unwrap()
            .resolve(&[essential("some_thing")])
            .unwrap();
        assert_eq!(modules[0].bytes, plain, "{ending}");
        assert_eq!(modules[0].name, "some_thing");
    }
}

#[test]
fn soft_dependencies_are_followed_by_name_and_by_alias() {
    let folder = tree(
        &[
            (
                "fs/ext4.ko",
                module(&["depends=jbd2", "softdep=pre: crc32c gone post: never"]),
            ),
            ("fs/jbd2.ko", module_needing("")),
            ("fs/never.ko", module_needing("")),
            (
                "crypto/crc32c_generic.ko",
                module(&["alias=crypto-crc32c", "alias=crc32c"]),
            ),
        ],
        "",
    );
    let modules = Index::read_dir(folder.path())
        .unwrap()
        .resolve(&[essential("ext4")])
        .unwrap();
    assert_eq!(names(&modules), ["crc32c_generic", "jbd2", "ext4"]);
}

#[test]
fn a_circle_is_refused() {
    let folder = tree(
        &[("a.ko", module_needing("b")), ("b.ko", module_needing("a"))],
        "",
    );
    let error = Index::read_dir(folder.path())
        .unwrap()
        .resolve(&[essential("a")])
        .unwrap_err();
    assert!(matches!(error, ModuleError::Circle { .. }), "{error:?}");
}

#[test]
fn updates_come_first_and_links_are_not_followed() {
    let folder = tree(&[("a.ko", module(&["depends=", "version=old"]))], "");
    let updates = folder.path().join("updates");
    fs::create_dir(&updates).unwrap();
    let new = module(&["depends=", "version=new"]);
    fs::write(updates.join("a.ko"), &new).unwrap();
    // As `build` does, and worse: a link that leads back up.
    std::os::unix::fs::symlink(folder.path(), folder.path().join("build")).unwrap();
    let index = Index::read_dir(folder.path()).unwrap();
    assert_eq!(index.len(), 1);
    assert_eq!(index.resolve(&[essential("a")]).unwrap()[0].bytes, new);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_not_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = Index::read_dir(&folder.path().join("gone")).unwrap_err();
    assert!(matches!(error, ModuleError::Read { .. }));
}

#[test]
fn module_names() {
    assert_eq!(
        module_name("virtio-rng.ko.xz").as_deref(),
        Some("virtio_rng")
    );
    assert_eq!(module_name("a.ko").as_deref(), Some("a"));
    for other in ["modules.dep", "a.o", ".ko", "a.ko.bz2"] {
        assert_eq!(module_name(other), None, "{other}");
    }
}

proptest! {
    /// Any graph without circles comes out in an order in which everything can be loaded.
    #[test]
    fn any_graph_loads(edges in prop::collection::vec((0usize..12, 0usize..12), 0..40)) {
        let mut needs: Vec<Vec<String>> = vec![Vec::new(); 12];
        for (one, two) in edges {
            if one != two {
                needs[one.max(two)].push(format!("m{}", one.min(two)));
            }
        }
        let folder = tempfile::tempdir().unwrap();
        for (number, needs) in needs.iter().enumerate() {
            let path = folder.path().join(format!("m{number}.ko"));
            fs::write(path, module_needing(&needs.join(","))).unwrap();
        }
        let index = Index::read_dir(folder.path()).unwrap();
        let modules = index.resolve(&[essential("m11"), essential("m10")]).unwrap();
        let mut loaded: Vec<String> = Vec::new();
        for module in modules {
            let number: usize = module.name[1..].parse().unwrap();
            for need in &needs[number] {
                prop_assert!(loaded.contains(need), "{need} after {}", module.name);
            }
            prop_assert!(!loaded.contains(&module.name));
            loaded.push(module.name);
        }
        prop_assert!(loaded.contains(&"m11".to_owned()));
    }
}
