//! Why the store cannot do what was asked.

use camino::Utf8PathBuf;

use super::{DEFAULT, NAME_LIMIT, RECORD_LIMIT};
use crate::source::SourceError;

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file operation in the store failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The source cannot be used.
    #[error("cannot import the kernel")]
    Source(#[from] SourceError),
    /// The initramfs cannot be made.
    #[error("cannot make the initramfs of kernel {name}")]
    Initramfs {
        /// The kernel.
        name: String,
        /// Why.
        #[source]
        source: crate::cpio::TooBig,
    },
    /// The name cannot be used.
    #[error(
        "{name:?} cannot be a kernel's name: letters, digits, '.', '_', '+', '~' and '-', starting with a letter or digit, at most {NAME_LIMIT}, not \"{DEFAULT}\""
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// Another kernel has this name.
    #[error(
        "another kernel is called {name} ({digest}): remove it first, or import under another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The digest of the kernel that has the name.
        digest: String,
    },
    /// There is no kernel of this name.
    #[error("there is no kernel {name}; known kernels: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    Unknown {
        /// The name.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// No name was given and no kernel is the default.
    #[error("no kernel is the default: import one, or choose one of: {}", if known.is_empty() { "none yet".to_owned() } else { known.join(", ") })]
    NoDefault {
        /// Those that are there.
        known: Vec<String>,
    },
    /// A record cannot be read.
    #[error("the record {path} is damaged: remove its folder and import the kernel again")]
    Record {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A record is far bigger than any that was written.
    #[error(
        "the record {path} is bigger than {RECORD_LIMIT} bytes: remove its folder and import the kernel again"
    )]
    RecordTooBig {
        /// The file.
        path: Utf8PathBuf,
    },
}

/// An error of a file operation in the store.
pub(super) fn failed(
    operation: &'static str,
    path: impl Into<Utf8PathBuf>,
) -> impl FnOnce(std::io::Error) -> KernelError {
    let path = path.into();
    move |source| KernelError::Io {
        operation,
        path,
        source,
    }
}
