//! The `hearth` binary against a small daemon that speaks the real routes with canned objects.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

#[path = "cli/db.rs"]
mod db;
#[path = "cli/fake.rs"]
mod fake;
#[path = "cli/fake_images.rs"]
mod fake_images;
#[path = "cli/monitor.rs"]
mod monitor;
#[path = "cli/objects.rs"]
mod objects;
#[path = "cli/pool.rs"]
mod pool;
#[path = "cli/runner.rs"]
mod runner;
#[path = "cli/snapshot.rs"]
mod snapshot;
#[path = "cli/sockets.rs"]
mod sockets;
#[path = "cli/volume.rs"]
mod volume;

#[path = "cli/template.rs"]
mod template;

#[path = "cli/apply.rs"]
mod apply;
#[path = "cli/cp.rs"]
mod cp;
#[path = "cli/errors.rs"]
mod errors;
#[path = "cli/exec.rs"]
mod exec;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/lifecycle.rs"]
mod lifecycle;
#[path = "cli/output.rs"]
mod output;
#[path = "cli/run.rs"]
mod run;
#[path = "cli/terminal.rs"]
mod terminal;
