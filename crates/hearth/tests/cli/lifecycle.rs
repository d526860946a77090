//! Commands that change what VMs should do: several at once, and what they ask for.

use crate::fake::Fake;
use crate::runner::{hearth, run, session};

#[test]
fn several_at_once_go_on_after_failures() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["start", "web-1", "nobody", "db"],
            &["start", "broken", "nobody"],
            &["stop", "-t", "30", "web-1", "db"],
            &["kill", "web-1"],
            &["restart", "--no-wait", "web-1"],
            &["pause", "db"],
            &["resume", "web-1"],
            &["rm", "db", "web-1"],
            &["rm", "-f", "web-1"],
        ],
    );
    insta::assert_snapshot!("lifecycle", text);
    let mut asked = fake.changes();
    // Those of one command go out side by side.
    asked.sort();
    insta::assert_snapshot!("lifecycle-requests", asked.join("\n"));
}

#[test]
fn wait_prints_exit_codes() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["wait", "db", "new", "broken"],
            &["wait", "-o", "json", "db"],
            &["wait", "--condition", "healthy", "web-1"],
            &["wait", "-t", "1500ms", "web-1"],
            &["wait", "nobody"],
        ],
    );
    insta::assert_snapshot!("wait", text);
    assert!(
        fake.requests()
            .contains(&"GET /v1/vms/web-1/wait?condition=stopped&timeout=2".to_owned())
    );
}

#[test]
fn waits_go_on_through_a_restart_of_the_daemon() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let child = hearth(&format!("unix://{}", socket.display()))
        .args(["wait", "web-1"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The first daemon takes the question and dies.
    let (mut first, _) = listener.accept().unwrap();
    first.read_exact(&mut [0; 16]).unwrap();
    drop((first, listener));
    std::fs::remove_file(&socket).unwrap();
    // The second one is asked again and answers.
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (mut second, _) = listener.accept().unwrap();
    second.read_exact(&mut [0; 16]).unwrap();
    let body = r#"{"exit_code":9,"end":null}"#;
    write!(
        second,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "9\n");
    assert!(output.status.success());
}

#[test]
fn names_are_encoded_in_paths() {
    let fake = Fake::start();
    run(&fake, &["start", "--no-wait", "../images/a?b"]);
    assert_eq!(fake.changes(), ["POST /v1/vms/..%2Fimages%2Fa%3Fb/start"]);
}

#[test]
fn the_operators_words_on_recovery() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["hold", "-r", "disk swap", "web-1", "nobody"],
            &["release", "web-1"],
            &["reset-breaker", "broken"],
            &["reset-breaker", "--all"],
            &["reset-breaker"],
            &["recover", "broken", "web-1"],
            &["recover", "--all", "--force"],
            &["recover", "-o", "json", "broken"],
            &["recover", "-q", "broken", "web-1"],
            &["plan", "--for", "broken"],
            &["plan", "--for", "broken", "--explain"],
            &["plan", "--explain"],
        ],
    );
    insta::assert_snapshot!("recovery", text);
    let mut asked = fake.changes();
    asked.sort();
    insta::assert_snapshot!("recovery-requests", asked.join("\n"));
}

#[test]
fn the_hosts_own_breaker_is_closed_by_a_word_of_its_own() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["reset-breaker", "--host-breaker"],
            &["reset-breaker", "--host-breaker", "-o", "json"],
            &["reset-breaker", "--host-breaker", "web-1"],
            &["reset-breaker", "--host-breaker", "--all"],
        ],
    );
    insta::assert_snapshot!("host-breaker", text);
    // Those that say two things at once ask for nothing.
    assert_eq!(fake.changes(), ["POST /v1/host/reset-breaker"; 2]);
}
