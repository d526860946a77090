//! `/v1/vms/{vm}/exec`: a command in the guest, over a WebSocket.
//!
//! The first text message is the [`ExecRequest`]. Then binary messages carry bytes (first
//! byte: 0 stdin, 1 stdout, 2 stderr; an empty rest closes), text messages carry
//! [`ExecControl`]. The last message of the server is `exit` or `error`.

use axum::extract::State;
use axum::extract::ws::{
    Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
};
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use hearth_guest_proto::client::{
    ClientError, ExecControl as GuestControl, ExecSession, StreamReader, StreamWriter,
};
use hearth_guest_proto::message::{self, ErrorCode, TtySize};
use hearth_store::VmRow;
use hearth_types::api::{ExecControl, ExecRequest};
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::archive::{AGENT_WAIT, ANSWER_WAIT, silent};
use super::error::{ApiError, ApiResult, InPath};
use super::stream::upgrade;
use super::{Api, ahead, view};

/// Messages that may wait for the client; then the guest waits.
const QUEUE: usize = 16;
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// Runs a command in the guest.
#[utoipa::path(get, path = "/v1/vms/{vm}/exec", tag = "vms", params(("vm" = String, Path)),
    responses((status = 101, description = "A WebSocket: see ExecRequest and ExecControl."), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn exec(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let row = view::find(&api.engine, &vm).await?;
    let socket = upgrade(socket)?;
    if row.status.vmm.is_none() {
        return Err(
            ApiError::new(Code::Conflict, format!("{} is not running", row.spec.name))
                .hint(format!("start it with: hearth start {}", row.spec.name)),
        );
    }
    Ok(socket.on_upgrade(move |socket| serve(api, row, socket)))
}

async fn serve(mut api: Api, row: VmRow, socket: WebSocket) {
    let (mut to_client, mut from_client) = socket.split();
    match open(&api, &row, &mut from_client).await {
        Ok(session) => tokio::select! {
            () = run(session, &mut to_client, &mut from_client) => {}
            _ = api.stopping.changed() => {
                let problem = Problem::new(Code::Unavailable, "the daemon is being stopped; the guest goes on").hint("repeat the command when the daemon is back");
                say(&mut to_client, &ExecControl::Error { problem }).await;
            }
        },
        Err(problem) => say(&mut to_client, &ExecControl::Error { problem }).await,
    }
    // The client may be gone already.
    drop(to_client.send(Message::Close(None)).await);
}

/// Reads the request and starts the command.
async fn open(
    api: &Api,
    row: &VmRow,
    from_client: &mut SplitStream<WebSocket>,
) -> Result<ExecSession, Problem> {
    let text = match from_client.next().await {
        Some(Ok(Message::Text(text))) => text,
        _ => {
            return Err(Problem::new(
                Code::Invalid,
                "the first message must be an ExecRequest as text",
            ));
        }
    };
    let request: ExecRequest = serde_json::from_str(&text).map_err(|error| {
        Problem::new(
            Code::Invalid,
            format!("the request cannot be read: {error}"),
        )
    })?;
    if request.argv.is_empty() {
        return Err(Problem::new(Code::Invalid, "argv: must name a program"));
    }
    let client = api
        .engine
        .agents
        .get(&api.engine, row.id, AGENT_WAIT)
        .await
        .map_err(|error| ApiError::guest(&row.spec.name, &error).into_problem())?;
    let request = message::ExecRequest {
        argv: request.argv,
        env: request.env,
        workdir: request.workdir,
        user: request.user,
        tty: request.tty.map(|size| TtySize {
            rows: size.rows,
            cols: size.cols,
        }),
        stdin: request.stdin,
    };
    tokio::time::timeout(ANSWER_WAIT, client.exec(request))
        .await
        .map_err(|_| silent(row.spec.name.as_str()).into_problem())?
        .map_err(|error| problem(row, &error))
}

/// 127 and 126 are a shell's words for "not found" and "cannot be run"; clients map the codes.
fn problem(row: &VmRow, error: &ClientError) -> Problem {
    let code = match error {
        ClientError::Refused {
            code: ErrorCode::NotFound,
            ..
        } => Code::NotFound,
        ClientError::Refused { .. } => Code::Invalid,
        _ => Code::GuestUnreachable,
    };
    Problem::new(code, format!("{}: {}", row.spec.name, chain(error)))
}

async fn run(
    mut session: ExecSession,
    to_client: &mut SplitSink<WebSocket, Message>,
    from_client: &mut SplitStream<WebSocket>,
) {
    let (queue, mut queued) = mpsc::channel(QUEUE);
    let (stdin, control) = (session.stdin.take(), session.control());
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let output = async move {
        tokio::join!(
            pump(stdout, STDOUT, queue.clone()),
            pump(stderr, STDERR, queue.clone())
        );
        let end = match session.wait().await {
            Ok(status) => ExecControl::Exit {
                code: status.shell_code(),
            },
            Err(error) => ExecControl::Error {
                problem: Problem::new(Code::GuestUnreachable, chain(&error)),
            },
        };
        // Nobody to tell if the client is gone.
        drop(queue.send(text(&end)).await);
    };
    let sender = async {
        let mut pings = ahead::pings();
        loop {
            let message = tokio::select! {
                biased;
                message = queued.recv() => message,
                _ = pings.tick() => Some(Message::Ping(Bytes::new())),
            };
            let Some(message) = message else { return };
            if to_client.send(message).await.is_err() {
                return;
            }
        }
    };
    // A client that goes away takes its command with it, as the guest's agent defines. The sender
    // ends when all is said, or when nobody hears it.
    tokio::select! {
        () = async { tokio::join!(output, std::future::pending::<()>()); } => {}
        () = sender => {}
        () = input(from_client, stdin, control) => {}
    }
}

async fn pump(reader: Option<StreamReader>, stream: u8, queue: mpsc::Sender<Message>) {
    let Some(mut reader) = reader else { return };
    while let Ok(Some(piece)) = reader.next().await {
        let mut message = BytesMut::with_capacity(piece.len() + 1);
        message.put_u8(stream);
        message.put(piece);
        if queue.send(Message::Binary(message.freeze())).await.is_err() {
            return;
        }
    }
}

/// Passes on what the client sends; returns when it is gone.
async fn input(
    from_client: &mut SplitStream<WebSocket>,
    mut stdin: Option<StreamWriter>,
    control: GuestControl,
) {
    let (sender, mut pieces) = ahead::channel();
    let reader = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(data) => {
                    sender.send(data).await;
                }
                Message::Text(text) => command(&control, &text),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
    };
    let writer = async {
        while let Some(piece) = pieces.next().await {
            write(&mut stdin, piece).await;
        }
    };
    tokio::select! {
        () = reader => {}
        () = writer => {}
    }
}

