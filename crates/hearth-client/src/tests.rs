//! Tests against servers that misbehave; the CLI's tests cover the well-behaved one.

use std::time::Duration;

use futures::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use hearth_types::api::{ExecRequest, PullImage};

use crate::{ActOptions, Action, Client, ClientError, Endpoint};

/// A server that gives one answer, whatever it is asked, and hangs up. What it was asked
/// comes back from the task.
async fn server(
    answer: &'static str,
) -> (Client, tempfile::TempDir, tokio::task::JoinHandle<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        let mut buffer = [0; 4096];
        while !asked.windows(4).any(|w| w == b"\r\n\r\n") {
            let length = stream.read(&mut buffer).await.unwrap();
            asked.extend_from_slice(&buffer[..length]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    let endpoint = Endpoint::Unix(path.to_str().unwrap().into());
    (Client::new(endpoint), dir, task)
}

#[tokio::test]
async fn problems_and_other_refusals_are_told_apart() {
    let (client, _dir, _task) = server("HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n{\"type\":\"urn:hearth:problem:not_found\",\"title\":\"No such object\",\"status\":404,\"code\":\"not_found\",\"detail\":\"no vm\"}").await;
    assert!(client.vm("x").await.unwrap_err().is_not_found());
    let (client, _dir, _task) =
        server("HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\n\r\n<html>\x1b[31mproxy").await;
    let error = client.vm("x").await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("502") && text.contains("<html>") && !text.contains('\x1b'),
        "{text}"
    );
}

#[tokio::test]
async fn answers_that_are_not_the_apis() {
    let (client, _dir, _task) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await;
    assert!(matches!(
        client.vm("x").await,
        Err(ClientError::Protocol { .. })
    ));
    let (client, _dir, _task) = server("SSH-2.0-OpenSSH\r\n").await;
    assert!(matches!(
        client.vm("x").await,
        Err(ClientError::Broken { .. })
    ));
    let (client, _dir, _task) = server("").await;
    assert!(matches!(
        client.vm("x").await,
        Err(ClientError::Broken { .. })
    ));
    let (client, _dir, _task) = server("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
    assert!(matches!(
        client.vm("x").await,
        Err(ClientError::Broken { .. })
    ));
}

#[tokio::test]
async fn a_progress_that_is_cut_is_no_success() {
    let (client, _dir, _task) = server("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n25\r\n{\"type\":\"stage\",\"message\":\"resolving\"}\n\r\n").await;
    let body = PullImage {
        reference: "a".to_owned(),
        ..PullImage::default()
    };
    let steps: Result<Vec<_>, _> = client.pull_image(&body).await.unwrap().try_collect().await;
    assert!(
        matches!(steps, Err(ClientError::Broken { .. })),
        "{steps:?}"
    );
}

#[tokio::test]
async fn an_upgrade_must_be_accepted_with_the_right_key() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: AAAA\r\n\r\n";
    let (client, _dir, _task) = server(answer).await;
    let request: ExecRequest = serde_json::from_str(r#"{"argv":["a"]}"#).unwrap();
    assert!(matches!(
        client.exec("x", &request).await,
        Err(ClientError::Protocol { .. })
    ));
}

#[tokio::test]
async fn conditions_and_waits_are_sent() {
    let (client, _dir, task) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    let options = ActOptions {
        if_match: Some(7),
        ..ActOptions::waiting(Some(Duration::from_millis(1001)))
    };
    assert_eq!(client.delete_vm("a/b", true, &options).await.unwrap(), None);
    let asked = task.await.unwrap();
    assert!(
        asked.starts_with("DELETE /v1/vms/a%2Fb?force=true&wait=true&timeout=2 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.contains("if-match: \"7\"\r\n"), "{asked}");
    let (client, _dir, task) = server("").await;
    assert!(
        client
            .act("a", Action::Pause, &ActOptions::default())
            .await
            .is_err()
    );
    assert!(
        task.await
            .unwrap()
            .starts_with("POST /v1/vms/a/pause HTTP/1.1\r\n")
    );
}
