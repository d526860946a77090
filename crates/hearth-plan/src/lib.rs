//! The pure planner: what is wanted and what is there in, steps out.
//!
//! No I/O, no async, no clock of its own: `now` is part of the [`World`]. That is why it can
//! be tested over millions of generated worlds, and why `hearth plan` can print its answer
//! before anything happens.

#![forbid(unsafe_code)]

pub mod model;

pub use model::{DesiredVm, Note, Plan, PlannedStep, Policy, Step, World};
