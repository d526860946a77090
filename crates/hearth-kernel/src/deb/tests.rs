use proptest::prelude::*;

use super::*;
use crate::modules::WANTED;
use crate::testkit::{compress, deb, kernel, module_needing, package, package_files, tar};

const VERSION: &str = "6.1.0-1-test";

fn read_bytes(bytes: &[u8]) -> Result<(Contents, tempfile::TempDir), DebError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package.deb");
    std::fs::write(&path, bytes).unwrap();
    let work = tempfile::tempdir().unwrap();
    read(&path, work.path()).map(|contents| (contents, work))
}

#[test]
fn each_compression_of_the_data_is_read() {
    for member in ["data.tar", "data.tar.xz", "data.tar.zst", "data.tar.gz"] {
        let bytes = package(VERSION, member);
        assert!(is_deb(&bytes));
        let (contents, _work) = read_bytes(&bytes).unwrap();
        assert_eq!(contents.version, VERSION, "{member}");
        let modules = contents.modules.resolve(&WANTED).unwrap();
        assert_eq!(modules.len(), 8, "{member}");
    }
}

#[test]
fn merged_usr_and_long_names_are_understood() {
    let long = format!(
        "./usr/lib/modules/{VERSION}/kernel/{}/deep.ko",
        "x".repeat(200)
    );
    let image = package_files(VERSION, &kernel(VERSION, &[]))[0].1.clone();
    let boot = format!("./boot/vmlinuz-{VERSION}");
    let module = module_needing("");
    let data = tar(&[(&boot, &image), (&long, &module)]);
    let (contents, _work) = read_bytes(&deb("data.tar", &data)).unwrap();
    assert_eq!(contents.modules.len(), 1);
    assert_eq!(contents.kernel, image);
}

#[test]
fn a_package_without_a_kernel_says_what_to_do() {
    let data = tar(&[("./usr/share/doc/linux-image/copyright", b"text")]);
    let error = read_bytes(&deb("data.tar", &data)).unwrap_err();
    assert!(matches!(error, DebError::NoKernel));
    assert!(
        error
            .to_string()
            .contains("import the package it depends on")
    );
}

#[test]
fn nothing_is_written_under_names_of_the_package() {
    let image = package_files(VERSION, &kernel(VERSION, &[]))[0].1.clone();
    let boot = format!("./boot/vmlinuz-{VERSION}");
    let mut data = tar(&[(&boot, &image)]);
    // The tar writer refuses `..`, so the entry is put together by hand.
    data.truncate(data.len() - 1024);
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..32].copy_from_slice(b"./lib/modules/v/../../../evil.ko");
    header.set_size(1);
    header.set_cksum();
    data.extend(header.as_bytes());
    data.extend([b'x'; 1]);
    data.extend([0; 511 + 1024]);
    let (contents, work) = read_bytes(&deb("data.tar", &data)).unwrap();
    assert_eq!(contents.modules.len(), 1);
    let names: Vec<_> = std::fs::read_dir(work.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["0.ko"]);
    assert!(!work.path().join("../evil.ko").exists());
}

#[test]
fn refusals_are_named() {
    let two = tar(&[("./boot/vmlinuz-1", b"a"), ("./boot/vmlinuz-2", b"b")]);
    let error = read_bytes(&deb("data.tar", &two)).unwrap_err();
    assert!(matches!(error, DebError::TwoKernels { .. }));
    let error = read_bytes(&deb("data.tar.bz2", b"BZh")).unwrap_err();
    assert!(error.to_string().contains("bzip2"), "{error}");
    let error = read_bytes(&deb("other", b"")).unwrap_err();
    assert!(
        matches!(error, DebError::Format(FormatError::Truncated { .. })),
        "{error:?}"
    );
    // A long name of 100 MiB is not read into memory.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(100 << 20);
    header.set_cksum();
    let mut bomb = header.as_bytes().to_vec();
    bomb.extend(vec![b'a'; 100 << 20]);
    let packed = compress(Compression::Zstd, &bomb);
    let error = read_bytes(&deb("data.tar.zst", &packed)).unwrap_err();
    assert!(
        matches!(error, DebError::Format(FormatError::TooBig { limit, .. }) if limit == NAME_LIMIT),
        "{error:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn damage_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        member in prop::sample::select(vec!["data.tar", "data.tar.xz", "data.tar.zst", "data.tar.gz"]),
        shorten in any::<bool>(),
    ) {
        let mut bytes = package(VERSION, member);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if let Ok((contents, _work)) = read_bytes(&bytes) {
            drop(contents.modules.resolve(&WANTED));
        }
    }
}
