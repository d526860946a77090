use hearth_dm::thin::BlockSize;

use super::*;
use crate::ground::Layout;

const BLOCKS: u64 = 64;

/// Metadata that is written node by node.
struct Paper(File);

impl Paper {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BLOCKS * METADATA_BLOCK).unwrap();
        Self(file)
    }

    fn node(&self, block: u64, flags: u32, size: u32, entries: &[(u64, Vec<u8>)]) {
        let mut bytes = [0; BLOCK];
        let room: u32 = if size == DETAILS { 126 } else { 252 };
        put(&mut bytes, 4, &flags.to_le_bytes());
        put(&mut bytes, 8, &block.to_le_bytes());
        put(
            &mut bytes,
            16,
            &u32::try_from(entries.len()).unwrap().to_le_bytes(),
        );
        put(&mut bytes, 20, &room.to_le_bytes());
        put(&mut bytes, 24, &size.to_le_bytes());
        let (room, size) = (room as usize, size as usize);
        for (entry, (key, value)) in entries.iter().enumerate() {
            put(&mut bytes, HEAD + 8 * entry, &key.to_le_bytes());
            put(&mut bytes, HEAD + 8 * room + size * entry, value);
        }
        let sum = sum(&bytes, NODE_MARK);
        put(&mut bytes, 0, &sum.to_le_bytes());
        self.0.write_all_at(&bytes, block * METADATA_BLOCK).unwrap();
    }

    fn numbers(&self, block: u64, inside: bool, entries: &[(u64, u64)]) {
        let entries: Vec<_> = entries
            .iter()
            .map(|(key, value)| (*key, value.to_le_bytes().to_vec()))
            .collect();
        self.node(block, if inside { INTERNAL } else { 2 }, NUMBER, &entries);
    }

    /// Mappings of so many blocks from this one on, of one time.
    fn mapped(&self, block: u64, from: u64, count: u64, time: u64) {
        let all: Vec<_> = (from..from + count)
            .map(|at| (at, ((at + 1000) << TIME_BITS) | time))
            .collect();
        self.numbers(block, false, &all);
    }

    fn devices(&self, block: u64, devices: &[(u64, u64, u32)]) {
        let entries: Vec<_> = devices
            .iter()
            .map(|(id, blocks, time)| {
                let mut details = blocks.to_le_bytes().to_vec();
                details.extend([0; 8]);
                details.extend(time.to_le_bytes());
                details.extend(time.to_le_bytes());
                (*id, details)
            })
            .collect();
        self.node(block, 2, DETAILS, &entries);
    }
}

fn roots(details: u64, mappings: u64, time: u32) -> Option<Roots> {
    Some(Roots {
        details,
        mappings,
        time,
    })
}

/// A device of ten blocks, then of twelve, then with a snapshot.
fn with_a_history() -> Paper {
    let paper = Paper::new();
    paper.mapped(10, 0, 10, 0);
    paper.numbers(11, false, &[(1, 10)]);
    paper.devices(12, &[(1, 10, 0)]);
    paper.mapped(20, 0, 12, 0);
    paper.numbers(21, false, &[(1, 20)]);
    paper.devices(22, &[(1, 12, 0)]);
    paper.numbers(31, false, &[(1, 20), (2, 20)]);
    paper.devices(32, &[(1, 12, 1), (2, 12, 1)]);
    paper
}

/// Each node leads to itself two hundred times: eight levels of that would never end.
#[test]
fn a_circle_is_no_tree_and_what_is_whole_beside_it_is_found() {
    let paper = with_a_history();
    let itself = |block| (0..200).map(|key| (key, block)).collect::<Vec<_>>();
    paper.numbers(40, true, &itself(40));
    paper.numbers(41, false, &[(1, 40)]);
    assert_eq!(newest(&paper.0).unwrap(), roots(32, 31, 1));
}

#[test]
fn the_newest_pair_that_belongs_together_is_found() {
    let paper = with_a_history();
    assert_eq!(newest(&paper.0).unwrap(), roots(32, 31, 1));
    // Its devices are damaged: the one before has all that it says.
    paper
        .0
        .write_all_at(&[1], 32 * METADATA_BLOCK + 50)
        .unwrap();
    assert_eq!(newest(&paper.0).unwrap(), roots(22, 21, 0));
    // Its mappings, too: what both of them need.
    paper
        .0
        .write_all_at(&[1], 20 * METADATA_BLOCK + 50)
        .unwrap();
    assert_eq!(newest(&paper.0).unwrap(), roots(12, 11, 0));
    paper
        .0
        .write_all_at(&[1], 10 * METADATA_BLOCK + 50)
        .unwrap();
    assert_eq!(newest(&paper.0).unwrap(), None);
}

#[test]
fn trees_of_more_than_one_node_are_followed_and_none_runs_in_a_circle() {
    let paper = Paper::new();
    paper.mapped(10, 0, 200, 3);
    paper.mapped(11, 200, 100, 4);
    paper.numbers(12, true, &[(0, 10), (200, 11)]);
    paper.numbers(13, false, &[(7, 12)]);
    paper.devices(14, &[(7, 300, 2)]);
    // Nodes that lead to themselves, and out of the metadata.
    paper.numbers(20, true, &[(0, 20)]);
    paper.numbers(21, true, &[(0, BLOCKS + 9)]);
    paper.numbers(22, false, &[(9, 20)]);
    assert_eq!(newest(&paper.0).unwrap(), roots(14, 13, 4));
}

#[test]
fn a_first_block_says_where_they_are_and_keeps_what_it_said() {
    let paper = with_a_history();
    let found = newest(&paper.0).unwrap().unwrap();
    assert!(!write(&paper.0, found, None).unwrap(), "nothing is known");
    let known = First {
        transaction: 17,
        layout: Layout {
            data: 256 << 20,
            metadata: BLOCKS * METADATA_BLOCK,
            block: BlockSize::from_sectors(128).unwrap(),
        },
    };
    assert!(write(&paper.0, found, Some(known)).unwrap());
    let mut first = [0; BLOCK];
    let read = |first: &mut [u8; BLOCK]| paper.0.read_exact_at(first, 0).unwrap();
    read(&mut first);
    assert_eq!(u64::from(sum(&first, FIRST_MARK)), number(&first, 0, 4));
    let said = [48, 64, 320, 328].map(|at| number(&first, at, 8));
    assert_eq!(said, [17, 4096, 31, 32]);
    assert_eq!((small(&first, 44), small(&first, 336)), (1, 128));
    // It is whole now: what it says is believed, but for the roots.
    let other = First {
        transaction: 1,
        ..known
    };
    let before = roots(22, 21, 0).unwrap();
    assert!(write(&paper.0, before, Some(other)).unwrap());
    read(&mut first);
    let said = [48, 64, 320, 328].map(|at| number(&first, at, 8));
    assert_eq!(said, [17, 4096, 21, 22]);
}
