//! The dashboard of `hearth monitor`, without a terminal and without a daemon.
//!
//! ```text
//!  keys, overviews, events, a lost daemon ──► update ──► Model ──► view ──► a frame
//!                                               │
//!                                               └──► Effect: what the program around it does
//! ```
//! Nothing in here reads, writes or waits: the command `hearth monitor` does, and a test stands
//! in for it as well. What is shown follows from the [`Model`] alone.
//!
//! | file | holds |
//! | --- | --- |
//! | `model` | what is known, and what the person has chosen |
//! | `table` | which VMs are shown, in which order; shares of the CPU |
//! | `update` | what news and keys change |
//! | `keys` | keys from the bytes that a terminal sends |
//! | `view` | the frame |
//! | `text` | widths, ages, sizes; what a name may not do to the screen |
//! | `theme` | colours, and what stands for them without |

#![forbid(unsafe_code)]

mod keys;
mod model;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod theme;
mod update;
mod view;

pub use keys::Keyboard;
pub use model::{Link, Model, Page, Question};
pub use table::{Column, Order};
pub use theme::Theme;
pub use update::{Action, Effect, Key, News};
pub use view::{draw, plain};
