//! Help, completions and man pages: each command's words are a snapshot.

use crate::runner::{hearth, show};

const COMMANDS: &[&str] = &[
    "",
    "run",
    "create",
    "start",
    "stop",
    "kill",
    "restart",
    "pause",
    "resume",
    "rm",
    "hold",
    "release",
    "recover",
    "reset-breaker",
    "ps",
    "inspect",
    "logs",
    "console",
    "exec",
    "cp",
    "wait",
    "stats",
    "health",
    "events",
    "apply",
    "image",
    "image pull",
    "image import",
    "image ls",
    "image inspect",
    "image rm",
    "kernel",
    "kernel import",
    "kernel ls",
    "kernel default",
    "kernel rm",
    "plan",
    "doctor",
    "config",
    "config show",
    "version",
    "completions",
    "man",
];

#[test]
fn help_of_each_command() {
    for command in COMMANDS {
        let mut args: Vec<_> = command.split_whitespace().collect();
        args.push("--help");
        let output = hearth("unix:///nonexistent").args(&args).output().unwrap();
        let name = format!("help-{}", command.replace(' ', "-"));
        insta::assert_snapshot!(name.trim_end_matches('-'), show(None, &args, &output));
    }
}

#[test]
fn exit_codes_are_documented() {
    let args = ["help", "exit-codes"];
    let output = hearth("unix:///nonexistent").args(args).output().unwrap();
    insta::assert_snapshot!("exit-codes", show(None, &args, &output));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = hearth("unix:///nonexistent")
            .args(["completions", shell])
            .output()
            .unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shell}");
        for word in ["apply", "doctor", "image"] {
            assert!(script.contains(word), "{shell} has no {word}");
        }
    }
}

#[test]
fn man_pages_are_written_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man");
    let status = hearth("unix:///nonexistent")
        .arg("man")
        .arg(&folder)
        .status()
        .unwrap();
    assert!(status.success());
    for page in ["hearth.1", "hearth-run.1", "hearth-image-pull.1"] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page} is no man page");
    }
}
