//! `kill -9` in the middle of commits: what was acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::common::{Dir, dir, new_vm, now, open, ranges_with_prefix};
use hearth_store::{Store, StoreError};
use hearth_types::event::NewEvent;
use hearth_types::ids::EventSeq;
use hearth_types::status::VmStatus;

const DB: &str = "HEARTH_TEST_STORE";
const ROUND: &str = "HEARTH_TEST_ROUND";

/// Not a test of its own: what the child runs until it is killed. Each acknowledged change
/// is one line on its standard output.
#[test]
fn child_that_commits() {
    let (Ok(db), Ok(round)) = (std::env::var(DB), std::env::var(ROUND)) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut out = std::io::stdout();
    let mut say = |text: String| {
        writeln!(out, "\nack {text}").unwrap();
        out.flush().unwrap();
    };
    let store = Store::open(&db).unwrap();
    say("open".to_owned());
    runtime.block_on(async {
        for n in 0_u32.. {
            let name = format!("vm-{round}-{n}");
            let row = store
                .create_vm(new_vm(&name), ranges_with_prefix(16), now())
                .await
                .unwrap();
            say(format!("vm {name}"));
            let status = VmStatus {
                restarts: n + 1,
                ..VmStatus::default()
            };
            store.set_status(row.id, status).await.unwrap();
            say(format!("status {name} {}", n + 1));
            let event = store
                .event(NewEvent::info("test", name.clone()), now())
                .await
                .unwrap();
            say(format!("event {} {name}", event.seq.0));
        }
    });
}

fn start(dir: &Dir, round: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_commits", "--nocapture"])
        .env(DB, &dir.db)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lets the child acknowledge so many changes, kills it, and answers all it had said.
fn acknowledged(mut child: Child, enough: usize) -> Vec<Vec<String>> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acks = Vec::new();
    let words = |line: &str| {
        let rest = line.strip_prefix("ack ")?;
        Some(rest.split(' ').map(str::to_owned).collect::<Vec<_>>())
    };
    while acks.len() < enough {
        let line = lines.next().unwrap().unwrap();
        acks.extend(words(&line));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    acks.extend(lines.filter_map(|line| words(&line.unwrap())));
    acks
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = dir();
    for round in 0..8 {
        let acks = acknowledged(start(&dir, round), 5 + round * 7);
        let store = open(&dir);
        let events = store.events(EventSeq(0), usize::MAX).await.unwrap();
        assert!(events.iter().zip(1..).all(|(event, n)| event.seq.0 == n));
        let rows = store.vms().await;
        let find = |name: &str| rows.iter().find(|row| row.spec.name.as_str() == name);
        for ack in acks {
            let ack: Vec<_> = ack.iter().map(String::as_str).collect();
            match ack.as_slice() {
                ["open"] => {}
                ["vm", name] => assert!(find(name).is_some(), "{name} is lost"),
                ["status", name, restarts] => {
                    let found = find(name).map(|row| row.status.restarts.to_string());
                    assert_eq!(found.as_deref(), Some(*restarts), "{name}");
                }
                ["event", seq, name] => {
                    let seq: usize = seq.parse().unwrap();
                    assert_eq!(events[seq - 1].message, *name);
                }
                other => unreachable!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_second_process_is_refused() {
    let dir = dir();
    let mut child = start(&dir, 0);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ack open"));
    let drain = std::thread::spawn(move || lines.count());
    let refused = Store::open(&dir.db);
    child.kill().unwrap();
    child.wait().unwrap();
    drain.join().unwrap();
    assert!(
        matches!(refused, Err(StoreError::Locked { .. })),
        "{refused:?}"
    );
    open(&dir);
}
