//! `run` and `create`.

use std::os::unix::fs::PermissionsExt as _;

use crate::fake::Fake;
use crate::runner::{hearth, run, run_with_input, session, show, write};

#[test]
fn detached_it_prints_the_id_and_pulls_first() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["run", "-d", "--name", "new", "demo:1"],
            &["run", "-d", "--name", "new", "missing:1"],
            &["run", "-dq", "--name", "new", "missing:1"],
            &["run", "-d", "--name", "new", "--pull", "never", "missing:1"],
            &["run", "-d", "--name", "web-1", "demo:1"],
            &["create", "--name", "new", "-o", "json", "demo:1"],
        ],
    );
    insta::assert_snapshot!("run-detached", text);
}

#[test]
fn every_flag_reaches_the_daemon() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let env_file = write(dir.path(), "env", "# comment\n\nA=file\nB=2=2\nPASSED\n");
    let args = [
        "create",
        "--name",
        "new",
        "-m",
        "1g",
        "--cpus",
        "4",
        "--disk",
        "8GiB",
        "-v",
        "data:/srv/data:1GiB",
        "-v",
        "ro:/srv/ro:64m:ro",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1:53:53/udp",
        "--env-file",
        &env_file,
        "-e",
        "A=flag",
        "-e",
        "UNSET",
        "-l",
        "tier=web",
        "-l",
        "flag",
        "--restart",
        "on-failure:3",
        "--stop-timeout",
        "30",
        "--entrypoint",
        "/bin/sh",
        "-u",
        "1000:1000",
        "-w",
        "/srv",
        "--ip",
        "10.213.0.9",
        "--kernel",
        "6.1",
        "--machine",
        "q35",
        "--init",
        "image",
        "--cpu-weight",
        "50",
        "--cpu-quota",
        "150",
        "--io-weight",
        "200",
        "--io-read-bps",
        "100MiB",
        "--io-write-bps",
        "50MiB",
        "--io-read-iops",
        "1000",
        "--io-write-iops",
        "500",
        "--priority",
        "high",
        "--bootstrap",
        "restart-healthy",
        "--after",
        "db",
        "--after",
        "cache",
        "--breaker-failures",
        "3",
        "--breaker-window",
        "5m",
        "--breaker-cooldown",
        "30",
        "--health-cmd",
        "curl -f localhost",
        "--health-tcp",
        "22",
        "--health-http",
        "80/ready",
        "--health-http",
        "81",
        "--health-console",
        "login:",
        "--health-interval",
        "10",
        "--health-timeout",
        "2s",
        "--health-start-period",
        "1m",
        "--health-retries",
        "5",
        "--health-successes",
        "1",
        "--health-on-failure",
        "restart",
        "--health-without",
        "vmm-api",
        "demo:1",
        "sh",
        "-c",
        "echo -n",
    ];
    let mut command = hearth(&fake.host());
    let output = command.args(args).env("PASSED", "on").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let body = fake.changes().remove(0);
    let body: serde_json::Value =
        serde_json::from_str(body.strip_prefix("POST /v1/vms ").unwrap()).unwrap();
    insta::assert_snapshot!("create-body", serde_json::to_string_pretty(&body).unwrap());
}

#[test]
fn a_name_is_made_up() {
    let fake = Fake::start();
    assert!(run(&fake, &["run", "-d", "demo:1"]).status.success());
    let body = fake.changes().remove(0);
    let json = body
        .strip_prefix("POST /v1/vms?wait=true&timeout=120 ")
        .unwrap();
    let body: serde_json::Value = serde_json::from_str(json).unwrap();
    let name = body["spec"]["name"].as_str().unwrap();
    assert_eq!(name.split('-').count(), 2, "{name}");
}

#[test]
fn in_the_foreground_it_shows_the_console_and_passes_the_exit_code_on() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["run", "--name", "new", "demo:1"],
            &["run", "--rm", "--name", "new", "demo:1", "true"],
            &["run", "--name", "web-1", "demo:1"],
            &["run", "--name", "new", "refused-missing:1"],
        ],
    );
    insta::assert_snapshot!("run-foreground", text);
    let rm = fake.requests();
    assert!(
        rm.iter().any(|r| r.ends_with("/wait?condition=removed")),
        "{rm:?}"
    );
}

#[test]
fn interactive_it_joins_the_console() {
    let fake = Fake::start();
    let args = ["run", "-i", "--name", "new", "demo:1"];
    let output = run_with_input(&fake, &args, b"");
    // The fake's VM has ended by the time the console is there: its exit code counts.
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}

#[test]
fn ctrl_c_stops_the_vm() {
    use std::io::{BufRead, BufReader};
    let fake = Fake::start();
    let mut child = hearth(&fake.host())
        .args(["run", "--name", "slow", "demo:1"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // With the first line of the console the signals are caught.
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    crate::terminal::signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    let talk = String::from_utf8(output.stderr).unwrap();
    assert_eq!(talk, "Starting slow\nStopping slow; once more to kill it\n");
    let stop = fake.changes().pop().unwrap();
    assert!(
        stop.ends_with(r#"/stop {"force":false,"timeout":null}"#),
        "{stop}"
    );
}

#[test]
fn failed_pulls() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[&["image", "pull", "refused:1"], &["image", "pull", "cut:1"]],
    );
    insta::assert_snapshot!("pull-failures", text);
}

/// A credential helper as Docker's are: knows one registry.
const HELPER: &str = r#"#!/bin/sh
test "$1" = get || exit 2
case $(cat) in
  ghcr.io) echo '{"ServerURL":"ghcr.io","Username":"helped","Secret":"s3cret"}' ;;
  token.example) echo '{"ServerURL":"token.example","Username":"<token>","Secret":"s3cret"}' ;;
  odd.example) echo 's3cret' ;;
  broken.example) exit 3 ;;
  *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"#;

#[test]
fn credentials_of_docker_go_along() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "config.json",
        r#"{"auths":{"localhost:5000":{"auth":"bWU6cGFzcw=="}},"credsStore":"hearth-test",
            "credHelpers":{"gone.example":"is-not-installed","path.example":"../../bin/sh"}}"#,
    );
    write(dir.path(), "docker-credential-hearth-test", HELPER);
    let helper = dir.path().join("docker-credential-hearth-test");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", dir.path().display());
    let mut texts = Vec::new();
    for reference in [
        "localhost:5000/demo:1",
        "ghcr.io/a/b:1",
        "unknown.example/a:1",
        "token.example/a:1",
        "odd.example/a:1",
        "broken.example/a:1",
        "gone.example/a:1",
        "path.example/a:1",
    ] {
        let args = ["image", "pull", "-q", reference];
        let mut command = hearth(&fake.host());
        let output = command
            .args(args)
            .env("DOCKER_CONFIG", dir.path())
            .env("PATH", &path)
            .output()
            .unwrap();
        texts.push(show(Some(&fake), &args, &output));
    }
    let texts = texts.join("\n");
    assert!(!texts.contains("s3cret"), "{texts}");
    insta::assert_snapshot!("pull-credentials", texts);
    let asked = fake.changes();
    let first = r#""auth":{"username":"me","password":"pass"}"#;
    assert!(asked[0].contains(first), "{asked:?}");
    let helped = r#""auth":{"username":"helped","password":"s3cret"}"#;
    assert!(asked[1].contains(helped), "{asked:?}");
    for without in &asked[2..] {
        assert!(without.contains(r#""auth":null"#), "{asked:?}");
    }
}
