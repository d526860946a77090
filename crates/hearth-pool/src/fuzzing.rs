//! What reads the pool's metadata and what its tools say, for fuzzers and for the mutants of the corpus
//! that the tests play.

use crate::kernel::roots;
use crate::thin::kernel::parse;

/// Enough of a node for two keys and two numbers.
const NODE: usize = 64;

/// Looks for the newest roots in metadata of which each piece is the beginning of a node.
///
/// # Panics
/// When a law is broken.
pub fn metadata(bytes: &[u8]) {
    let blocks: Vec<&[u8]> = bytes.chunks(NODE).collect();
    if let Some(found) = roots::newest_of(&blocks) {
        assert!(found.are_below(blocks.len() as u64), "{found:?}");
    }
}

/// Reads the list of a pool's devices that `thin_ls` writes.
///
/// # Panics
/// When a law is broken.
pub fn listed(bytes: &[u8]) {
    let said = String::from_utf8_lossy(bytes);
    if let Ok(found) = parse(&said) {
        let lines = said.lines().filter(|line| !line.trim().is_empty());
        assert_eq!(found.len(), lines.count(), "a line is a device");
    }
}

#[cfg(test)]
mod mutants {
    include!("../../../fuzz/mutate.rs");

    #[test]
    fn of_metadata() {
        play("metadata", |_| {}, super::metadata);
    }

    #[test]
    fn of_lists() {
        play("thin-ls", |_| {}, super::listed);
    }
}
