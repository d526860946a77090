//! The thin pool: two files of the data folder, two loop devices, one device of the kernel's. Its data may be on a
//! block device of its own instead, see [`Base`].
//!
//! ```text
//!               setup: files, the kernel formats,                bring_up: thin_check is good,
//!               taken down, thin_check, all durable              loop devices, table
//!  absent ──► preparing ───────────────────────────────► down ───────────────────────────────► up
//!    ▲          │ cut off: begun anew,                    ▲ │ ▲   reboot, panic, power cut:      │
//!    │          │ nothing is in it yet                    │ │ └── the kernel has forgotten it ───┤
//!    │          ▼                                         │ ▼                                    │
//!    │◄── setup failed: files removed              good ──┤ damaged: not put together            │
//!    │                                                    └── check ◄────────────────────────────┤
//!    └──────────── destroying: taken down, files removed ◄── destroy ────────────────────────────┘
//!                    cut off: destroy goes on
//! ```
//! While it is up the kernel may make it `full`, `read_only` or `failed`. `preparing`, `down` (its
//! record says *ready*) and `destroying` are on the disk, in `pool.json` beside the files; what the kernel
//! has is asked each time. [`judge`](state::judge) makes one answer of both.
//!
//! Rules
//! - **A pool that was ready is never formatted again.** The kernel formats metadata whose first
//!   block is zero, and so would begin anew over a metadata file that was lost. So nothing is put
//!   together that `thin_check` has not read, and only `preparing`, in which nothing can be stored, makes files.
//! - **Nothing of others is touched.** A device is changed by the uuid that is our mark, in the
//!   call itself; it counts as ours only if it stands on our files; a device of others with our
//!   name is told, and stays.
//! - **A crash leaks nothing.** Loop devices free themselves when nobody holds them: before the
//!   table is loaded that is this process, afterwards the pool.
//! - **Nobody waits for ever.** A change goes through the operation guard (`hearth-safeguards`): the host is looked
//!   at first, it is made on a thread of its own, one at a time, with a deadline; a thread that does not come back
//!   holds up the pool's next change, with a message that says so, and nothing else.

#![forbid(unsafe_code)]

mod backups;
mod base;
mod error;
#[doc(hidden)]
pub mod fake;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod ground;
mod hands;
mod helper;
mod kernel;
mod pool;
mod record;
pub mod space;
pub mod state;
pub mod thin;
mod volumes;

pub use base::{Base, Candidate, Unfit};
pub use error::{Kind, PoolError};
pub use ground::{Checked, Events, First, Found, Ground, Layout, Mending, Place, Running};
pub use helper::{HelperGround, Helpers, Started, command as start_helper, serve as serve_helper};
pub use kernel::HostGround;
pub use pool::Pool;
pub use record::{Record, Stage};
pub use space::{Limits, Readings};
pub use thin::{Depth, Expected, Ledger, Rebuilt, ThinError, ThinGround, Thins};
pub use volumes::{Choice, NewLayer, ThinVolumes, kind_of, layer_name, volume_name};
