//! The daemon's configuration: one table of keys, four sources, every value checked.
//!
//! Defaults, then the file, then the environment, then flags; `Config::load` puts them
//! together and says everything that is wrong at once. Nothing here touches the host beyond
//! reading the files that are named.
#![forbid(unsafe_code)]

mod docs;
mod envfile;
mod error;
mod flags;
mod keys;
mod kinds;
mod load;
mod resolve;

pub use docs::{default_file, docs};
pub use error::{ConfigError, Source};
pub use flags::DaemonFlags;
pub use keys::{Config, KEYS, Key};
pub use kinds::{AccelMode, DefaultDriver, DiskReserve, LogFormat, OrphanMode, Secret, Storage};
pub use load::{DEFAULT_FILE, Loaded, check_config};

#[cfg(test)]
mod tests;
