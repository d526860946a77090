//! Runs the binary with a fixed environment and shows what came of it as one text.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::fake::Fake;

/// The moment that ages are counted from.
pub(crate) const NOW: &str = "2026-03-01T12:00:00Z";

/// The binary with nothing of our environment, 100 columns, a clock that stands still.
pub(crate) fn hearth(host: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command
        .env_clear()
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .env("HEARTH_TEST_NOW", NOW)
        .env("HEARTH_HOST", host)
        .env("DOCKER_CONFIG", "/nonexistent")
        .stdin(Stdio::null());
    command
}

/// What a command did, as a snapshot shows it.
pub(crate) fn show(fake: Option<&Fake>, args: &[&str], output: &Output) -> String {
    let mut text = format!("$ hearth {}\n", args.join(" "));
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    if !output.stderr.is_empty() {
        text.push_str("--- stderr\n");
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    text.push_str(&format!(
        "--- exit {}\n",
        output.status.code().unwrap_or(-1)
    ));
    match fake {
        Some(fake) => text.replace(fake.socket(), "/SOCKET"),
        None => text,
    }
}

/// Runs a command to its end.
pub(crate) fn run(fake: &Fake, args: &[&str]) -> Output {
    hearth(&fake.host()).args(args).output().unwrap()
}

/// Runs a command with this standard input.
pub(crate) fn run_with_input(fake: &Fake, args: &[&str], input: &[u8]) -> Output {
    let mut child = hearth(&fake.host())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // The program may end before it has read all: that is for its output to show.
        stdin.write_all(&input).ok();
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

/// Runs commands one after the other; their texts as one.
pub(crate) fn session(fake: &Fake, commands: &[&[&str]]) -> String {
    let texts = commands
        .iter()
        .map(|args| show(Some(fake), args, &run(fake, args)));
    texts.collect::<Vec<_>>().join("\n")
}

/// A file with this text.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
