//! Numbers that look random and can be had again.

/// A generator (xorshift64*, Vigna 2016).
pub(crate) struct Random(u64);

impl Random {
    /// With the seed of the environment, else of the clock; it is said.
    pub(crate) fn seeded() -> Self {
        let now = jiff::Timestamp::now().as_second().unsigned_abs();
        let seed = crate::from_environment("HEARTH_TEST_SEED", now);
        println!("seed {seed}");
        Self::new(seed)
    }

    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16;
        usize::try_from(number).unwrap() % bound.max(1)
    }
}
