//! Failures: what is said and how the program exits.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::fake::Fake;
use crate::runner::{hearth, run, session, show, write};

#[test]
fn wrong_command_lines() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["frobnicate"],
            &["run"],
            &["run", "-p", "80", "demo:1"],
            &["run", "-m", "512", "demo:1"],
            &["run", "--name", "Web_1", "demo:1"],
            &["run", "--restart", "sometimes", "demo:1"],
            &["run", "--vcpus", "0", "-m", "1m", "-w", "srv", "demo:1"],
            &["run", "--rm", "--restart", "always", "demo:1"],
            &["run", "--network", "none", "-p", "80:80", "demo:1"],
            &["run", "--env-file", "/nonexistent", "demo:1"],
            &["-H", "nonsense", "ps"],
            &["stop", "-t", "soon", "web-1"],
        ],
    );
    insta::assert_snapshot!("usage", text);
    assert_eq!(fake.requests(), [""; 0], "the daemon was asked");
}

#[test]
fn a_daemon_that_cannot_be_reached() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("hearthd.sock");
    let host = format!("unix://{}", socket.display());
    let mut texts = Vec::new();
    let mut look = |host: &str, args: &[&str]| {
        let output = hearth(host).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(5));
        texts.push(show(None, args, &output));
    };
    look(&host, &["ps"]);
    look(&host, &["version"]);
    // A socket whose listener has gone.
    drop(UnixListener::bind(&socket).unwrap());
    look(&host, &["ps"]);
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    look(&format!("tcp://127.0.0.1:{port}"), &["ps"]);
    let text = texts.join("\n").replace(&port.to_string(), "PORT");
    let text = text.replace(socket.to_str().unwrap(), "/SOCKET");
    insta::assert_snapshot!("unreachable", text);
}

#[test]
fn tokens_go_into_the_header_only() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "token", "from-file\n");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = hearth(&fake.host());
    assert!(
        command
            .args(["plan"])
            .env("HEARTH_TOKEN_FILE", &file)
            .status()
            .unwrap()
            .success()
    );
    let mut command = hearth(&fake.host());
    command
        .args(["plan"])
        .env("HEARTH_TOKEN_FILE", &file)
        .env("HEARTH_TOKEN", "from-env");
    assert!(command.status().unwrap().success());
    assert_eq!(
        fake.requests(),
        [
            "GET /v1/plan [authorization: Bearer from-file]",
            "GET /v1/plan [authorization: Bearer from-env]"
        ]
    );
    let missing = run(&fake, &["--token-file", "/nonexistent", "plan"]);
    let mut texts = vec![show(
        None,
        &["--token-file", "/nonexistent", "plan"],
        &missing,
    )];
    let mut command = hearth(&fake.host());
    let bad = command
        .args(["plan"])
        .env("HEARTH_TOKEN", "two words")
        .output()
        .unwrap();
    texts.push(show(None, &["plan"], &bad));
    insta::assert_snapshot!("tokens", texts.join("\n"));
}

/// Where systemd is not the init there is no journal to read, and the daemon is not asked.
#[test]
fn the_daemons_log_without_a_journal() {
    if std::path::Path::new("/run/systemd/system").is_dir() {
        println!("SKIP: systemd is the init here, so there is a journal");
        return;
    }
    let output = hearth("unix:///nonexistent")
        .args(["logs", "--daemon", "-n", "5"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("There is no journal on this host"), "{said}");
    assert!(said.contains("hint: hearthd writes its log"), "{said}");
}
