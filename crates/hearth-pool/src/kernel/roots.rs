//! The newest roots in metadata whose own word of them is lost, or leads into damage.
//!
//! `thin_repair` looks for them, too; that of Debian 12 (0.9.0) breaks down over metadata with a history. So
//! they are found here, by the rule that it follows, and written into a first block for it: then it has
//! nothing to look for. Two trees belong together if they have the same devices with the same number of
//! blocks each; of such pairs the one with the highest time (which snapshots count) is the newest, then the one with
//! the most blocks of that time. What was discarded or deleted last may so come back: the comparison of
//! ledger, kernel and metadata names it.
//!
//! The form is the kernel's (`drivers/md/persistent-data/dm-btree-internal.h`, `dm-thin-metadata.c`).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use hearth_dm::thin::METADATA_BLOCK;

use crate::ground::First;

const BLOCK: usize = 4096;
/// What checksums of nodes, and of the first block, are mixed with.
const NODE_MARK: u32 = 121_107;
const FIRST_MARK: u32 = 160_774;
/// Of the first block: `THIN_SUPERBLOCK_MAGIC`, and the only version there is.
const MAGIC: u64 = 27_022_010;
const VERSION: u32 = 2;
/// A node's head, then keys of eight bytes, then values.
const HEAD: usize = 32;
const INTERNAL: u32 = 1;
/// The size of a device's details, and of everything else that is looked at.
const DETAILS: u32 = 24;
const NUMBER: u32 = 8;
/// A mapping is a block and the time of its writing, in so many bits.
const TIME_BITS: u32 = 24;
/// Trees are no deeper: each level multiplies by a hundred.
const DEEPEST: u32 = 8;

/// Where the trees begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roots {
    details: u64,
    mappings: u64,
    time: u32,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Roots {
    /// Both are blocks of metadata of this size.
    pub(crate) fn are_below(self, blocks: u64) -> bool {
        self.details < blocks && self.mappings < blocks
    }
}

/// One node as far as it matters here.
enum Node {
    /// Of a tree's inside: its children.
    Inside(Vec<u64>),
    /// Devices: number, blocks, time.
    Devices(Vec<(u64, u64, u32)>),
    /// Numbers: mappings, or the roots of devices' mappings.
    Numbers {
        mapped: Mapped,
        /// What they are if they are roots.
        roots: Option<Vec<(u64, u64)>>,
    },
}

/// How many blocks are mapped, and how many of them at the latest time.
#[derive(Debug, Clone, Copy, Default)]
struct Mapped {
    blocks: u64,
    time: u32,
    latest: u64,
}

impl Mapped {
    fn and(self, other: Self) -> Self {
        let latest = [self, other].iter().map(|it| it.time).max().unwrap_or(0);
        let of = |it: Self| if it.time == latest { it.latest } else { 0 };
        Self {
            blocks: self.blocks.saturating_add(other.blocks),
            time: latest,
            latest: of(self).saturating_add(of(other)),
        }
    }
}

/// All nodes of a file that are whole, by their block.
struct Nodes(HashMap<u64, Node>);

/// Which devices with how many blocks: what two trees that belong together have in common.
type Shape = Vec<(u64, u64)>;

impl Nodes {
    fn read(metadata: &File) -> io::Result<Self> {
        let blocks = metadata.metadata()?.len() / METADATA_BLOCK;
        let mut nodes = HashMap::new();
        let mut bytes = [0; BLOCK];
        for block in 1..blocks {
            metadata.read_exact_at(&mut bytes, block * METADATA_BLOCK)?;
            if let Some(node) = node(&bytes, block, blocks) {
                nodes.insert(block, node);
            }
        }
        Ok(Self(nodes))
    }

    /// The devices of a tree of devices, with the latest of their times. A tree has no node twice, so it
    /// ends after so many nodes as are `left`: damage may have led its branches to one another.
    fn devices(&self, root: u64, depth: u32, left: &mut usize) -> Option<(Shape, u32)> {
        *left = left.checked_sub(1)?;
        match self.0.get(&root)? {
            Node::Devices(devices) => {
                let time = devices.iter().map(|(_, _, time)| *time).max();
                let shape = devices.iter().map(|(id, blocks, _)| (*id, *blocks));
                Some((shape.collect(), time.unwrap_or(0)))
            }
            Node::Inside(children) if depth < DEEPEST => {
                let (mut all, mut latest) = (Shape::new(), 0);
                for child in children {
                    let (shape, time) = self.devices(*child, depth + 1, left)?;
                    all.extend(shape);
                    latest = latest.max(time);
                }
                Some((all, latest))
            }
            Node::Inside(_) | Node::Numbers { .. } => None,
        }
    }

