//! Failures as they go over the wire: the kinds that a ground can give keep their kind, all others
//! their words.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use camino::Utf8PathBuf;
use hearth_dm::DmError;
use hearth_dm::thin::StatusError;
use hearth_host::loopdev::LoopError;
use hearth_types::survey::chain;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::wire::plain;
use crate::base::Unfit;
use crate::error::PoolError;
use crate::thin::ThinError;

/// A word of the program's own: serde would have it borrowed for ever if it saw the type.
type Word = &'static str;

/// So many words are kept; those of all errors are fewer. What comes after them is said without.
const WORDS_MOST: usize = 256;

/// A failure.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    Unavailable {
        #[serde(with = "Dm")]
        source: DmError,
    },
    PoolDm {
        #[serde(with = "word")]
        operation: Word,
        #[serde(with = "Dm")]
        source: DmError,
    },
    PoolForeign(String),
    Status {
        said: String,
        #[serde(with = "word")]
        problem: Word,
    },
    NotWorking {
        #[serde(with = "word")]
        state: Word,
    },
    InUse(u32),
    Loop {
        #[serde(with = "Loop")]
        source: LoopError,
    },
    File {
        path: Utf8PathBuf,
        what: String,
    },
    PoolIo {
        #[serde(with = "word")]
        operation: Word,
        path: Utf8PathBuf,
        #[serde(with = "number")]
        source: io::Error,
    },
    Device {
        device: Utf8PathBuf,
        what: String,
        unfit: Unfit,
    },
    ThinDm {
        #[serde(with = "word")]
        operation: Word,
        id: u32,
        #[serde(with = "Dm")]
        source: DmError,
    },
    NotResumed {
        origin: u32,
        #[serde(with = "Dm")]
        source: DmError,
    },
    ThinForeign(String),
    Garbled(String),
    Other(String),
}

impl From<ThinError> for Said {
    fn from(error: ThinError) -> Self {
        match error {
            ThinError::Pool(error) => error.into(),
            ThinError::Dm {
                operation,
                id,
                source,
            } => Self::ThinDm {
                operation,
                id,
                source,
            },
            ThinError::NotResumed { origin, source } => Self::NotResumed { origin, source },
            ThinError::Foreign { what } => Self::ThinForeign(what),
            ThinError::Garbled { line } => Self::Garbled(line),
            other => Self::Other(chain(&other)),
        }
    }
}

impl From<PoolError> for Said {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Unavailable(source) => Self::Unavailable { source },
            PoolError::Dm { operation, source } => Self::PoolDm { operation, source },
            PoolError::Foreign { what } => Self::PoolForeign(what),
            PoolError::Garbled(StatusError { said, problem }) => Self::Status { said, problem },
            PoolError::NotWorking { state } => Self::NotWorking { state },
            PoolError::InUse { users } => Self::InUse(users),
            PoolError::Loop(source) => Self::Loop { source },
            PoolError::File { path, what } => Self::File { path, what },
            PoolError::Device {
                device,
                what,
                unfit,
            } => Self::Device {
                device,
                what,
                unfit,
            },
            PoolError::Io {
                operation,
                path,
                source,
            } => Self::PoolIo {
                operation,
                path,
                source,
            },
            other => Self::Other(chain(&other)),
        }
    }
}

impl From<Said> for ThinError {
    fn from(said: Said) -> Self {
        let pool = match said {
            Said::Unavailable { source } => PoolError::Unavailable(source),
            Said::PoolDm { operation, source } => PoolError::Dm { operation, source },
            Said::PoolForeign(what) => PoolError::Foreign { what },
            Said::Status { said, problem } => PoolError::Garbled(StatusError { said, problem }),
            Said::NotWorking { state } => PoolError::NotWorking { state },
            Said::InUse(users) => PoolError::InUse { users },
            Said::Loop { source } => PoolError::Loop(source),
            Said::File { path, what } => PoolError::File { path, what },
            Said::Device {
                device,
                what,
                unfit,
            } => PoolError::Device {
                device,
                what,
                unfit,
            },
            Said::PoolIo {
                operation,
                path,
                source,
            } => PoolError::Io {
                operation,
                path,
                source,
            },
            Said::Other(what) => PoolError::Helper {
                what: "says".to_owned(),
                source: io::Error::other(what),
            },
            Said::ThinDm {
                operation,
                id,
                source,
            } => {
                return Self::Dm {
                    operation,
                    id,
                    source,
                };
            }
            Said::NotResumed { origin, source } => return Self::NotResumed { origin, source },
            Said::ThinForeign(what) => return Self::Foreign { what },
            Said::Garbled(line) => return Self::Garbled { line },
        };
        Self::Pool(pool)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "DmError", rename_all = "snake_case")]
