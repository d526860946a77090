//! Why an entry was not written, and how that is said.

use std::io;

use rustix::io::Errno;

use crate::ImageError;
use crate::tarstream::{Entry, TarError, shown};

/// Why an entry was not written.
#[derive(Debug)]
pub(super) enum Problem {
    Refused(String),
    Io(io::Error),
    /// The archive itself cannot be read on.
    Stream(TarError),
    /// An error that already says everything.
    Whole(ImageError),
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Refused(why.into()))
}

pub(super) fn unreadable(layer: &str, error: TarError) -> ImageError {
    match error {
        TarError::Io(source) => ImageError::Archive {
            archive: layer.to_owned(),
            source,
        },
        TarError::Refused { entry, why } => ImageError::Entry {
            archive: layer.to_owned(),
            entry,
            why,
        },
    }
}

pub(super) fn named(layer: &str, entry: &Entry, problem: Problem) -> ImageError {
    match problem {
        Problem::Refused(why) => ImageError::Entry {
            archive: layer.to_owned(),
            entry: shown(&entry.path),
            why,
        },
        Problem::Io(source) => ImageError::Write {
            archive: layer.to_owned(),
            entry: shown(&entry.path),
            source,
        },
        Problem::Stream(error) => unreadable(layer, error),
        Problem::Whole(error) => error,
    }
}
