//! What the kernel offers: processes, mounts, loop devices, commands, locks.
//!
//! Facts only, never policy. With `hearth-dm`, `hearth-net` and `hearth-guest` this is the room where
//! unsafe code may stand, each block with its SAFETY note.
//!
//! | module | offers |
//! | --- | --- |
//! | [`process`] | processes with our mark: survey, proof of identity, signals, death by pidfd |
//! | [`boot`] | which boot this is, and when it began |
//! | [`lock`] | one process at a time owns a folder |
//! | [`loopdev`], [`mount`] | a file as a block device; mounts that no namespace contains |
//! | [`memory`] | how much freed memory this process keeps |
//! | [`pressure`] | how much of the time tasks wait for CPU or memory |
//! | [`signals`] | signals that break off a wait and end nothing |
//! | [`command`] | other programs, with a deadline and their words on failure |
//! | [`load`] | what of memory and of the CPUs' time is left |
//! | [`kmsg`] | the kernel's log, record by record |
//! | [`waits`] | threads that wait in the kernel, and for what |
//! | [`aside`] | work that blocks, where it holds up nobody |
//! | [`dirwatch`], [`unixsock`], [`usage`] | folders that change, sockets with long paths, what a process uses |

pub mod aside;
pub mod boot;
pub mod command;
pub mod dirwatch;
pub mod kmsg;
pub mod load;
pub mod lock;
pub mod loopdev;
pub mod memory;
pub mod mount;
pub mod pressure;
pub mod process;
pub mod signals;
pub mod unixsock;
pub mod usage;
pub mod waits;
