//! What each command that shows something shows: as table, wide and as JSON.

use crate::fake::Fake;
use crate::runner::{hearth, run, session};

/// One command in the three formats, as three snapshots.
fn formats(name: &str, args: &[&str]) {
    let fake = Fake::start();
    for format in ["table", "wide", "json"] {
        let args: Vec<_> = args.iter().copied().chain(["-o", format]).collect();
        insta::assert_snapshot!(format!("{name}-{format}"), session(&fake, &[&args]));
    }
}

#[test]
fn ps() {
    formats("ps", &["ps", "-a"]);
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["ps"],
            &["ps", "-aq"],
            &["ps", "-q", "--no-trunc", "-l", "tier=web"],
            &["ps", "-a", "-l", "tier", "-l", "tier=data"],
            &["ps", "-l", "none"],
        ],
    );
    insta::assert_snapshot!("ps-choice", text);
}

#[test]
fn ps_after_a_reboot() {
    let fake = Fake::start();
    let text = session(&fake, &[&["ps", "-l", "booted"]]);
    insta::assert_snapshot!("ps-booted", text);
}

#[test]
fn inspect() {
    let fake = Fake::start();
    insta::assert_snapshot!(
        "inspect",
        session(&fake, &[&["inspect", "web-1", "nobody"]])
    );
}

#[test]
fn image_jobs() {
    formats("image-status", &["image", "status"]);
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["image", "status", "000003"],
            &["image", "status", "-q"],
            &["image", "status", "nosuch"],
            &["image", "cancel", "000002"],
            &["image", "retry", "000003"],
            &["image", "pull", "--detach", "left:1"],
        ],
    );
    insta::assert_snapshot!("image-jobs", text);
}

#[test]
fn images() {
    formats("image-ls", &["image", "ls"]);
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["image", "ls", "-q"],
            &["image", "inspect", "localhost:5000/demo:1"],
            &["image", "pull", "localhost:5000/demo:1"],
            &["image", "pull", "-q", "localhost:5000/demo:1"],
            &["image", "import", "/srv/demo.tar", "demo:1"],
            &["image", "rm", "old:1", "localhost:5000/demo:1", "older:1"],
        ],
    );
    insta::assert_snapshot!("image", text);
}

#[test]
fn kernels() {
    formats("kernel-ls", &["kernel", "ls"]);
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["kernel", "import", "--default"],
            &["kernel", "default", "6.1.0-39-cloud-amd64"],
            &["kernel", "rm", "old"],
        ],
    );
    insta::assert_snapshot!("kernel", text);
}

#[test]
fn the_daemon_and_its_host() {
    formats("plan", &["plan"]);
    formats("doctor", &["doctor"]);
    formats("config", &["config", "show"]);
    formats("version", &["version"]);
}

#[test]
fn health() {
    formats("health", &["health", "web-1"]);
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["health", "web-1", "db"],
            &["health", "db"],
            &["health", "-q", "web-1", "db"],
            &["health", "nobody"],
        ],
    );
    insta::assert_snapshot!("health-choice", text);
}

#[test]
fn stats() {
    formats("stats", &["stats", "--no-stream"]);
}

#[test]
fn events() {
    formats("events", &["events"]);
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["events", "-n", "1"],
            &["events", "--after", "1"],
            &["events", "--since", "10m"],
            &["events", "--vm", "web-1"],
            &["events", "--since", "yesterday"],
        ],
    );
    insta::assert_snapshot!("events-choice", text);
}

#[test]
fn followed_events_resume_after_the_last_one() {
    use std::io::BufRead;
    let fake = Fake::start();
    let mut child = hearth(&fake.host())
        .args(["events", "-f", "-o", "json", "-n", "0"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The fake's stream ends after each event: every further one is a new connection.
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let messages: Vec<_> = lines
        .take(3)
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            event["message"].as_str().unwrap().to_owned()
        })
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(messages, ["after 3", "after 4", "after 5"]);
}

#[test]
fn logs_are_passed_on_byte_by_byte() {
    let fake = Fake::start();
    let output = run(&fake, &["logs", "-f", "-n", "5", "--vmm", "web-1"]);
    assert_eq!(output.stdout, b"vmm of web-1\nbytes \xff as they are\n");
    assert_eq!(
        fake.requests(),
        ["GET /v1/vms/web-1/logs?follow=true&tail=5&source=vmm"]
    );
}

#[test]
fn colours_only_when_asked_for() {
    let fake = Fake::start();
    let plain = run(&fake, &["ps", "-a"]).stdout;
    assert!(!plain.contains(&0x1b));
    let forced = |args: &[&str]| {
        let mut command = hearth(&fake.host());
        command
            .env_remove("NO_COLOR")
            .env("CLICOLOR_FORCE", "1")
            .args(args);
        command.output().unwrap().stdout
    };
    assert!(forced(&["ps", "-a"]).contains(&0x1b));
    assert_eq!(forced(&["--no-color", "ps", "-a"]), plain);
}

#[test]
fn a_reader_that_goes_is_no_error() {
    let fake = Fake::start();
    let mut child = hearth(&fake.host())
        .args(["ps", "-a", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn modes() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["mode"],
            &["mode", "maintenance", "--reason", "new switch"],
            &["mode"],
            &["mode", "-o", "json"],
            &["ps", "-a"],
            &["ps", "-q"],
            &["mode", "readonly"],
            &["mode", "-q"],
            &["mode", "normal"],
            &["mode", "--reason", "none"],
            &["mode", "sometimes"],
        ],
    );
    insta::assert_snapshot!("modes", text);
}

#[test]
fn garbage() {
    formats("gc", &["gc"]);
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["gc", "--verbose"],
            &["gc", "-q"],
            &["gc", "--force"],
            &["gc", "--force", "--kind", "dump"],
            &["gc", "--kind", "image", "--kind", "leftover"],
            &["gc", "--force", "--dry-run"],
            &["gc", "--kind", "nothing"],
        ],
    );
    insta::assert_snapshot!("gc-actions", text);
    insta::assert_snapshot!("gc-requests", fake.changes().join("\n"));
}

#[test]
fn orphans() {
    formats("orphans", &["orphans"]);
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["orphans", "-q"],
            &["orphans", "--kind", "tap"],
            &["orphans", "remove"],
            &["orphans", "remove", "--all"],
            &["orphans", "remove", "--all", "--kind", "folder", "--yes"],
            &["orphans", "remove", "--all", "--kind", "mount", "-y"],
            &["orphans", "remove", "-y", "vmm-4711-99", "tap-gone"],
            &["orphans", "adopt", "vmm-4711-99"],
            &["orphans", "adopt", "tap-ht0000000000ee", "--name", "shop"],
        ],
    );
    insta::assert_snapshot!("orphans-actions", text);
    insta::assert_snapshot!("orphans-requests", fake.changes().join("\n"));
}

#[test]
fn history() {
    formats("history", &["history", "--logs", "web-1"]);
}
