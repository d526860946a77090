//! A simulated host: processes, TAPs, folders, bridge, rules and names in memory, in virtual time.
//!
//! [`SimHost`] is the host, [`SimStore`] the database, [`Sim`] the daemon's loop over both: survey, plan,
//! act, with faults and crashes at every step. Each plan is checked against what is true on the host
//! ([`check`]); what must never happen is recorded as a violation.
//!
//! ```text
//!  SimStore ─┐                        ┌─► violation (foreign touched, two VMMs, …)
//!            ├─► World ─► plan ─► check
//!  SimHost ──┘     ▲                  └─► apply ─► effect ─► status stored
//!                  └──── crash ────────────┴─────────┴────────┘   (a new pass, nothing remembered)
//! ```

#![forbid(unsafe_code)]

pub mod check;
mod driver;
mod host;
#[cfg(feature = "rooms")]
pub mod rooms;
mod store;

pub use driver::{Crashed, EndState, Sim, VmEnd};
pub use host::{Guest, HostError, Kind, Reaction, SimDir, SimHost, SimProcess, SimTap, SimUnit};
pub use store::SimStore;
