//! What the kernel offers: processes, mounts, loop devices, commands, locks.
//!
//! Facts only, never policy. With `hearth-net` and `hearth-guest` this is the room where
//! unsafe code may stand, each block with its SAFETY note.

pub mod boot;
pub mod command;
pub mod lock;
pub mod loopdev;
pub mod mount;
pub mod process;
pub mod unixsock;
pub mod dirwatch;
pub mod usage;
