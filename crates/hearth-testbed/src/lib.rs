//! A whole Debian host as a VM, with systemd, cgroup v2, device-mapper and nested KVM: the
//! place where promises about restarts, reboots, panics and power cuts are proved.
//!
//! ```text
//!  scenarios ──► host (boot, run, reboot, panic, power_cut, wait, audit, measure)
//!                 │        │
//!                 │        └─► ssh ───────── loopback port ──────────┐
//!                 ▼                                                  ▼
//!              machine: QEMU ── root (layer over the shared image), seed (programs, keys)
//!                         └── nbdkit with a cache that a power cut loses ── data
//! ```
//!
//! `docs/testing.md` says how to run and to write scenarios.

#![forbid(unsafe_code)]

pub mod audit;
pub mod evidence;
pub mod hearth;
pub mod host;
pub mod image;
pub mod line;
pub mod machine;
pub mod package;
pub mod paths;
pub mod process;
pub mod programs;
pub mod random;
pub mod runner;
pub mod scenarios;
pub mod ssh;
pub mod suites;
pub mod wait;
pub mod witness;
