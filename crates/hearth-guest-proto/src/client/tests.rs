use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use bytes::BytesMut;

use super::*;
use crate::message::{ErrorCode, ExitStatus};
use crate::mux::{Mux, MuxEvent};

const PATIENCE: Duration = Duration::from_secs(20);

fn expected() -> ExpectedGuest {
    ExpectedGuest {
        vm_id: "vm".into(),
        boot_nonce: "boot".into(),
    }
}

/// A scripted guest: echoes the main channel of each stream, answers pings, exits with code 4
/// at the end of input; `refuse` streams are reset.
async fn guest(mut wire: DuplexStream, boot: &str, ignore_hellos: u32) {
    let mut mux = Mux::guest();
    let mut ignored = 0;
    let mut backlog: BTreeMap<u32, (Vec<u8>, bool)> = BTreeMap::new();
    let mut buffer = vec![0; 8192];
    loop {
        let count = match wire.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        mux.receive(&buffer[..count]);
        while let Some(event) = mux.next_event() {
            match event {
                MuxEvent::Hello { .. } if ignored < ignore_hellos => ignored += 1,
                MuxEvent::Hello { hello, .. } => mux
                    .acknowledge(&HelloAck {
                        protocol: 1,
                        nonce: hello.nonce,
                        vm_id: "vm".into(),
                        boot_nonce: boot.into(),
                        agent_version: "t".into(),
                    })
                    .unwrap(),
                MuxEvent::Ping(payload) => {
                    let ping: crate::message::Ping = serde_json::from_slice(&payload).unwrap();
                    let pong = Pong {
                        nonce: ping.nonce,
                        vm_id: "vm".into(),
                        boot_nonce: boot.into(),
                    };
                    mux.pong(&serde_json::to_vec(&pong).unwrap()).unwrap();
                }
                MuxEvent::Opened { stream, request } => {
                    match serde_json::from_slice(&request).unwrap() {
                        Request::Exec(exec) if exec.argv[0] == "refuse" => {
                            mux.reset(stream, ErrorCode::NotFound, "no such program");
                        }
                        Request::Exec(_) => {
                            let reply = StreamReply::Started { pid: 7 };
                            mux.control(stream, &serde_json::to_vec(&reply).unwrap())
                                .unwrap();
                            backlog.insert(stream, (Vec::new(), false));
                        }
                        _ => {
                            let reply = StreamReply::Done {
                                response: Response::Ok,
                            };
                            mux.control(stream, &serde_json::to_vec(&reply).unwrap())
                                .unwrap();
                            mux.close(stream);
                        }
                    }
                }
                MuxEvent::Data { stream, data, .. } => {
                    mux.grant(stream, 0, data.len());
                    backlog.get_mut(&stream).unwrap().0.extend_from_slice(&data);
                }
                MuxEvent::HalfClosed { stream, .. } => backlog.get_mut(&stream).unwrap().1 = true,
                MuxEvent::Reset { stream, .. } => drop(backlog.remove(&stream)),
                _ => {}
            }
        }
        backlog.retain(|stream, (data, ended)| {
            let sent = mux.data(*stream, 0, data).unwrap();
            data.drain(..sent);
            if !(data.is_empty() && *ended) {
                return true;
            }
            let reply = StreamReply::Exit {
                status: ExitStatus::Code(4),
            };
            mux.half_close(*stream, 0).unwrap();
            mux.control(*stream, &serde_json::to_vec(&reply).unwrap())
                .unwrap();
            mux.close(*stream);
            false
        });
        let out = mux.output().to_vec();
        if wire.write_all(&out).await.is_err() {
            return;
        }
        mux.sent(out.len());
    }
}

fn request(program: &str) -> ExecRequest {
    ExecRequest {
        argv: vec![program.into()],
        stdin: true,
        ..ExecRequest::default()
    }
}

#[tokio::test]
async fn a_hello_is_repeated_until_it_is_answered_even_behind_garbage() {
    let (mut ours, theirs) = duplex(200_000);
    // What a host that died in the middle of a frame left behind.
    let mut half = BytesMut::new();
    assert!(crate::frame::encode(
        &mut half,
        crate::frame::FrameKind::Hello,
        (99, 0, 0),
        &vec![1; crate::frame::MAX_PAYLOAD]
    ));
    ours.write_all(&half[..50]).await.unwrap();
    let _guest = tokio::spawn(guest(theirs, "boot", 1));
    let client = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(client.ping(77, PATIENCE).await.unwrap().nonce, 77);
}

