//! `exec` and `console` over WebSocket.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::fake::Fake;
use crate::runner::{hearth, run, run_with_input, session};

#[test]
fn output_exit_codes_and_failures() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["exec", "web-1", "exit", "0"],
            &["exec", "web-1", "exit", "3"],
            &["exec", "web-1", "exit", "137"],
            &["exec", "web-1", "no-such-command"],
            &["exec", "web-1", "forbidden"],
            &["exec", "nobody", "exit", "0"],
            &["exec", "web-1", "hang-up"],
            &["exec", "-it", "web-1", "cat"],
            &[
                "exec", "-t", "-u", "1000", "-w", "/srv", "-e", "A=1", "web-1", "request",
            ],
        ],
    );
    insta::assert_snapshot!("exec", text);
}

#[test]
fn binary_data_passes_both_ways_and_the_end_of_input_is_told() {
    let fake = Fake::start();
    let input: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(n) >> 8).to_le_bytes()[0])
        .collect();
    let output = run_with_input(&fake, &["exec", "-i", "web-1", "cat"], &input);
    assert_eq!(
        output.status.code(),
        Some(42),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.stdout == input,
        "{} of {} bytes came back",
        output.stdout.len(),
        input.len()
    );
}

#[test]
fn signals_are_passed_on() {
    let fake = Fake::start();
    let mut child = hearth(&fake.host())
        .args(["exec", "web-1", "signal"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    crate::terminal::signal(&child, "USR1");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 10));
}

#[test]
fn the_console_joins_both_directions() {
    let fake = Fake::start();
    let output = run_with_input(&fake, &["console", "web-1"], b"root\nq");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "login: ROOT\nQ");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(run(&fake, &["console", "nobody"]).status.code(), Some(3));
}