enum Dm {
    NotHere(#[serde(with = "number")] io::Error),
    Absent {
        key: String,
    },
    Exists {
        key: String,
    },
    Busy {
        key: String,
    },
    Invalid {
        what: String,
    },
    Garbled,
    Refused {
        #[serde(with = "word")]
        operation: Word,
        key: String,
        #[serde(with = "number")]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "LoopError", rename_all = "snake_case")]
enum Loop {
    Control(#[serde(with = "number")] io::Error),
    Open {
        #[serde(with = "path")]
        device: PathBuf,
        #[serde(with = "number")]
        source: io::Error,
    },
    Device {
        #[serde(with = "word")]
        action: Word,
        #[serde(with = "path")]
        device: PathBuf,
        #[serde(with = "number")]
        source: io::Error,
    },
    Busy,
    InUse {
        #[serde(with = "path")]
        device: PathBuf,
        waited: Duration,
    },
}

mod path {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize as _, PathBuf, Serialize as _, Utf8PathBuf, plain};

    pub(super) fn serialize<S: Serializer>(
        path: &std::path::Path,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        plain(path).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Utf8PathBuf::deserialize(from).map(Utf8PathBuf::into_std_path_buf)
    }
}

/// The number of a system error, and its words where it has none.
mod number {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize, Serialize, io};

    #[derive(Serialize, Deserialize)]
    struct Number {
        number: Option<i32>,
        words: String,
    }

    pub(super) fn serialize<S: Serializer>(error: &io::Error, to: S) -> Result<S::Ok, S::Error> {
        let number = error.raw_os_error();
        let words = number.map_or_else(|| error.to_string(), |_| String::new());
        Number { number, words }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<io::Error, D::Error> {
        let Number { number, words } = Number::deserialize(from)?;
        Ok(number.map_or_else(|| io::Error::other(words), io::Error::from_raw_os_error))
    }
}

mod word {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize as _, Serialize as _, Word, keep};

    pub(super) fn serialize<S: Serializer>(word: &Word, to: S) -> Result<S::Ok, S::Error> {
        word.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
        String::deserialize(from).map(keep)
    }
}

/// The same word for as long as the program lives. There are few: they are those of the helper's own errors.
fn keep(word: String) -> Word {
    static WORDS: Mutex<BTreeSet<Word>> = Mutex::new(BTreeSet::new());
    let mut words = WORDS.lock();
    if let Some(known) = words.get(word.as_str()) {
        return known;
    }
    if words.len() >= WORDS_MOST {
        return "do it";
    }
    let kept: Word = word.leak();
    words.insert(kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_the_wire(error: ThinError) -> ThinError {
        let sent = serde_json::to_vec(&Said::from(error)).unwrap();
        serde_json::from_slice::<Said>(&sent).unwrap().into()
    }

    fn errno(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    fn refused(number: i32) -> DmError {
        DmError::Refused {
            operation: "send a message to",
            key: "HEARTH-x".to_owned(),
            source: errno(number),
        }
    }

    #[test]
    fn failures_say_and_mean_the_same_on_both_ends() {
        let key = || "HEARTH-x".to_owned();
        let device = || PathBuf::from("/dev/loop7");
        let loops = [
            LoopError::Control(errno(2)),
            LoopError::Open {
                device: device(),
                source: errno(13),
            },
            LoopError::Device {
                action: "attach a file to",
                device: device(),
                source: errno(22),
            },
            LoopError::Busy,
            LoopError::InUse {
                device: device(),
                waited: Duration::from_secs(3),
            },
        ];
        let mut all: Vec<(PoolError, PoolError)> = Vec::new();
        let mut pool = |make: &dyn Fn() -> PoolError| all.push((make(), make()));
        for make in [
            &|| PoolError::Unavailable(DmError::NotHere(errno(2))) as PoolError,
            &|| PoolError::Foreign {
                what: "a device of others".to_owned(),
            },
            &|| {
                PoolError::Garbled(
                    "half a word"
                        .parse::<hearth_dm::thin::PoolStatus>()
                        .unwrap_err(),
                )
            },
            &|| PoolError::NotWorking { state: "down" },
            &|| PoolError::InUse { users: 3 },
            &|| PoolError::File {
                path: "/p/data".into(),
                what: "is gone".to_owned(),
            },
            &|| PoolError::Device {
                device: "/dev/sdq".into(),
                what: "is not there".to_owned(),
                unfit: Unfit::Missing,
            },
            &|| PoolError::io("open", "/p/data")(errno(5)),
        ] as [&dyn Fn() -> PoolError; 8]
        {
            pool(make);
        }
        for (one, other) in all {
            let (kind, said) = (other.kind(), chain(&other));
            let ThinError::Pool(there) = over_the_wire(one.into()) else {
                unreachable!("{said}")
            };
            assert_eq!((there.kind(), chain(&there)), (kind, said));
        }
        for error in loops {
            let said = chain(&error);
            let there = over_the_wire(PoolError::Loop(error).into());
            assert!(chain(&there).ends_with(&said), "{}", chain(&there));
        }
        for source in [
            DmError::Absent { key: key() },
            DmError::Exists { key: key() },
            DmError::Busy { key: key() },
            DmError::Invalid { what: key() },
            DmError::Garbled,
            refused(16),
        ] {
            let said = chain(&source);
            let error = ThinError::Dm {
                operation: "make",
                id: 7,
                source,
            };
            let refusal = error.is_refusal();
            let there = over_the_wire(error);
            assert_eq!(there.is_refusal(), refusal);
            assert!(chain(&there).ends_with(&said), "{}", chain(&there));
        }
    }

    #[test]
    fn what_the_kernel_meant_is_still_told_by_its_number() {
        let dm = |number| ThinError::Dm {
            operation: "make",
            id: 7,
            source: refused(number),
        };
        assert!(over_the_wire(dm(17)).is_taken());
        assert!(over_the_wire(dm(61)).is_no_data());
        let waits = over_the_wire(ThinError::NotResumed {
            origin: 3,
            source: refused(5),
        });
        assert!(matches!(waits, ThinError::NotResumed { origin: 3, .. }));
        let other = over_the_wire(ThinError::NoChanges { state: "read_only" });
        assert!(!other.is_refusal());
        assert!(chain(&other).contains("read_only"), "{}", chain(&other));
    }

    #[test]
    fn words_are_kept_once() {
        let (one, other) = (keep("a word".to_owned()), keep("a word".to_owned()));
        assert!(std::ptr::eq(one, other));
    }
}