#[tokio::test]
async fn another_boot_is_another_guest() {
    let (ours, theirs) = duplex(1000);
    let _guest = tokio::spawn(guest(theirs, "an older boot", 0));
    let error = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::WrongGuest { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_is_a_deadline_and_a_hang_up_is_told() {
    let (ours, theirs) = duplex(1_000_000);
    let short = Duration::from_millis(20);
    let error = AgentClient::connect(ours, expected(), short)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Deadline { .. }), "{error}");
    drop(theirs);

    let (ours, theirs) = duplex(1000);
    let running = tokio::spawn(guest(theirs, "boot", 0));
    let client = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap();
    let mut session = client.exec(request("cat")).await.unwrap();
    running.abort();
    client.closed().await;
    assert!(!client.is_open());
    assert!(matches!(
        session.wait().await,
        Err(ClientError::Closed { .. })
    ));
    let mut rest = Vec::new();
    let cut = session.stdout.take().unwrap().read_to_end(&mut rest).await;
    assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(
        client.exec(request("cat")).await,
        Err(ClientError::Closed { .. })
    ));
}

#[tokio::test]
async fn a_refusal_carries_the_guests_words() {
    let (ours, theirs) = duplex(1000);
    let _guest = tokio::spawn(guest(theirs, "boot", 0));
    let client = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap();
    let error = client.exec(request("refuse")).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused { code: ErrorCode::NotFound, message } if message == "no such program")
    );
}

#[tokio::test]
async fn a_stalled_reader_stalls_nobody_else() {
    let (ours, theirs) = duplex(4096);
    let _guest = tokio::spawn(guest(theirs, "boot", 0));
    let client = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap();
    let mut stalled = client.exec(request("cat")).await.unwrap();
    let mut stdin = stalled.stdin.take().unwrap();
    let writing = tokio::spawn(async move {
        let data = vec![5; 3_000_000];
        stdin.write_all(&data).await.map(|()| stdin)
    });
    for round in 0..5_u8 {
        let mut session = client.exec(request("cat")).await.unwrap();
        let sent = vec![round; 600_000];
        let mut stdin = session.stdin.take().unwrap();
        let data = sent.clone();
        let feeding = tokio::spawn(async move { stdin.write_all(&data).await });
        let mut got = Vec::new();
        session
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut got)
            .await
            .unwrap();
        feeding.await.unwrap().unwrap();
        assert!(got == sent);
        assert_eq!(session.wait().await.unwrap(), ExitStatus::Code(4));
    }
    let mut stdout = stalled.stdout.take().unwrap();
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        stdout.read_to_end(&mut got).await.map(|_| got)
    });
    drop(writing.await.unwrap().unwrap());
    let got = reading.await.unwrap().unwrap();
    assert_eq!(got.len(), 3_000_000);
    assert!(got.iter().all(|byte| *byte == 5));
    assert_eq!(stalled.wait().await.unwrap(), ExitStatus::Code(4));
}

/// A guest that shakes hands, if it does, and then says the same thing for as long as anybody
/// listens. How many bytes it could say.
async fn babbler(mut wire: DuplexStream, polite: bool, words: fn(u64) -> Vec<u8>) -> usize {
    use crate::frame::{Accept, Decoder, FrameKind, encode};
    let mut decoder = Decoder::new(Accept::Hello);
    let mut buffer = vec![0; 8192];
    let hello = loop {
        let count = wire.read(&mut buffer).await.unwrap();
        decoder.push(&buffer[..count]);
        if let Some(hello) = decoder.next_frame() {
            break hello;
        }
    };
    if polite {
        let said: crate::message::Hello = serde_json::from_slice(&hello.payload).unwrap();
        let ack = HelloAck {
            protocol: 1,
            nonce: said.nonce,
            vm_id: "vm".into(),
            boot_nonce: "boot".into(),
            agent_version: "t".into(),
        };
        let mut out = BytesMut::new();
        let ack = serde_json::to_vec(&ack).unwrap();
        let whole = encode(&mut out, FrameKind::HelloAck, (hello.session, 0, 0), &ack);
        assert!(whole);
        wire.write_all(&out).await.unwrap();
    }
    let words = words(hello.session);
    let mut said = 0;
    while wire.write_all(&words).await.is_ok() {
        said += words.len();
        assert!(said < 64 << 20, "nobody hangs up");
    }
    said
}

