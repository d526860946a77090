//! The whole product on a real host: the real `hearthd`, real QEMU guests, real networks.
//!
//! Each test has a host of its own: a network namespace, a data folder and a daemon. What a
//! test leaves behind there is a failure of that test.

mod harness;

mod database;
mod endings;
#[cfg(feature = "failpoints")]
mod failpoints;
mod life;
mod machines;
mod network;
mod orphans;
mod restart;
mod survival;
