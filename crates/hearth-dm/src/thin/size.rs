//! How large a pool's blocks and its metadata are, by rule.

use serde::{Deserialize, Serialize};

/// The kernel takes multiples of 64 KiB up to 1 GiB.
const SMALLEST: u32 = 128;
const LARGEST: u32 = 2_097_152;
/// A pool's metadata is never smaller: what fits into less is used up by the first few snapshots,
/// and metadata that is full makes a pool read-only at once.
const LEAST_METADATA: u64 = 16 << 20;
/// The kernel uses no more metadata than this, in bytes (`THIN_METADATA_MAX_SECTORS`).
pub const MOST_METADATA: u64 = 255 * ((1 << 14) - 64) * 4096;
/// What a mapping needs in a b-tree whose leaves are two thirds full, in bytes.
const PER_MAPPING: u64 = 24;
/// Each mapping may be in so many devices of its own before it runs out: snapshots that have been
/// written to share no leaves any more.
const COPIES: u64 = 8;
/// Blocks grow so that a pool has not more than so many: each one costs metadata, and memory when
/// it is checked.
const MOST_BLOCKS: u64 = 4 << 20;

/// How much a pool allots at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct BlockSize(u32);

impl TryFrom<u32> for BlockSize {
    type Error = &'static str;

    fn try_from(sectors: u32) -> Result<Self, Self::Error> {
        Self::from_sectors(sectors).ok_or("no size of blocks")
    }
}

impl From<BlockSize> for u32 {
    fn from(size: BlockSize) -> Self {
        size.0
    }
}

impl BlockSize {
    /// So many sectors: a multiple of 128, at most 2,097,152. `None` for anything else.
    #[must_use]
    pub fn from_sectors(sectors: u32) -> Option<Self> {
        let fits = sectors.is_multiple_of(SMALLEST) && (SMALLEST..=LARGEST).contains(&sectors);
        fits.then_some(Self(sectors))
    }

    /// In sectors of 512 bytes.
    #[must_use]
    pub fn sectors(self) -> u32 {
        self.0
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0) * super::SECTOR
    }
}

/// The block size for a pool of this many bytes: 64 KiB, which is the least that a first write
/// into a snapshot copies, doubled for as long as the pool would have more than four million
/// blocks.
#[must_use]
pub fn block_size(data: u64) -> BlockSize {
    let mut size = BlockSize(SMALLEST);
    while data / size.bytes() > MOST_BLOCKS && size.0 < LARGEST {
        size = BlockSize(size.0 * 2);
    }
    size
}

/// How large the metadata of a pool is made, in bytes: room for every block in eight devices that
/// share nothing but it, at least 16 MiB, at most what the kernel can use.
#[must_use]
pub fn metadata_bytes(data: u64, block: BlockSize) -> u64 {
    let blocks = data.div_ceil(block.bytes());
    let wanted = blocks.saturating_mul(PER_MAPPING * COPIES);
    wanted
        .clamp(LEAST_METADATA, MOST_METADATA)
        .next_multiple_of(super::METADATA_BLOCK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn sizes_by_rule() {
        for (data, block, metadata) in [
            (2 * GIB, 64 << 10, 16 << 20),
            (100 * GIB, 64 << 10, 300 << 20),
            (256 * GIB, 64 << 10, 768 << 20),
            (1024 * GIB, 256 << 10, 768 << 20),
        ] {
            let size = block_size(data);
            assert_eq!(size.bytes(), block, "{data}");
            assert_eq!(metadata_bytes(data, size), metadata, "{data}");
        }
    }

    #[test]
    fn block_sizes_are_the_kernels() {
        for bad in [0, 1, 64, 127, 129, 192, LARGEST + 128] {
            assert_eq!(BlockSize::from_sectors(bad), None, "{bad}");
        }
        for good in [128, 384, LARGEST] {
            assert_eq!(BlockSize::from_sectors(good).unwrap().sectors(), good);
        }
    }

    proptest! {
        #[test]
        fn any_pool_has_sizes_that_the_kernel_takes(data in 0..u64::MAX) {
            let block = block_size(data);
            prop_assert!(BlockSize::from_sectors(block.sectors()).is_some());
            let metadata = metadata_bytes(data, block);
            prop_assert!((LEAST_METADATA..=MOST_METADATA).contains(&metadata));
            prop_assert_eq!(metadata % 4096, 0);
        }
    }
}
