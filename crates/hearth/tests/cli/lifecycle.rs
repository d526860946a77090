//! Commands that change what VMs should do: several at once, and what they ask for.

use crate::fake::Fake;
use crate::runner::{run, session};

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
fn names_are_encoded_in_paths() {
    let fake = Fake::start();
    run(&fake, &["start", "--no-wait", "../images/a?b"]);
    assert_eq!(fake.changes(), ["POST /v1/vms/..%2Fimages%2Fa%3Fb/start"]);
}
