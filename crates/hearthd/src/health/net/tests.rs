use std::time::Duration;

use hearth_types::api::Verdict;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A server that reads a request and answers each with these bytes; it says what was asked.
async fn server(answer: Vec<u8>) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (tell, answer) = (tell.clone(), answer.clone());
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                        return;
                    }
                    request.push(byte[0]);
                }
                drop(tell.send(String::from_utf8(request).unwrap()));
                // The other side may hang up in the middle, and should.
                drop(stream.write_all(&answer).await);
            });
        }
    });
    (address, asked)
}

/// An address that nobody listens on.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

async fn verdict(answer: &str, good: &str) -> Outcome {
    let (address, _asked) = server(answer.as_bytes().to_vec()).await;
    http(address, "/", good.parse().unwrap()).await
}

#[tokio::test]
async fn a_port_that_listens_is_good_and_one_that_does_not_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outcome = tcp(listener.local_addr().unwrap()).await;
    assert_eq!(outcome.verdict, Verdict::Pass);
    let outcome = tcp(nobody().await).await;
    assert_eq!(outcome.verdict, Verdict::Fail);
    assert!(outcome.message.contains("refused"), "{outcome:?}");
    let outcome = http(nobody().await, "/", StatusRange::default()).await;
    assert_eq!(outcome.verdict, Verdict::Fail);
}

#[tokio::test]
async fn the_status_decides() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(verdict(ok, "200-399").await.verdict, Verdict::Pass);
    assert_eq!(verdict(ok, "204").await.verdict, Verdict::Fail);
    let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n";
    assert_eq!(verdict(moved, "200-399").await.verdict, Verdict::Pass);
    let ill = verdict("HTTP/1.1 503 No\r\n\r\n", "200-399").await;
    assert_eq!(ill.verdict, Verdict::Fail);
    assert!(ill.message.contains("503"), "{ill:?}");
}

#[tokio::test]
async fn the_path_is_asked_for_as_it_is() {
    let answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let (address, mut asked) = server(answer).await;
    let outcome = http(address, "/ready?deep=1", StatusRange::default()).await;
    assert_eq!(outcome.verdict, Verdict::Pass);
    let request = asked.recv().await.unwrap();
    assert!(
        request.starts_with("GET /ready?deep=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.to_lowercase().contains(&format!("host: {address}")),
        "{request}"
    );
}

#[tokio::test]
async fn what_is_no_http_is_a_failure() {
    for answer in ["", "SSH-2.0-x\r\n", "HTTP/1.1 2000 x\r\n\r\n"] {
        let outcome = verdict(answer, "200-399").await;
        assert_eq!(outcome.verdict, Verdict::Fail, "{answer:?} {outcome:?}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_not_read_to_its_end() {
    let endless = format!(
        "HTTP/1.1 200 OK\r\n{}",
        "x-more: and more\r\n".repeat(100_000)
    );
    let outcome = verdict(&endless, "200-399").await;
    assert_eq!(outcome.verdict, Verdict::Fail);
}

#[tokio::test]
async fn a_body_without_end_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let more = vec![0; 1 << 16];
        while stream.write_all(&more).await.is_ok() {}
    });
    let asked = http(address, "/", StatusRange::default());
    let outcome = tokio::time::timeout(Duration::from_secs(60), asked).await;
    assert_eq!(outcome.unwrap().verdict, Verdict::Pass);
}
