use std::os::unix::fs::MetadataExt;

use super::*;

fn modules() -> Vec<Module> {
    ["virtio_ring", "virtio"]
        .map(|name| Module {
            name: name.to_owned(),
            bytes: name.as_bytes().repeat(1000),
        })
        .to_vec()
}

fn parts(folder: &Path) -> (PathBuf, Vec<u8>, Vec<u8>, Vec<u8>) {
    let base = base(&modules()).unwrap();
    let path = folder.join("base");
    std::fs::write(&path, &base).unwrap();
    let binary = folder.join("agent");
    std::fs::write(&binary, b"\x7fELF odd length").unwrap();
    let guest = guest_segment(&binary).unwrap();
    let config = config_segment(br#"{"odd":1}"#).unwrap();
    (path, base, guest, config)
}

#[test]
fn the_file_is_base_then_guest_then_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (path, base, guest, config) = parts(folder.path());
    let out = folder.path().join("initrd");
    let owner = rustix::process::geteuid().as_raw();
    let owner = if owner == 0 { 4321 } else { owner };
    // Twice: the second replaces the first.
    for _ in 0..2 {
        write_vm_initrd(&out, &path, &guest, &config, owner).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        assert_eq!(
            bytes,
            [base.clone(), guest.clone(), config.clone()].concat()
        );
        let meta = out.metadata().unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (owner, 0o600));
    }
    for segment in [&base, &guest, &config] {
        assert_eq!(segment.len() % ALIGNMENT, 0);
    }
    assert_eq!(base.len() % BLOCK, 0);
}

#[test]
fn nothing_is_left_of_a_writer_that_died() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _, guest, config) = parts(folder.path());
    let vm = folder.path().join("vm");
    std::fs::create_dir_all(vm.join(".initrd.tmp-folder")).unwrap();
    std::fs::write(vm.join(".initrd.tmp-Xy12"), b"half").unwrap();
    std::fs::write(vm.join(".root.img.tmp-00"), b"of somebody else").unwrap();
    write_vm_initrd(&vm.join("initrd"), &path, &guest, &config, 0).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(&vm)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, [".initrd.tmp-folder", ".root.img.tmp-00", "initrd"]);
}

#[test]
fn the_list_names_each_module_in_load_order() {
    let base = base(&modules()).unwrap();
    let text = String::from_utf8_lossy(&base);
    assert!(text.contains("/hearth/ko/virtio_ring.ko\n/hearth/ko/virtio.ko\n"));
}

#[test]
fn a_failure_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _, guest, config) = parts(folder.path());
    let out = folder.path().join("vm").join("initrd");
    std::fs::create_dir(out.parent().unwrap()).unwrap();
    std::fs::write(&out, b"old").unwrap();
    let odd = &guest[..guest.len() - 1];
    let error = write_vm_initrd(&out, &path, odd, &config, 0).unwrap_err();
    assert!(matches!(error, InitrdError::Unaligned { .. }), "{error:?}");
    let gone = folder.path().join("gone");
    let error = write_vm_initrd(&out, &gone, &guest, &config, 0).unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn copying_within_and_across_file_systems_gives_the_same() {
    let data: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("from");
    std::fs::write(&path, &data).unwrap();
    for target in [Path::new("/dev/shm"), folder.path()] {
        let Ok(mut output) = tempfile::tempfile_in(target) else {
            continue;
        };
        let mut input = File::open(&path).unwrap();
        copy(&mut input, &mut output, data.len() as u64).unwrap();
        assert_eq!(output.stream_position().unwrap(), data.len() as u64);
        let mut read = Vec::new();
        output.seek(SeekFrom::Start(0)).unwrap();
        output.read_to_end(&mut read).unwrap();
        assert_eq!(read, data);
        assert!(copy(&mut input, &mut output, data.len() as u64 + 1).is_err());
    }
}
