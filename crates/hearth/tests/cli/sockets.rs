//! The fake daemon's console and exec.

use axum::extract::Path;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;

use hearth_types::api::{ExecControl, ExecRequest};
use hearth_types::problem::{Code, Problem};

use crate::fake::find;

/// Sends back what it gets, in upper case, and ends at `q`.
pub(crate) async fn console(Path(reference): Path<String>, socket: WebSocketUpgrade) -> Response {
    if let Err(problem) = find(&reference) {
        return *problem;
    }
    socket.on_upgrade(async |mut socket| {
        socket
            .send(Message::Binary("login: ".into()))
            .await
            .unwrap();
        while let Some(Ok(Message::Binary(bytes))) = socket.recv().await {
            let upper = bytes.to_ascii_uppercase();
            let last = upper.contains(&b'Q');
            socket.send(Message::Binary(upper.into())).await.unwrap();
            if last {
                socket.send(Message::Close(None)).await.unwrap();
                break;
            }
        }
    })
}

pub(crate) async fn exec(Path(reference): Path<String>, socket: WebSocketUpgrade) -> Response {
    match find(&reference) {
        Ok(_) => socket.on_upgrade(serve_exec),
        Err(problem) => *problem,
    }
}

async fn say(socket: &mut WebSocket, control: &ExecControl) {
    let text = serde_json::to_string(control).unwrap();
    socket.send(Message::Text(text.into())).await.unwrap();
}

async fn put_out(socket: &mut WebSocket, stream: u8, bytes: &[u8]) {
    let message = [&[stream], bytes].concat();
    socket.send(Message::Binary(message.into())).await.unwrap();
}

/// Some commands: `cat`, `exit N`, `env`, `signal`, `hang-up`.
async fn serve_exec(mut socket: WebSocket) {
    let Some(Ok(Message::Text(text))) = socket.recv().await else {
        panic!("the first message is no request");
    };
    let request: ExecRequest = serde_json::from_str(&text).unwrap();
    let words: Vec<_> = request.argv.iter().map(String::as_str).collect();
    let code = match words[..] {
        ["cat"] => cat(&mut socket).await,
        ["exit", code] => {
            put_out(&mut socket, 1, b"to stdout\n").await;
            put_out(&mut socket, 2, b"to stderr\n").await;
            put_out(&mut socket, 1, b"").await;
            code.parse().unwrap()
        }
        ["request"] => {
            let text = serde_json::to_string_pretty(&request).unwrap();
            put_out(&mut socket, 1, text.as_bytes()).await;
            0
        }
        ["signal"] => {
            put_out(&mut socket, 1, b"ready\n").await;
            loop {
                if let Some(Ok(Message::Text(text))) = socket.recv().await {
                    let ExecControl::Signal { signal } = serde_json::from_str(&text).unwrap()
                    else {
                        continue;
                    };
                    break 128 + signal;
                }
            }
        }
        ["tty"] => tty(&mut socket, &request).await,
        ["hang-up"] => return,
        ["forbidden"] => {
            let problem = Problem::new(Code::Invalid, "Cannot run forbidden: permission denied");
            return say(&mut socket, &ExecControl::Error { problem }).await;
        }
        _ => {
            let problem = Problem::new(
                Code::NotFound,
                format!("There is no command {:?}", words[0]),
            );
            return say(&mut socket, &ExecControl::Error { problem }).await;
        }
    };
    say(&mut socket, &ExecControl::Exit { code }).await;
}

/// Tells the terminal's first size and each later one; ends at `q`.
async fn tty(socket: &mut WebSocket, request: &ExecRequest) -> i32 {
    let size = request.tty.unwrap();
    let line = format!("size {} {}\r\n", size.rows, size.cols);
    put_out(socket, 1, line.as_bytes()).await;
    loop {
        match socket.recv().await {
            Some(Ok(Message::Text(text))) => {
                if let ExecControl::Resize(size) = serde_json::from_str(&text).unwrap() {
                    let line = format!("resized {} {}\r\n", size.rows, size.cols);
                    put_out(socket, 1, line.as_bytes()).await;
                }
            }
            Some(Ok(Message::Binary(bytes))) if bytes[..] == *b"\0q" => return 5,
            Some(Ok(Message::Binary(bytes))) => {
                let line = format!("typed {:?}\r\n", &bytes[1..]);
                put_out(socket, 1, line.as_bytes()).await;
            }
            _ => return 1,
        }
    }
}

/// Returns all input; the exit code says that the end of the input was seen.
async fn cat(socket: &mut WebSocket) -> i32 {
    loop {
        match socket.recv().await {
            Some(Ok(Message::Binary(bytes))) if bytes[..] == [0] => return 42,
            Some(Ok(Message::Binary(bytes))) => put_out(socket, 1, &bytes[1..]).await,
            other => panic!("unexpected message {other:?}"),
        }
    }
}
