//! Identifiers that follow from a seed, thread by thread: for tests that tell a story again.

use std::cell::Cell;

use uuid::{Builder, Uuid};

thread_local! {
    /// The next number and the state of the random part, while this thread has a seed.
    static SOURCE: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// Identifiers that this thread makes from now on follow from the seed; `None`: they are new
/// ones again.
pub fn seed(seed: Option<u64>) {
    SOURCE.set(seed.map(|seed| (0, seed)));
}

/// They sort by when they were made, as all do.
pub(super) fn next() -> Option<Uuid> {
    let (count, state) = SOURCE.get()?;
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    SOURCE.set(Some((count + 1, state)));
    let (high, low) = (mix(state), mix(!state));
    let mut random = [0; 10];
    random[..8].copy_from_slice(&high.to_be_bytes());
    random[8..].copy_from_slice(&low.to_be_bytes()[..2]);
    Some(Builder::from_unix_timestamp_millis(count, &random).into_uuid())
}

/// SplitMix64's output function, by Steele, Lea and Flood.
const fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_ones_in_order() {
        let some = || {
            seed(Some(7));
            [next(), next(), next()]
        };
        let first = some();
        assert_eq!(first, some());
        assert!(first.is_sorted() && first[0] != first[1]);
        seed(None);
        assert_eq!(next(), None);
    }
}