    /// Devices and the roots of their mappings, in a tree of such of no more nodes than are `left`.
    fn mappings(&self, root: u64, depth: u32, left: &mut usize) -> Option<Shape> {
        *left = left.checked_sub(1)?;
        match self.0.get(&root)? {
            Node::Numbers { roots, .. } => roots.clone(),
            Node::Inside(children) if depth < DEEPEST => {
                let all = children
                    .iter()
                    .map(|child| self.mappings(*child, depth + 1, left));
                Some(all.collect::<Option<Vec<_>>>()?.concat())
            }
            Node::Inside(_) | Node::Devices(_) => None,
        }
    }

    /// What a device's tree maps. Trees share nodes, and each is counted once for all.
    fn mapped(
        &self,
        root: u64,
        depth: u32,
        known: &mut HashMap<u64, Option<Mapped>>,
    ) -> Option<Mapped> {
        if let Some(mapped) = known.get(&root) {
            return *mapped;
        }
        // Until it is known: who comes by it again on the way down goes in a circle.
        known.insert(root, None);
        let mapped = match self.0.get(&root)? {
            Node::Numbers { mapped, .. } => Some(*mapped),
            Node::Inside(children) if depth < DEEPEST => {
                let mut all = Some(Mapped::default());
                for child in children {
                    let mapped = self.mapped(*child, depth + 1, known);
                    all = all.zip(mapped).map(|(all, mapped)| all.and(mapped));
                }
                all
            }
            Node::Inside(_) | Node::Devices(_) => None,
        };
        known.insert(root, mapped);
        mapped
    }

    /// The newest pair of trees that belong together.
    fn newest(&self) -> Option<Roots> {
        let mut of_shape: HashMap<Shape, (u32, u64)> = HashMap::new();
        let mut latest = 0;
        for root in self.0.keys() {
            let Some((shape, time)) = self.devices(*root, 0, &mut self.0.len()) else {
                continue;
            };
            latest = latest.max(time);
            let known = of_shape.entry(shape).or_insert((time, *root));
            *known = (*known).max((time, *root));
        }
        let mut known = HashMap::new();
        let mut best = None;
        for root in self.0.keys() {
            let Some(roots) = self.mappings(*root, 0, &mut self.0.len()) else {
                continue;
            };
            let (mut shape, mut all) = (Shape::new(), Some(Mapped::default()));
            for (id, device) in roots {
                let mapped = self.mapped(device, 0, &mut known);
                shape.push((id, mapped.unwrap_or_default().blocks));
                all = all.zip(mapped).map(|(all, mapped)| all.and(mapped));
            }
            let (Some(all), Some((time, details))) = (all, of_shape.get(&shape)) else {
                continue;
            };
            let new = (all.time.max(*time), all.latest, all.blocks, *root, *details);
            best = best.max(Some(new));
        }
        best.map(|(time, _, _, mappings, details)| Roots {
            details,
            mappings,
            time: time.max(latest),
        })
    }
}

/// The newest roots of metadata, if there are any.
pub(super) fn newest(metadata: &File) -> io::Result<Option<Roots>> {
    Ok(Nodes::read(metadata)?.newest())
}

