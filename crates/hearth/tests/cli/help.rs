//! Help, completions and man pages: each command's words are a snapshot.

use crate::runner::{hearth, show};

/// A command's help, and its subcommands as the help lists them.
fn help(command: &str) -> (String, Vec<String>) {
    let mut args: Vec<_> = command.split_whitespace().collect();
    args.push("--help");
    let output = hearth("unix:///nonexistent").args(&args).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let listed = text.split_once("Commands:\n").map_or("", |(_, rest)| rest);
    // Each begins two columns in; what it is about may go on further in.
    let names = listed
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ")
                .filter(|line| !line.starts_with(' '))
        })
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(|name| format!("{command} {name}").trim_start().to_owned())
        .collect();
    (show(None, &args, &output), names)
}

#[test]
fn help_of_each_command() {
    let mut commands = vec![String::new()];
    let mut seen = 0;
    while let Some(command) = commands.pop() {
        let (text, below) = help(&command);
        commands.extend(below);
        seen += 1;
        let name = format!("help-{}", command.replace(' ', "-"));
        insta::assert_snapshot!(name.trim_end_matches('-'), text);
    }
    // The list is the program's own, and it was read.
    assert!(seen > 40, "only {seen} commands were found");
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
