//! `hearth monitor` on a real pseudo-terminal, its refusals, and `--once`.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};

use hearth_types::api::Vm;

use crate::fake::Fake;
use crate::objects;
use crate::runner::{hearth, run, session, show};
use crate::terminal::{Terminal, signal};

/// The fake daemon's overview: its clock goes on with each look, and its VMs use CPU.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/v1/overview", get(async || axum::Json(overview())))
}

fn overview() -> Value {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    let look = LOOKS.fetch_add(1, Ordering::Relaxed);
    let vm = |of: Vm, phase: &str, cpu: u64| {
        let runs = phase == "running";
        json!({
            "id": of.id, "name": of.spec.name,
            "image": "nginx:1.29", "phase": phase, "health": if runs { "healthy" } else { "none" },
            "reason": null, "vcpus": 1, "memory": 268_435_456,
            "cpu_millis": runs.then_some(1000 + look * cpu), "rss": runs.then_some(104_857_600),
            "started_at": runs.then_some("2026-03-01T10:00:00Z"), "restarts": 0,
            "next_start": null, "breaker": false, "held": false
        })
    };
    let at = jiff::Timestamp::from_second(1_772_366_400 + i64::try_from(look).unwrap()).unwrap();
    json!({
        "at": at.to_string(), "version": "0.1.0", "uptime_secs": 7200, "mode": "normal",
        "mode_reason": null, "host_breaker": null, "last_pass": "2026-03-01T12:00:00Z",
        "last_event": 3, "under_way": [], "pool": null,
        "vms": [vm(objects::db(), "exited", 0), vm(objects::web(), "running", 250)]
    })
}

#[test]
fn one_picture_for_scripts() {
    let fake = Fake::start();
    let commands: &[&[&str]] = &[
        &["monitor", "--once"],
        &["monitor", "--once", "--sort", "cpu", "--filter", "nothing"],
    ];
    // The fake's clock goes on with each look, and with it ages.
    let text = session(&fake, commands).replace("12:00:03Z", "12:00:01Z");
    insta::assert_snapshot!("monitor-once", text);
}

#[test]
fn what_is_no_terminal_is_refused() {
    let fake = Fake::start();
    let output = run(&fake, &["monitor"]);
    insta::assert_snapshot!("monitor-refused", show(Some(&fake), &["monitor"], &output));
    for wrong in [
        &["monitor", "--interval", "500ms"][..],
        &["monitor", "--sort", "size"],
    ] {
        assert_eq!(run(&fake, wrong).status.code(), Some(2), "{wrong:?}");
    }
    let output = hearth("unix:///nonexistent")
        .args(["monitor", "--once"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn the_terminal_is_given_back_whatever_ends_it() {
    let fake = Fake::start();
    for end in ["q", "\x03", "TERM", "HUP"] {
        let mut terminal = Terminal::new();
        let mut child = terminal.start(&fake, &["monitor"]);
        terminal.expect("web-1");
        assert!(terminal.is_raw());
        let code = match end {
            "TERM" => 128 + 15,
            "HUP" => 128 + 1,
            _ => 0,
        };
        if code == 0 {
            terminal.master.write_all(end.as_bytes()).unwrap();
        } else {
            signal(&child, end);
        }
        assert_eq!(child.wait().unwrap().code(), Some(code), "{end:?}");
        assert!(!terminal.is_raw(), "{end:?}");
        terminal.expect("\x1b[?1049l");
    }
}

#[test]
fn a_stop_is_asked_of_the_person_and_then_of_the_daemon() {
    let fake = Fake::start();
    let mut terminal = Terminal::new();
    let mut child = terminal.start(&fake, &["monitor", "--filter", "web"]);
    terminal.expect(">web-1");
    terminal.master.write_all(b"s").unwrap();
    terminal.expect("Stop web-1?");
    assert_eq!(fake.changes(), Vec::<String>::new());
    // Who leaves at once has it done all the same.
    terminal.master.write_all(b"yq").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let id = objects::web().id;
    let stops = fake.changes();
    assert_eq!(stops.len(), 1, "{stops:?}");
    assert!(
        stops[0].starts_with(&format!("POST /v1/vms/{id}/stop")),
        "{stops:?}"
    );
}

#[test]
fn the_console_gets_the_terminal_and_gives_it_back() {
    let fake = Fake::start();
    let mut terminal = Terminal::new();
    let mut child = terminal.start(&fake, &["monitor", "--filter", "web"]);
    terminal.expect(">web-1");
    terminal.master.write_all(b"c").unwrap();
    terminal.expect("Ctrl-] goes back");
    terminal.expect("login: ");
    terminal.shown.clear();
    terminal.master.write_all(b"\x1d").unwrap();
    terminal.expect(">web-1");
    assert!(terminal.is_raw());
    // A signal ends the console first, and the terminal is whole after it.
    terminal.shown.clear();
    terminal.master.write_all(b"c").unwrap();
    terminal.expect("login: ");
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert!(!terminal.is_raw());
}

#[test]
fn the_daemon_is_asked_once_a_second_and_events_come_by_themselves() {
    let fake = Fake::start();
    let mut terminal = Terminal::new();
    let mut child = terminal.start(&fake, &["monitor"]);
    let looks = || {
        let asked = fake.requests();
        asked
            .iter()
            .filter(|line| *line == "GET /v1/overview")
            .count()
    };
    terminal.expect("web-1");
    let began = std::time::Instant::now();
    // Keys and sizes are no reason to ask.
    terminal.master.write_all(b"jjjtttkkk").unwrap();
    while looks() < 4 {
        terminal.expect("");
        std::thread::yield_now();
    }
    // The first one was there before; three more take three pauses.
    assert!(began.elapsed() > std::time::Duration::from_secs(2));
    terminal.master.write_all(b"q").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let asked = fake.requests();
    // The fake's stream ends at once; it is taken up again with the next look, not by itself.
    let streams = asked
        .iter()
        .filter(|line| line.starts_with("GET /v1/events"))
        .count();
    assert!(streams <= looks(), "{asked:?}");
    let orphans = asked
        .iter()
        .filter(|line| line.starts_with("GET /v1/orphans"))
        .count();
    assert_eq!(orphans, 1, "{asked:?}");
}