/// Writes a first block with these roots. What else it says is kept of the present one if that is whole, or is
/// what is known of it; false if nothing is.
pub(super) fn write(metadata: &File, roots: Roots, known: Option<First>) -> io::Result<bool> {
    let mut first = [0; BLOCK];
    metadata.read_exact_at(&mut first, 0)?;
    let whole = number(&first, 32, 8) == MAGIC
        && u64::from(sum(&first, FIRST_MARK)) == number(&first, 0, 4);
    if !whole {
        let Some(known) = known else {
            return Ok(false);
        };
        first = [0; BLOCK];
        let block = known.layout.block;
        let all = metadata.metadata()?.len() / METADATA_BLOCK;
        put(&mut first, 32, &MAGIC.to_le_bytes());
        put(&mut first, 40, &VERSION.to_le_bytes());
        put(&mut first, 48, &known.transaction.to_le_bytes());
        put(
            &mut first,
            64,
            &(known.layout.data / block.bytes()).to_le_bytes(),
        );
        put(&mut first, 192, &all.to_le_bytes());
        put(&mut first, 336, &block.sectors().to_le_bytes());
        put(&mut first, 340, &8_u32.to_le_bytes());
        put(&mut first, 344, &all.to_le_bytes());
    }
    put(&mut first, 44, &roots.time.to_le_bytes());
    // Nothing is held still.
    put(&mut first, 56, &[0; 8]);
    put(&mut first, 320, &roots.mappings.to_le_bytes());
    put(&mut first, 328, &roots.details.to_le_bytes());
    let sum = sum(&first, FIRST_MARK);
    put(&mut first, 0, &sum.to_le_bytes());
    metadata.write_all_at(&first, 0)?;
    Ok(true)
}

/// The same in blocks that need not be whole, and of which the beginning is enough.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn newest_of(blocks: &[&[u8]]) -> Option<Roots> {
    let count = blocks.len() as u64;
    let nodes = (0..count).zip(blocks);
    let nodes = nodes.filter_map(|(block, bytes)| Some((block, said(bytes, count)?)));
    Nodes(nodes.collect()).newest()
}

fn put(bytes: &mut [u8; BLOCK], at: usize, what: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + what.len()) {
        place.copy_from_slice(what);
    }
}

/// A number of so many bytes; 0 beyond the end.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let all = bytes.get(at..at.saturating_add(size)).unwrap_or_default();
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(all) {
        *to = *from;
    }
    u64::from_le_bytes(number)
}

fn small(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(number(bytes, at, 4)).unwrap_or(u32::MAX)
}

/// The node in a block, if a whole one is there.
fn node(bytes: &[u8; BLOCK], block: u64, blocks: u64) -> Option<Node> {
    if number(bytes, 8, 8) != block {
        return None;
    }
    let said = said(bytes, blocks)?;
    // Last: most blocks are none, and this takes the longest.
    (u64::from(sum(bytes, NODE_MARK)) == number(bytes, 0, 4)).then_some(said)
}

/// What a block says, if it is a node.
fn said(bytes: &[u8], blocks: u64) -> Option<Node> {
    let (entries, room, size) = (small(bytes, 16), small(bytes, 20), small(bytes, 24));
    if entries > room || !matches!(size, DETAILS | NUMBER) {
        return None;
    }
    let (entries, room) = (usize::try_from(entries).ok()?, usize::try_from(room).ok()?);
    let size_of = usize::try_from(size).ok()?;
    let fits = room
        .checked_mul(8 + size_of)
        .is_some_and(|all| HEAD + all <= BLOCK);
    if !fits {
        return None;
    }
    let key = |entry: usize| number(bytes, HEAD + 8 * entry, 8);
    let value = |entry: usize| HEAD + 8 * room + size_of * entry;
    let numbers = (0..entries).map(|entry| (key(entry), number(bytes, value(entry), 8)));
    if small(bytes, 4) & INTERNAL != 0 {
        return Some(Node::Inside(numbers.map(|(_, child)| child).collect()));
    }
    if size == DETAILS {
        let device = |entry: usize| {
            let at = value(entry);
            let time = small(bytes, at + 16).max(small(bytes, at + 20));
            (key(entry), number(bytes, at, 8), time)
        };
        return Some(Node::Devices((0..entries).map(device).collect()));
    }
    let mapped = numbers.clone().map(|(_, value)| Mapped {
        blocks: 1,
        time: u32::try_from(value & ((1 << TIME_BITS) - 1)).unwrap_or(0),
        latest: 1,
    });
    let are_roots = numbers.clone().all(|(_, value)| value < blocks);
    Some(Node::Numbers {
        mapped: mapped.fold(Mapped::default(), Mapped::and),
        roots: are_roots.then(|| numbers.collect()),
    })
}

/// The kernel's checksum of a block: CRC-32C of all behind it, not turned over at the end.
fn sum(bytes: &[u8; BLOCK], mark: u32) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes.iter().skip(4) {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let bit = sum & 1;
            sum >>= 1;
            if bit != 0 {
                sum ^= 0x82f6_3b78;
            }
        }
    }
    sum ^ mark
}

#[cfg(test)]
mod tests;
