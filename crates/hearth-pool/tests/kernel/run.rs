//! Programs of the host.

use std::process::Command;

/// Runs one that must succeed, and returns what it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let ended = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&ended.stdout).into_owned()
}
