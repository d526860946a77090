//! Reads a request from standard input, starts a VMM, and stays as its parent.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_shim::run()
}
