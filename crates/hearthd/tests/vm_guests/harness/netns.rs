//! A network namespace that goes with its value.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use super::tools::run;

/// A network namespace with a loopback device that is up.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hearthd-test-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let netns = Self { name };
        netns.run("ip", &["link", "set", "lo", "up"]);
        netns
    }

    /// The program as it would be started in here.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().unwrap()
    }

    /// Runs a program in here.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let done = self.output(program, arguments);
        assert!(
            done.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(
            Command::new("ip")
                .args(["netns", "del", &self.name])
                .status(),
        );
    }
}
