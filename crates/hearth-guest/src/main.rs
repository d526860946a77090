//! PID 1 and agent in the guest, one static binary.
//!
//! ```text
//!   PID 1 in the initramfs ──boot──► mode hearth: supervises the entrypoint, ends the VM
//!            │                 └───► mode image: becomes the image's init
//!            └── starts ──► `agent`: serves the host, starts programs and the copies
//!                              └── starts ──► `tar-in`, `tar-out`: one copy each
//! ```
//! The agent is a process of its own, so that its end is never PID 1's, which would be a
//! kernel panic; the copies are, so that one can be killed without a trace.

mod agent;
mod boot;
mod error;
mod machine;
mod spawn;
mod supervise;
mod tarball;
mod uevent;
mod users;
mod vsock;

use std::process::ExitCode;

use error::Failure;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let outcome = match (command.as_str(), &rest[..]) {
        ("agent", arguments) => agent::run(arguments),
        ("tar-in", [path]) => tarball::unpack(path, std::io::stdin().lock()),
        ("tar-out", [path]) => tarball::pack(path, std::io::stdout().lock()),
        _ if std::process::id() == 1 => boot::run(),
        _ => Err(Failure::new(
            "start",
            "hearth-guest",
            "it runs as PID 1 of a Hearth VM, not by hand",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error::say(&failure);
            ExitCode::FAILURE
        }
    }
}
