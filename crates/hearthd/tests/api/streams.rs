//! Logs, console, exec and archives.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use futures::{SinkExt as _, StreamExt as _};
use hearth_types::process::{GuestReport, ProcessExit};
use hearth_types::status::Phase;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt as _;

use crate::rig::{Rig, request, within};

/// A WebSocket of the API, over a real connection.
async fn socket(rig: &Rig, path: &str) -> WebSocketStream<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (router, stopping) = (rig.router(), rig.api.stopping.clone());
    tokio::spawn(hearthd::api::serve::serve(listener, router, stopping));
    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://{address}{path}");
    within(
        "the handshake",
        tokio_tungstenite::client_async(url, stream),
    )
    .await
    .unwrap()
    .0
}

/// Everything up to the end, which must be a Close frame.
async fn rest(socket: &mut WebSocketStream<TcpStream>) -> Vec<Message> {
    within("a Close frame", async {
        let mut all = Vec::new();
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(_))) => return all,
                Some(Ok(message)) => all.push(message),
                other => panic!("no Close frame but {other:?} after {all:?}"),
            }
        }
    })
    .await
}

async fn exec(rig: &Rig, request: Value) -> Vec<Message> {
    let mut socket = socket(rig, "/v1/vms/web/exec").await;
    socket
        .send(Message::text(request.to_string()))
        .await
        .unwrap();
    rest(&mut socket).await
}

/// The last message of an exec, which is always text.
fn verdict(messages: &[Message]) -> Value {
    match messages.last() {
        Some(Message::Text(text)) => serde_json::from_str(text).unwrap(),
        other => panic!("{other:?} in {messages:?}"),
    }
}

fn stdout(messages: &[Message]) -> String {
    let pieces = messages.iter().filter_map(|message| match message {
        Message::Binary(data) if data.first() == Some(&1) => Some(&data[1..]),
        _ => None,
    });
    String::from_utf8(pieces.flatten().copied().collect()).unwrap()
}

#[tokio::test]
async fn sockets_need_a_handshake() {
    let rig = Rig::new().await;
    rig.running("web").await;
    for path in ["exec", "console"] {
        rig.get(&format!("/v1/vms/web/{path}"))
            .await
            .problem(400, "invalid");
    }
}

#[tokio::test]
async fn the_console_goes_both_ways_and_closes_with_the_daemon() {
    let rig = Rig::new().await;
    rig.running("web").await;
    let mut socket = socket(&rig, "/v1/vms/web/console").await;
    socket
        .send(Message::binary(b"hello".to_vec()))
        .await
        .unwrap();
    let echoed = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echoed.into_data(), "hello");
    rig.stop_daemon();
    assert_eq!(rest(&mut socket).await, []);
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_socket() {
    let rig = Rig::new().await;
    rig.running("web").await;
    let mut socket = socket(&rig, "/v1/vms/web/console").await;
    // The other side may hang up while this is being sent.
    drop(socket.send(Message::binary(vec![b'x'; 3 << 20])).await);
    within("the end", async {
        while let Some(Ok(message)) = socket.next().await {
            assert!(!message.is_binary(), "it was taken");
        }
    })
    .await;
}

