//! The store through its public face.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "store/common.rs"]
mod common;
#[path = "store/requests.rs"]
mod requests;