async fn write(stdin: &mut Option<StreamWriter>, data: Bytes) {
    if data.first() != Some(&STDIN) {
        return;
    }
    let bytes = &data[1..];
    let open = match stdin.as_mut() {
        Some(writer) if !bytes.is_empty() => {
            writer.write_all(bytes).await.is_ok() && writer.flush().await.is_ok()
        }
        _ => false,
    };
    if !open && let Some(mut writer) = stdin.take() {
        // The program may have closed its end; then there is nothing to close.
        drop(writer.shutdown().await);
    }
}

fn command(control: &GuestControl, text: &str) {
    let sent = match serde_json::from_str(text) {
        Ok(ExecControl::Resize(size)) => control.resize(TtySize {
            rows: size.rows,
            cols: size.cols,
        }),
        Ok(ExecControl::Signal { signal }) => control.signal(signal),
        _ => Ok(()),
    };
    if let Err(error) = sent {
        tracing::debug!(error = %error, "a control message came too late");
    }
}

async fn say(to_client: &mut SplitSink<WebSocket, Message>, control: &ExecControl) {
    // Nobody to tell if the client is gone.
    drop(to_client.send(text(control)).await);
}

fn text(control: &ExecControl) -> Message {
    Message::Text(serde_json::to_string(control).unwrap_or_default().into())
}
