//! `/v1/vms/{vm}/console`: the console, both ways, over a WebSocket.

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use hearth_types::problem::{Code, Problem};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::error::{ApiError, ApiResult, InPath};
use super::{Api, ahead, view};

/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// The largest WebSocket message that a client may send, in bytes. Clients send what is typed
/// and pieces of files.
const MESSAGE_LIMIT: usize = 1 << 20;

/// Opens the console: binary messages, both ways.
#[utoipa::path(get, path = "/v1/vms/{vm}/console", tag = "vms", params(("vm" = String, Path)),
    responses((status = 101, description = "A WebSocket; binary messages carry the console's bytes."), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn console(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    socket: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let row = view::find(&api.engine, &vm).await?;
    let socket = upgrade(socket)?;
    if row.status.vmm.is_none() {
        return Err(ApiError::new(
            Code::Conflict,
            format!("{} is not running", row.spec.name),
        ));
    }
    let console = api
        .engine
        .parts
        .vmm
        .console(row.id, &api.engine.paths.vm(row.id))
        .await;
    let console = console.map_err(|error| ApiError::guest(&row.spec.name, &error.into()))?;
    Ok(socket.on_upgrade(move |socket| join(socket, console, api.stopping)))
}

/// A request that is not a WebSocket handshake is told so. What it may send has a limit.
pub(super) fn upgrade(
    socket: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> ApiResult<WebSocketUpgrade> {
    let socket = socket.map_err(|rejection| {
        ApiError::new(
            Code::Invalid,
            format!("this path speaks WebSocket: {}", rejection.body_text()),
        )
    })?;
    Ok(socket
        .max_message_size(MESSAGE_LIMIT)
        .max_frame_size(MESSAGE_LIMIT))
}

async fn join(
    socket: WebSocket,
    console: Box<dyn hearth_vmm::Stream>,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) {
    let (mut from_console, mut to_console) = tokio::io::split(console);
    let (mut to_client, mut from_client) = socket.split();
    let out = async {
        let mut chunk = vec![0; CHUNK];
        let mut pings = ahead::pings();
        loop {
            let message = tokio::select! {
                read = from_console.read(&mut chunk) => match read {
                    Ok(length @ 1..) => Message::Binary(Bytes::copy_from_slice(&chunk[..length])),
                    _ => return,
                },
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            if to_client.send(message).await.is_err() {
                return;
            }
        }
    };
    let (sender, mut pieces) = ahead::channel();
    let input = async {
        while let Some(Ok(message)) = from_client.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Text(text) => text.into(),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            sender.send(data).await;
        }
    };
    let typed = async {
        while let Some(piece) = pieces.next().await {
            if to_console.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = out => {}
        () = input => {}
        () = typed => {}
        _ = stopping.changed() => {}
    }
    // The client may be gone already; there is nobody left to tell.
    drop(to_client.send(Message::Close(None)).await);
}
