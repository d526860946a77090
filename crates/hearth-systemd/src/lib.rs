//! Transient units of systemd, through D-Bus.
//!
//! Mechanism only: which units there are, what stands in them and when they start is said
//! by the callers. Nothing is kept between calls but the connection.
//!
//! ```text
//!  Manager ──► system bus ──► org.freedesktop.systemd1 (PID 1)
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `manager` | the connection and the calls |
//! | [`property`] | what stands in a unit, as data that can be printed and compared |

#![forbid(unsafe_code)]

use std::path::Path;

mod manager;
pub mod property;

pub use manager::{Listed, Manager, Outcome, State, SystemdError};

/// Whether systemd is the init of this host: the documented test, `sd_booted(3)`.
#[must_use]
pub fn is_init() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
