//! What a pool and a thin device say of themselves.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The words of a status that are not understood. A pool whose state is not known is no healthy
/// pool, and no absent one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the target's state {said:?} cannot be understood: {problem}")]
pub struct StatusError {
    /// What it said.
    pub said: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// How much of something is used, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// So many are.
    pub used: u64,
    /// Of so many.
    pub total: u64,
}

impl Usage {
    /// So many are not.
    #[must_use]
    pub fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

/// What a pool lets its devices do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Read and write.
    ReadWrite,
    /// Read, and write what has its block already: there are no free data blocks. Other writes
    /// wait or fail.
    OutOfDataSpace,
    /// Read: the metadata is full or damaged.
    ReadOnly,
}

/// What a pool says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolStatus {
    /// It works, more or less.
    Works {
        /// The count that user space keeps in its metadata.
        transaction_id: u64,
        /// Blocks of 4 KiB.
        metadata: Usage,
        /// Blocks of the pool's own size.
        data: Usage,
        /// There is a metadata snapshot, and where its root is.
        held_root: Option<u64>,
        /// What it lets its devices do.
        mode: Mode,
        /// Discards reach the data device.
        discard_passdown: bool,
        /// Writes without room wait.
        queues: bool,
        /// Its metadata must be checked before it is written again: a write of it has failed.
        needs_check: bool,
    },
    /// It gave up: every request fails until it is loaded again.
    Failed,
}

impl FromStr for PoolStatus {
    type Err = StatusError;

    fn from_str(said: &str) -> Result<Self, StatusError> {
        let error = |problem| StatusError {
            said: said.to_owned(),
            problem,
        };
        let words: Vec<&str> = said.split_ascii_whitespace().collect();
        // "Error": the target could not even ask its metadata.
        if matches!(words.as_slice(), ["Fail" | "Error"]) {
            return Ok(Self::Failed);
        }
        let [transaction, metadata, data, held, features @ ..] = words.as_slice() else {
            return Err(error("it has too few words"));
        };
        let number = |word: &str| word.parse().map_err(|_| error("a number is none"));
        let usage = |word: &str| {
            let (used, total) = word.split_once('/').ok_or(error("a usage is none"))?;
            Ok(Usage {
                used: number(used)?,
                total: number(total)?,
            })
        };
        let has = |word: &str| features.contains(&word);
        // Unknown words are those of newer kernels, but one of these is always there.
        let mode = match (has("rw"), has("ro"), has("out_of_data_space")) {
            (true, false, false) => Mode::ReadWrite,
            (false, true, false) => Mode::ReadOnly,
            (false, false, true) => Mode::OutOfDataSpace,
            _ => return Err(error("it does not say its mode")),
        };
        Ok(Self::Works {
            transaction_id: number(transaction)?,
            metadata: usage(metadata)?,
            data: usage(data)?,
            held_root: match *held {
                "-" => None,
                root => Some(number(root)?),
            },
            mode,
            discard_passdown: has("discard_passdown"),
            queues: has("queue_if_no_space"),
            needs_check: has("needs_check"),
        })
    }
}

/// What a thin device says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinStatus {
    /// It works.
    Works {
        /// So many sectors have blocks, shared ones among them.
        mapped_sectors: u64,
        /// The highest sector that has one; `None` if none has.
        highest: Option<u64>,
    },
    /// Its pool gave up, or it has none.
    Failed,
}

impl FromStr for ThinStatus {
    type Err = StatusError;

    fn from_str(said: &str) -> Result<Self, StatusError> {
        let error = |problem| StatusError {
            said: said.to_owned(),
            problem,
        };
        let number = |word: &str| word.parse().map_err(|_| error("a number is none"));
        let words: Vec<&str> = said.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["Fail" | "Error" | "-"] => Ok(Self::Failed),
            [mapped, highest, ..] => Ok(Self::Works {
                mapped_sectors: number(mapped)?,
                highest: match *highest {
                    "-" => None,
                    sector => Some(number(sector)?),
                },
            }),
            _ => Err(error("it has too few words")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn works(said: &str) -> (Mode, bool, bool) {
        match said.parse() {
            Ok(PoolStatus::Works {
                mode,
                needs_check,
                queues,
                ..
            }) => (mode, needs_check, queues),
            other => panic!("{said:?}: {other:?}"),
        }
    }

    #[test]
    fn a_pool_in_each_of_its_states() {
        let said = "3 141/4161600 20/1024 - rw discard_passdown queue_if_no_space - 1024";
        assert_eq!(
            said.parse(),
            Ok(PoolStatus::Works {
                transaction_id: 3,
                metadata: Usage {
                    used: 141,
                    total: 4_161_600
                },
                data: Usage {
                    used: 20,
                    total: 1024
                },
                held_root: None,
                mode: Mode::ReadWrite,
                discard_passdown: true,
                queues: true,
                needs_check: false,
            })
        );
        for (said, state) in [
            (
                "0 1/2 3/4 17 ro no_discard_passdown error_if_no_space needs_check 64",
                (Mode::ReadOnly, true, false),
            ),
            (
                "0 1/2 4/4 - out_of_data_space discard_passdown queue_if_no_space - 64",
                (Mode::OutOfDataSpace, false, true),
            ),
            // Kernels before 3.19 had no low water mark and no needs_check.
            (
                "0 1/2 3/4 - rw no_discard_passdown",
                (Mode::ReadWrite, false, false),
            ),
        ] {
            assert_eq!(works(said), state, "{said}");
        }
        for said in ["Fail", "Error"] {
            assert_eq!(said.parse(), Ok(PoolStatus::Failed));
        }
    }

    #[test]
    fn what_is_not_understood_is_no_state() {
        for said in [
            "",
            "0",
            "0 1/2 3/4 -",
            "x 1/2 3/4 - rw",
            "0 1 3/4 - rw",
            "0 1/2 3/-4 - rw",
            "0 1/2 3/4 ? rw",
            "0 1/2 3/4 - rw ro",
        ] {
            assert!(
                said.parse::<PoolStatus>().is_err(),
                "{said:?} was understood"
            );
        }
        for said in ["", "1", "x 2", "1 x"] {
            assert!(
                said.parse::<ThinStatus>().is_err(),
                "{said:?} was understood"
            );
        }
    }

    #[test]
    fn a_thin_device_in_each_of_its_states() {
        for (said, status) in [
            (
                "2048 2047",
                ThinStatus::Works {
                    mapped_sectors: 2048,
                    highest: Some(2047),
                },
            ),
            (
                "0 -",
                ThinStatus::Works {
                    mapped_sectors: 0,
                    highest: None,
                },
            ),
            ("Fail", ThinStatus::Failed),
            ("-", ThinStatus::Failed),
        ] {
            assert_eq!(said.parse(), Ok(status), "{said}");
        }
    }

    proptest! {
        #[test]
        fn no_words_make_it_panic(said in "[ -~\\n]{0,120}") {
            // Understood or not, it comes back and says so.
            if let Err(error) = said.parse::<PoolStatus>() {
                prop_assert_eq!(error.said, said.clone());
            }
            if let Err(error) = said.parse::<ThinStatus>() {
                prop_assert_eq!(error.said, said);
            }
        }
    }
}
