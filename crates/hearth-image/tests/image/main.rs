//! The store as its callers use it: real volumes, real registries, real crashes. Needs root.

// What Clippy asks of a test module: helpers may unwrap and print like the tests themselves.
#[cfg(test)]
mod common;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod import;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod login;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod s3;
#[cfg(test)]
#[path = "../../../hearth-s3/tests/s3/server.rs"]
mod s3_server;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod tls;
