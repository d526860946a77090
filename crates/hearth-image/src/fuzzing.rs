//! What reads bytes from outside, with the laws that hold whatever they are: for fuzzers, and for
//! the mutants of the corpus that the tests play. Nothing here touches a disk.

use crate::Limits;
use crate::config::Details;
use crate::manifest::Document;
use crate::tarstream::TarStream;

/// Walks a tar as an unpacker does.
///
/// # Panics
/// When a law is broken.
pub fn tar(bytes: &[u8]) {
    let mut tar = TarStream::new(bytes, 64 << 10);
    let length = bytes.len() as u64;
    let (mut entries, mut data) = (0, 0);
    while let Ok(Some(entry)) = tar.next() {
        entries += 1;
        assert!(entries * 512 <= length, "more entries than blocks");
        let mut end = 0;
        let read = tar.data(&entry, &mut |offset, piece| {
            assert!(offset >= end, "data goes backwards");
            end = offset + piece.len() as u64;
            assert!(end <= entry.size, "data beyond the entry's size");
            data += piece.len() as u64;
            Ok(())
        });
        assert!(data <= length, "more data than the archive has");
        if read.is_err() {
            break;
        }
    }
}

/// Reads a manifest or an index.
///
/// # Panics
/// When a law is broken.
pub fn manifest(bytes: &[u8]) {
    let limits = Limits::default();
    if let Ok(Document::Image(manifest)) = Document::parse("fuzz", bytes, &limits) {
        let count = manifest.layers.len();
        assert!((1..=limits.layers).contains(&count), "{count} layers");
        let sizes = manifest.layers.iter().map(|layer| u128::from(layer.size));
        assert!(
            sizes.sum::<u128>() <= u128::from(limits.download),
            "too large"
        );
        assert!(
            manifest.config.size <= limits.document,
            "too large a config"
        );
    }
}

/// Reads an image's configuration.
pub fn config(bytes: &[u8]) {
    drop(Details::parse("fuzz", bytes, 1));
}

#[cfg(test)]
mod tests {
    include!("../../../fuzz/mutate.rs");

    /// Headers get the checksum that belongs to them: else nothing behind it would be read.
    fn mend(bytes: &mut [u8]) {
        for block in bytes.chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }

    #[test]
    fn mutants_of_tars() {
        play("tar", mend, super::tar);
    }

    #[test]
    fn mutants_of_manifests() {
        play("manifest", |_| {}, super::manifest);
    }

    #[test]
    fn mutants_of_configurations() {
        play("config", |_| {}, super::config);
    }
}