#[tokio::test]
async fn who_floods_frames_with_bad_checksums_is_hung_up_on() {
    let (ours, theirs) = duplex(4096);
    let guest = tokio::spawn(babbler(theirs, true, |session| {
        let (mut out, payload) = (BytesMut::new(), vec![1; crate::frame::MAX_PAYLOAD]);
        let kind = crate::frame::FrameKind::Pong;
        assert!(crate::frame::encode(
            &mut out,
            kind,
            (session, 0, 0),
            &payload
        ));
        out.truncate(crate::frame::HEADER_LEN);
        out.repeat(128)
    }));
    let client = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap();
    let reason = client.closed().await;
    assert!(reason.contains("garbage"), "{reason}");
    assert!(client.misbehaved().is_some());
    let error = client.ping(1, PATIENCE).await.unwrap_err();
    assert!(error.misbehaviour().is_some(), "{error}");
    let said = guest.await.unwrap();
    // One payload's length before the first can be summed up, and as many headers as may be.
    assert!(said < 200_000, "{said} bytes were listened to");
}

/// What a guest says again and again, and how much of it is listened to.
async fn flooded(words: fn(u64) -> Vec<u8>) -> usize {
    let (ours, theirs) = duplex(4096);
    let guest = tokio::spawn(babbler(theirs, true, words));
    let client = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap();
    let reason = client.closed().await;
    assert!(reason.contains("flooded"), "{reason}");
    assert_eq!(client.misbehaved(), Some(driver::FLOOD));
    let error = client.ping(1, PATIENCE).await.unwrap_err();
    assert_eq!(error.misbehaviour(), Some(driver::FLOOD), "{error}");
    guest.await.unwrap()
}

fn frames(kind: crate::frame::FrameKind, session: u64, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    assert!(crate::frame::encode(
        &mut out,
        kind,
        (session, stream, 0),
        payload
    ));
    out.repeat(64)
}

#[tokio::test]
async fn who_floods_frames_that_nobody_asked_for_is_hung_up_on() {
    use crate::frame::FrameKind;
    // As many bytes as there may be, and what lies in the channel.
    const MOST: usize = (4 << 20) + 100_000;
    let pongs = |session| {
        let pong = br#"{"nonce":7,"vm_id":"vm","boot_nonce":"boot"}"#;
        frames(FrameKind::Pong, session, 0, pong)
    };
    let events = |session| {
        let report = br#"{"kind":"exited","report":{}}"#;
        frames(FrameKind::Event, session, 0, report)
    };
    let acks = |session| frames(FrameKind::HelloAck, session, 0, &[b' '; 60_000]);
    let of_no_stream = |session| frames(FrameKind::Data, session, 99, &[1]);
    let grants = |session| frames(FrameKind::Window, session, 0, &[0; 4]);
    for words in [pongs, events, acks, of_no_stream, grants] {
        let said = flooded(words).await;
        assert!(said < MOST, "{said} bytes were listened to");
    }
}

/// Data that somebody reads are no flood, and neither are pongs that answer.
#[tokio::test]
async fn who_is_asked_for_much_may_say_much() {
    let (ours, theirs) = duplex(64 << 10);
    let _guest = tokio::spawn(guest(theirs, "boot", 0));
    let client = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap();
    let mut session = client.exec(request("cat")).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let feeding = tokio::spawn(async move { stdin.write_all(&vec![3; 20_000_000]).await });
    let mut got = Vec::new();
    let mut stdout = session.stdout.take().unwrap();
    stdout.read_to_end(&mut got).await.unwrap();
    feeding.await.unwrap().unwrap();
    assert_eq!(got.len(), 20_000_000);
    for nonce in 0..20_000 {
        client.ping(nonce, PATIENCE).await.unwrap();
    }
    // Each is given up with a window of output under way.
    for _ in 0..40 {
        let mut session = client.exec(request("cat")).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(&vec![3; 256 << 10]).await.unwrap();
    }
    client.ping(1, PATIENCE).await.unwrap();
    assert_eq!(client.misbehaved(), None);
}

#[tokio::test]
async fn who_never_says_anything_sensible_is_hung_up_on() {
    let (ours, theirs) = duplex(4096);
    let guest = tokio::spawn(babbler(theirs, false, |_| vec![0xF5; 4096]));
    let error = AgentClient::connect(ours, expected(), PATIENCE)
        .await
        .unwrap_err();
    assert!(error.misbehaviour().is_some(), "{error}");
    let said = guest.await.unwrap() as u64;
    assert!(said < 2 * crate::frame::WASTE_MAX, "{said}");
}
