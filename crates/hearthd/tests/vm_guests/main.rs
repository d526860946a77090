//! The whole product on a real host: the real `hearthd`, real QEMU guests, real networks.
//!
//! Each test has a host of its own: a network namespace, a data folder and a daemon. What a
//! test leaves behind there is a failure of that test.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, also in the harness; a skipped test says why"
)]

mod harness;

mod chaos;
mod database;
mod dumps;
mod endings;
mod failpoints;
mod firecracker;
mod full;
mod health;
mod images;
mod life;
mod machines;
mod network;
mod orphans;
mod restart;
mod shutdown;
mod snapshots;
mod survival;
mod terminal;
mod volumes;
