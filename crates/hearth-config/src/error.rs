//! What can be wrong with a configuration.

use std::fmt;

use camino::Utf8PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The built-in default.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: Utf8PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag.
    Flag {
        /// Its name without the dashes.
        flag: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {path}:{line}"),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Flag { flag } => write!(f, "flag --{flag}"),
        }
    }
}

/// One thing wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line of the file is no assignment.
    #[error("{path}:{line}: {message}")]
    Syntax {
        /// The file.
        path: Utf8PathBuf,
        /// The line.
        line: usize,
        /// What is wrong, and the accepted form.
        message: String,
    },
    /// A line of the file sets a key that there is not.
    #[error(
        "{path}:{line}: there is no key {key}{}",
        nearest.map_or_else(String::new, |near| format!("; did you mean {near}?"))
    )]
    UnknownKey {
        /// The file.
        path: Utf8PathBuf,
        /// The line.
        line: usize,
        /// The key as it was written.
        key: String,
        /// The known key that is most like it.
        nearest: Option<&'static str>,
    },
    /// A value does not have the accepted form.
    #[error("{key} ({source_of}) is {value}: expected {form}")]
    Value {
        /// The key.
        key: &'static str,
        /// Where the value came from.
        source_of: Source,
        /// The value in quotation marks; not shown if it is a secret.
        value: String,
        /// The accepted form.
        form: &'static str,
    },
    /// Values that are each right do not go together.
    #[error("{0}")]
    Conflict(String),
}
