//! The daemon: the loop's executor, the HTTP API, wiring.
//!
//! ```text
//!  api ──► store (goal, generation) ──► engine: survey ─► plan (pure) ─► act ─► host
//!   ▲                                      ▲  journal ◄───────────────┘
//!   └───────────── status, events ─────────┘
//! ```
//!
//! Decisions live in `hearth-plan`; this room observes, acts and tells.

#![forbid(unsafe_code)]

pub mod api;
pub mod backups;
mod cgroups;
pub mod clean_up;
mod cores;
pub mod daemon;
pub mod database;
pub mod dm_helper;
pub mod doctor;
pub mod dumps;
pub mod engine;
pub mod failpoint;
pub mod gc;
pub mod health;
pub mod history;
pub mod host;
pub mod image_jobs;
mod keepsakes;
pub mod layers;
pub mod listen;
pub mod logging;
pub mod manager;
pub mod metrics;
pub mod mode;
pub mod orphans;
pub mod pool;
pub mod safeguards;
pub mod stuck;
pub mod volumes;