#[tokio::test]
async fn a_command_runs_in_the_guest() {
    let rig = Rig::new().await;
    if !rig.vmm.agents.allow() {
        return;
    }
    rig.running("web").await;
    let said = exec(
        &rig,
        json!({ "argv": ["sh", "-c", "echo out; echo err >&2; exit 3"] }),
    )
    .await;
    assert_eq!(stdout(&said), "out\n");
    assert_eq!(verdict(&said), json!({ "type": "exit", "code": 3 }));
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_a_command_with_it_that_never_reads() {
    let rig = Rig::new().await;
    if !rig.vmm.agents.allow() {
        return;
    }
    rig.running("web").await;
    let mut socket = socket(&rig, "/v1/vms/web/exec").await;
    // The command alone has this pipe open: whoever reads it hears of its end.
    let pipe = rig.dir.join("pipe");
    let (cwd, kind) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(cwd, pipe.as_str(), kind, rustix::fs::Mode::RWXU, 0).unwrap();
    let end = tokio::task::spawn_blocking({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    let argv = [
        "sh",
        "-c",
        "exec 9>\"$0\"; echo up; exec sleep 600",
        pipe.as_str(),
    ];
    let request = json!({ "argv": argv, "stdin": true });
    socket
        .send(Message::text(request.to_string()))
        .await
        .unwrap();
    let said = within("its word", socket.next()).await.unwrap().unwrap();
    assert_eq!(stdout(&[said]), "up\n");
    let mut piece = vec![b'x'; 64 << 10];
    piece[0] = 0;
    for _ in 0..16 {
        let sent = socket.send(Message::binary(piece.clone()));
        within("the input is taken from us", sent).await.unwrap();
    }
    drop(socket);
    within("the command's end", end).await.unwrap();
}

#[tokio::test]
async fn a_command_that_is_not_there_is_not_found() {
    let rig = Rig::new().await;
    if !rig.vmm.agents.allow() {
        return;
    }
    rig.running("web").await;
    for (argv, code) in [
        (json!(["/no/such/program"]), "not_found"),
        (json!([]), "invalid"),
        (json!(["/etc"]), "invalid"),
    ] {
        let end = verdict(&exec(&rig, json!({ "argv": argv })).await);
        assert_eq!(end["type"], "error", "{end}");
        assert_eq!(end["problem"]["code"], code, "{argv}: {end}");
    }
    let end = verdict(&exec(&rig, json!({ "nosuch": 1 })).await);
    assert_eq!(end["problem"]["code"], "invalid");
}

#[tokio::test]
async fn files_go_in_and_come_out() {
    let rig = Rig::new().await;
    if !rig.vmm.agents.allow() {
        return;
    }
    rig.running("web").await;
    let (from, to) = (rig.dir.join("from"), rig.dir.join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&to).unwrap();
    std::fs::write(from.join("file"), "content").unwrap();
    let tar = rig.get(&format!("/v1/vms/web/archive?path={from}")).await;
    assert_eq!(tar.status, StatusCode::OK, "{tar:?}");
    assert_eq!(tar.header("content-type"), "application/x-tar");
    let path = format!("/v1/vms/web/archive?path={to}");
    let put = rig
        .send(request(Method::PUT, &path, Body::from(tar.bytes)))
        .await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{put:?}");
    assert_eq!(std::fs::read(to.join("from/file")).unwrap(), b"content");
    rig.get("/v1/vms/web/archive?path=/no/such")
        .await
        .problem(404, "not_found");
    rig.get("/v1/vms/web/archive?path=etc")
        .await
        .problem(400, "invalid");
    rig.get("/v1/vms/web/archive").await.problem(400, "invalid");
    let bad = rig
        .send(request(Method::PUT, &path, Body::from("no tar")))
        .await;
    bad.problem(400, "invalid");
}

#[tokio::test]
async fn logs_are_shown_from_their_end_and_of_either_kind() {
    let rig = Rig::new().await;
    let vm = rig.running("web").await;
    let dir = rig.vm_dir(vm.id);
    std::fs::write(dir.join("console.log.1"), "one\n").unwrap();
    std::fs::write(dir.join("console.log"), "two\nthree\n").unwrap();
    std::fs::write(dir.join("vmm.log"), "qemu said\n").unwrap();
    for (query, text) in [
        ("", "one\ntwo\nthree\n"),
        ("?tail=2", "two\nthree\n"),
        ("?tail=0", ""),
        ("?source=vmm", "qemu said\n"),
    ] {
        let answer = rig.get(&format!("/v1/vms/web/logs{query}")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.bytes, text, "{query}");
        // A guest's words are nothing that a browser should look into.
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn a_vm_that_never_ran_has_an_empty_log() {
    let rig = Rig::new().await;
    rig.create("web").await;
    for query in ["", "?follow=true"] {
        let answer = rig.get(&format!("/v1/vms/web/logs{query}")).await;
        assert_eq!(
            (answer.status, answer.bytes.len()),
            (StatusCode::OK, 0),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_followed_log_ends_with_the_run() {
    let rig = Arc::new(Rig::new().await);
    let vm = rig.running("web").await;
    let log = rig.vm_dir(vm.id).join("console.log");
    std::fs::write(&log, "first\n").unwrap();
    let follow = request(Method::GET, "/v1/vms/web/logs?follow=true", Body::empty());
    let mut body = rig.router().oneshot(follow).await.unwrap().into_body();
    let first = within("the first line", body.frame())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.into_data().unwrap(), "first\n");
    std::fs::write(&log, "first\nsecond\n").unwrap();
    let second = within("the second line", body.frame())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(second.into_data().unwrap(), "second\n");
    let report = GuestReport {
        exit: Some(ProcessExit::Code(0)),
        reason: "exited".to_owned(),
        message: None,
    };
    rig.vmm.fake.guest_ends(vm.id, report);
    let rest = within("the end", body.collect()).await.unwrap().to_bytes();
    assert_eq!(rest, "");
    rig.until("web", "it has ended", |vm| vm.phase == Phase::Exited)
        .await;
}

#[tokio::test]
async fn a_full_house_lets_others_wait_and_goes_on() {
    let rig = Rig::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(hearthd::api::serve::serve(
        listener,
        rig.router(),
        rig.api.stopping.clone(),
    ));
    let mut idle = Vec::new();
    for _ in 0..512 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut late = TcpStream::connect(address).await.unwrap();
    let ask = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    late.write_all(ask).await.unwrap();
    let mut answer = Vec::new();
    // The clients before it have been taken, and one goes.
    drop(idle.remove(0));
    within("an answer", late.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    rig.stop_daemon();
    within("the end of all connections", serving).await.unwrap();
}
