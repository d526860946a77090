//! Objects of S3 and of servers that speak like it: found, read from any byte on, checked.
//!
//! ```text
//!  s3://bucket/key ─► Location ┐
//!  settings, AWS_* variables,  ├─► Bucket ──► head: size, ETag, checksums
//!  shared credentials file ────┘         └──► read: bytes from an offset on, If-Match its ETag
//! ```
//! Only reading is here, and nothing is repeated: who asks knows how long it may take. The
//! signing is `object_store`'s; the HTTP client is the one that registries are spoken to with.
//!
//! What a server answers besides a status and its error's code goes nowhere: the text of such
//! answers repeats what was signed. Secrets are in no message and no log line.

#![forbid(unsafe_code)]

mod access;
mod bucket;
mod checks;
mod error;
mod location;
mod profile;
mod transport;

pub use access::{Environment, Host, Settings};
pub use bucket::{Bucket, Object, Reading};
pub use checks::{Checker, Checksums, Mismatch};
pub use error::S3Error;
pub use location::Location;
