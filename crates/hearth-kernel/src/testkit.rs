//! Synthetic kernels, modules and packages for the tests.

use std::io::Write;
use std::path::Path;

use crate::compression::Compression;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn header(kind: u16) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 16, &kind.to_le_bytes());
    put(&mut bytes, 18, &62u16.to_le_bytes());
    bytes
}

/// An executable with one segment that holds `data`.
pub(crate) fn elf_kernel(data: &[u8]) -> Vec<u8> {
    let mut bytes = header(2);
    put(&mut bytes, 32, &64u64.to_le_bytes());
    put(&mut bytes, 56, &1u16.to_le_bytes());
    let mut segment = vec![0; 56];
    put(&mut segment, 8, &120u64.to_le_bytes());
    put(&mut segment, 32, &(data.len() as u64).to_le_bytes());
    bytes.extend(segment);
    bytes.extend(data);
    bytes
}

/// An ELF kernel of this version with drivers of these names built in.
pub(crate) fn kernel(version: &str, drivers: &[&str]) -> Vec<u8> {
    let mut data = format!("Linux version %s\0Linux version {version} (builder@host)\0");
    for driver in drivers {
        data.push_str(driver);
        data.push('\0');
    }
    elf_kernel(data.as_bytes())
}

/// A module with this `.modinfo`.
pub(crate) fn module(info: &[&str]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.shstrtab\0.modinfo\0";
    let info: Vec<u8> = info
        .iter()
        .flat_map(|line| [line.as_bytes(), b"\0"].concat())
        .collect();
    let mut bytes = header(1);
    bytes.extend(NAMES);
    bytes.extend(&info);
    let table = bytes.len() as u64;
    put(&mut bytes, 40, &table.to_le_bytes());
    put(&mut bytes, 60, &3u16.to_le_bytes());
    put(&mut bytes, 62, &1u16.to_le_bytes());
    bytes.extend([0; 64]);
    let (first, second) = (64, 64 + NAMES.len() as u64);
    bytes.extend(section(1, first, NAMES.len() as u64));
    bytes.extend(section(11, second, info.len() as u64));
    bytes
}

fn section(name: u32, offset: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, &name.to_le_bytes());
    put(&mut bytes, 4, &1u32.to_le_bytes());
    put(&mut bytes, 24, &offset.to_le_bytes());
    put(&mut bytes, 32, &size.to_le_bytes());
    bytes
}

/// A module that needs others.
pub(crate) fn module_needing(depends: &str) -> Vec<u8> {
    module(&["license=GPL", &format!("depends={depends}")])
}

/// A bzImage with this compressed kernel inside.
pub(crate) fn bzimage(version: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    put(&mut bytes, 0x1f1, &[1]);
    put(&mut bytes, 0x1fe, &[0x55, 0xaa]);
    put(&mut bytes, 0x202, b"HdrS");
    put(&mut bytes, 0x206, &0x020fu16.to_le_bytes());
    put(&mut bytes, 0x20e, &0x100u16.to_le_bytes());
    put(&mut bytes, 0x248, &16u32.to_le_bytes());
    let length = u32::try_from(payload.len()).unwrap();
    put(&mut bytes, 0x24c, &length.to_le_bytes());
    put(
        &mut bytes,
        0x300,
        format!("{version} (builder@host) #1\0").as_bytes(),
    );
    bytes.extend([0; 16]);
    bytes.extend(payload);
    bytes.extend(b"what follows the payload");
    bytes
}

/// A payload as the kernel's build makes it: the compressed kernel, then its size (which gzip
/// has of its own).
pub(crate) fn payload(compression: Compression, elf: &[u8]) -> Vec<u8> {
    let mut bytes = compress(compression, elf);
    if compression != Compression::Gzip {
        bytes.extend(u32::try_from(elf.len()).unwrap().to_le_bytes());
    }
    bytes
}

/// Compresses in memory.
pub(crate) fn compress(compression: Compression, data: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let level = flate2::Compression::fast();
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            out.write_all(data).unwrap();
            out.finish().unwrap()
        }
        Compression::Xz => {
            let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(data).unwrap();
            out.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
        Compression::Lz4Legacy => {
            let mut out = 0x184c_2102u32.to_le_bytes().to_vec();
            for block in data.chunks(8 << 20) {
                let packed = lz4_flex::block::compress(block);
                out.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
                out.extend(packed);
            }
            out
        }
    }
}

/// The four compressions.
pub(crate) const ALL: [Compression; 4] = [
    Compression::Gzip,
    Compression::Xz,
    Compression::Zstd,
    Compression::Lz4Legacy,
];

/// A tar with these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *data).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A Debian package with this data member.
pub(crate) fn deb(member: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, data) in [
        ("debian-binary", &b"2.0\n"[..]),
        ("control.tar.xz", &b"odd"[..]),
        (member, data),
    ] {
        bytes.extend(
            format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                100_644,
                data.len()
            )
            .as_bytes(),
        );
        bytes.extend(data);
        if data.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// Names and dependencies of the modules of a small but whole kernel.
pub(crate) const MODULES: [(&str, &str); 8] = [
    ("drivers/virtio/virtio_ring", ""),
    ("drivers/virtio/virtio", "virtio_ring"),
    ("drivers/virtio/virtio_pci", "virtio,virtio_ring"),
    ("drivers/char/virtio_console", "virtio,virtio_ring"),
    ("drivers/block/virtio_blk", "virtio,virtio_ring"),
    ("net/core/failover", ""),
    ("drivers/net/net_failover", "failover"),
    ("drivers/net/virtio_net", "virtio_ring,virtio,net-failover"),
];

/// The files of a kernel package.
pub(crate) fn package_files(version: &str, elf: &[u8]) -> Vec<(String, Vec<u8>)> {
    let image = bzimage(version, &payload(Compression::Lz4Legacy, elf));
    let modules = format!("./lib/modules/{version}");
    let mut files = vec![
        (format!("./boot/vmlinuz-{version}"), image),
        (
            format!("{modules}/modules.builtin"),
            b"kernel/fs/ext4/ext4.ko\n".to_vec(),
        ),
    ];
    files.extend(
        MODULES
            .iter()
            .map(|(path, needs)| (format!("{modules}/kernel/{path}.ko"), module_needing(needs))),
    );
    files
}

/// A whole kernel package.
pub(crate) fn package(version: &str, member: &str) -> Vec<u8> {
    let files = package_files(version, &kernel(version, &[]));
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, data)| (path.as_str(), data.as_slice()))
        .collect();
    let tar = tar(&files);
    let data = match member {
        "data.tar" => tar,
        "data.tar.xz" => compress(Compression::Xz, &tar),
        "data.tar.zst" => compress(Compression::Zstd, &tar),
        "data.tar.gz" => compress(Compression::Gzip, &tar),
        other => panic!("{other} is not made here"),
    };
    deb(member, &data)
}

/// Writes the files of an installed kernel below `root`.
pub(crate) fn install(root: &Path, version: &str) {
    for (path, data) in package_files(version, &kernel(version, &[])) {
        let path = root.join(path.trim_start_matches("./"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
}
