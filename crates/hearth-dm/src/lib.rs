//! The kernel's device-mapper: its ioctls, and what its thin targets are told and say.
//!
//! ```text
//!  create(name, uuid) ──► load(table) ──► resume ──► active ──► suspend ◄──► resume
//!        │ no table           │ inactive table         │
//!        └────────────────────┴────────────► remove ◄──┘   (EBUSY while it is open)
//! ```
//!
//! This room knows no volumes, images or policies: it makes the calls and reads the answers.
//! [`control::Control`] is the kernel, [`thin`] the words of the `thin-pool` and `thin` targets.
//!
//! **Every call may block for as long as the device below does**, in a state that no signal ends.
//! Who must not wait makes them on a thread that can be given up.
//!
//! **Nobody waits for udev.** libdevmapper gives each change a cookie (a semaphore) that udev's rules
//! take down when they are done, because it wants the links below `/dev/mapper`. Here devices are
//! used by number and by the node that the kernel itself makes (`/dev/dm-N`, devtmpfs), so no cookie
//! is given, and a udev that hangs or is not there holds up nothing. What udev must not do,
//! reading what guests wrote in search of file systems, is kept from it by a rule
//! (`packaging/udev/11-hearth.rules`).

mod call;
pub mod control;
mod device;
mod error;
mod header;
pub mod thin;
mod wire;

pub use control::{Control, Key, Remove, Suspend};
pub use device::{Device, Info, Listed, Table, TargetVersion};
pub use error::DmError;
