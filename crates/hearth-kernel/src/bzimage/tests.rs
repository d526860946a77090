use proptest::prelude::*;

use super::*;
use crate::testkit::{ALL, bzimage, compress, kernel, payload};

const VERSION: &str = "6.1.0-1-test";

#[test]
fn each_compression_gives_the_elf_back() {
    let elf = kernel(VERSION, &["virtio_blk"]);
    for compression in ALL {
        let bytes = bzimage(VERSION, &payload(compression, &elf));
        let image = parse(&bytes).unwrap();
        assert_eq!(image.version.as_deref(), Some(VERSION));
        assert_eq!(extract_elf(&image).unwrap(), elf, "{compression:?}");
    }
}

#[test]
fn an_uncompressed_kernel_is_taken_as_it_is() {
    let elf = kernel(VERSION, &[]);
    let bytes = bzimage(VERSION, &elf);
    assert_eq!(extract_elf(&parse(&bytes).unwrap()).unwrap(), elf);
}

#[test]
fn what_is_inside_must_be_the_kernel_that_was_put_in() {
    let elf = kernel(VERSION, &[]);
    let mut wrong = compress(Compression::Zstd, &elf);
    wrong.extend(7u32.to_le_bytes());
    let bytes = bzimage(VERSION, &wrong);
    let error = extract_elf(&parse(&bytes).unwrap()).unwrap_err();
    assert!(error.to_string().contains("should expand to 7"), "{error}");

    let bytes = bzimage(VERSION, &payload(Compression::Gzip, b"no kernel"));
    assert!(extract_elf(&parse(&bytes).unwrap()).is_err());
}

#[test]
fn refused_compressions_are_named() {
    for (magic, name) in [
        (&b"BZh9....."[..], "bzip2"),
        (&b"\x5d\0\0\x80....."[..], "lzma"),
    ] {
        let bytes = bzimage(VERSION, magic);
        let error = extract_elf(&parse(&bytes).unwrap()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn old_and_foreign_files_are_refused() {
    let mut old = bzimage(VERSION, b"payload");
    old[0x206] = 7;
    old[0x207] = 2;
    assert!(parse(&old).unwrap_err().to_string().contains("2.07"));
    assert!(parse(b"MZ").is_err());
    assert!(parse(&[0; 4096]).is_err());
}

proptest! {
    #[test]
    fn damage_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        header in prop::collection::vec((0x1f1usize..0x260, any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        which in 0..ALL.len(),
    ) {
        let mut bytes = bzimage(VERSION, &payload(ALL[which], &kernel(VERSION, &[])));
        for (at, value) in header {
            bytes[at] = value;
        }
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(image) = parse(&bytes) {
            drop(extract_elf(&image));
        }
    }
}
