//! Names for VMs whose users gave none: `happy-otter`.

use hearth_types::VmName;

const ADJECTIVES: &[&str] = &[
    "amber", "bold", "brave", "bright", "brisk", "calm", "clever", "cosy", "crisp", "eager",
    "early", "fair", "fond", "gentle", "glad", "golden", "grand", "happy", "humble", "jolly",
    "keen", "kind", "lively", "lucky", "mellow", "merry", "mild", "neat", "noble", "patient",
    "proud", "quick", "quiet", "ready", "silver", "snug", "steady", "sunny", "swift", "tidy",
    "warm", "wise", "witty", "young",
];

const NOUNS: &[&str] = &[
    "acorn", "alder", "badger", "beacon", "birch", "brook", "candle", "cedar", "clover", "comet",
    "cricket", "dove", "ember", "falcon", "fern", "finch", "flame", "forge", "fox", "grove",
    "hare", "harbor", "hazel", "heron", "kettle", "lantern", "lark", "linden", "maple", "meadow",
    "otter", "owl", "pebble", "pine", "raven", "robin", "sparrow", "spruce", "stove", "thistle",
    "timber", "tinder", "willow", "wren",
];

/// A name made of the bits of `seed`; a clash is the daemon's to refuse and ours to try again.
pub(crate) fn pick(seed: u128) -> VmName {
    // Sums of u128 fit after the remainder.
    let index = |bits: u128, len: usize| usize::try_from(bits % len as u128).unwrap_or(0);
    let adjective = ADJECTIVES[index(seed, ADJECTIVES.len())];
    let noun = NOUNS[index(seed >> 24, NOUNS.len())];
    format!("{adjective}-{noun}")
        .parse()
        .expect("lower-case words joined by a hyphen are a label")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_words_is_a_name() {
        for a in 0..ADJECTIVES.len() as u128 {
            for n in 0..NOUNS.len() as u128 {
                pick(a | n << 24);
            }
        }
    }
}
