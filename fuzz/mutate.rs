// Mutants of a corpus, the same each time: a fuzzer's short day in `make test`, with no more than
// the stable compiler. Included by the tests of the crates that have targets.

/// How many mutants are made of each seed.
pub(crate) const MUTANTS: u32 = 4000;

/// The seeds of a target.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/");
    let mut paths: Vec<_> = std::fs::read_dir(format!("{folder}{target}"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no corpus");
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// xorshift64*: good enough for choices, and the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or(0) % limit.max(1)
    }
}

/// Shows a check every seed as it is, and mutants of it.
pub(crate) fn play(target: &str, mend: impl Fn(&mut [u8]), check: impl Fn(&[u8])) {
    let seeds = corpus(target);
    for seed in &seeds {
        check(seed);
    }
    let mut dice = Dice::new(42);
    for seed in &seeds {
        for _ in 0..MUTANTS {
            let mut mutant = seed.clone();
            for _ in 0..=dice.below(4) {
                mutate(&mut mutant, &seeds, &mut dice);
            }
            if dice.below(4) > 0 {
                mend(&mut mutant);
            }
            check(&mutant);
        }
    }
}

/// Bytes and words that parsers stumble over.
const ODD: [&[u8]; 12] = [
    b"\0", b"\xff", b"\x80", b"-1", b"18446744073709551616", b"9223372036854775807", b"..", b"/",
    b"\n", b"=", b"\"", b"{",
];

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    match dice.below(7) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
        1 if !bytes.is_empty() => bytes[at] = u8::try_from(dice.below(256)).unwrap_or(0),
        2 => bytes.truncate(at),
        3 => {
            let end = (at + dice.below(600)).min(bytes.len());
            let copy = bytes[at.min(end)..end].to_vec();
            bytes.extend(copy);
        }
        4 => {
            let other = &seeds[dice.below(seeds.len())];
            let from = dice.below(other.len());
            bytes.truncate(at);
            bytes.extend(&other[from.min(other.len())..]);
        }
        5 => {
            let end = (at + dice.below(16)).min(bytes.len());
            drop(bytes.drain(at.min(end)..end));
        }
        _ => {
            let odd = ODD[dice.below(ODD.len())];
            let at = at.min(bytes.len());
            let end = (at + odd.len()).min(bytes.len());
            drop(bytes.splice(at..end, odd.iter().copied()));
        }
    }
    bytes.truncate(64 << 10);
}
