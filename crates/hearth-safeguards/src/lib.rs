//! Safeguards around the kernel's device-mapper, in three layers.
//!
//! ```text
//!  an operation ──► system health check ──► turn (1 at a time) ──► the call, in a process of its own
//!                     │ refused: which check,    │ not in time:         │ deadline: given up, told with
//!                     │ reading, threshold,      │ who has it, since    │ pid and kernel stack; the turn
//!                     ▼ what to do               ▼ when                 ▼ stays taken until it comes back
//! ```
//! - The **system health check** ([`Health`]) looks at the host by [`Signs`]: threads that hang in the kernel on
//!   device-mapper, the pool, the kernel's log, memory, waiting for disks. It reads only, and is given
//!   a tenth of a second; what it could not read in that time is unknown, and never taken for good.
//! - The **operation guard** ([`OperationGuard`]) takes operations one by one. Which process makes the calls is
//!   the business of those who have them made ([`Elsewhere`]); the guard knows it, and gives it up.
//! - The **manager lock**, one daemon for a data folder, is `hearth_host::lock`.
//!
//! Nothing here mends or tears down anything: a device whose making has failed is left as it is,
//! because taking it down may hang a kernel that is in trouble already.

#![forbid(unsafe_code)]

mod check;
mod elsewhere;
#[doc(hidden)]
pub mod fake;
mod guard;
mod health;
mod held;
mod log;
mod metrics;
mod signs;
mod thresholds;

pub use check::{Check, Finding, PoolSign, Purpose, Reading, Report, Weight};
pub use elsewhere::{Elsewhere, wait_of};
pub use guard::{GuardError, Operation, OperationGuard, Settings};
pub use health::{Health, Resolver};
pub use log::{Entry, Kind, Origin, Whose, classify};
pub use signs::{HostSigns, LogPart, Signs};
pub use thresholds::Thresholds;
