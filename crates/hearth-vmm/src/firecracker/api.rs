//! Firecracker's HTTP API over its unix socket.
//!
//! ```text
//!   connect ──► request ──► answer ──► request … ──► hung up
//!      └──────────┴── deadline, or more than an answer may have: the connection is dropped ──┘
//! ```
//!
//! Its server takes ten connections and one request at a time, so there is one connection
//! per VM at any moment ([`Gates`]), and it is short. Answers may have fields that are not
//! known here.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8Path;
use hearth_types::ids::VmId;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::OwnedMutexGuard;

use super::place;

/// Longest head of an answer, in bytes. Theirs have some 150.
const HEAD_MAX: usize = 16 << 10;
/// Longest body of an answer, in bytes. The whole configuration of a VM has a few KiB.
const BODY_MAX: usize = 1 << 20;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Nobody listens, or the connection broke.
    #[error("its API socket cannot be used")]
    Io(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// It said something that is not its API.
    #[error("it does not speak its API: {0}")]
    Protocol(String),
    /// It answered with an error.
    #[error("Firecracker answered {status} to {request}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
        /// Method and path of the request.
        request: String,
    },
}

impl ApiError {
    /// Whether the other side hung up or was not there.
    pub(super) fn is_disconnect(&self) -> bool {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof,
        };
        let Self::Io(error) = self else {
            return false;
        };
        matches!(
            error.kind(),
            BrokenPipe | ConnectionRefused | ConnectionReset | NotFound | UnexpectedEof
        )
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) body: Option<Value>,
}

impl Request {
    pub(super) fn get(path: &str) -> Self {
        Self {
            method: "GET",
            path: path.to_owned(),
            body: None,
        }
    }

    pub(super) fn put(path: impl Into<String>, body: Value) -> Self {
        Self {
            method: "PUT",
            path: path.into(),
            body: Some(body),
        }
    }

    pub(super) fn patch(path: &str, body: Value) -> Self {
        Self {
            method: "PATCH",
            path: path.to_owned(),
            body: Some(body),
        }
    }

    /// What goes over the wire.
    pub(super) fn text(&self) -> String {
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        let length = match self.body {
            Some(_) => format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ),
            None => String::new(),
        };
        format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n{length}\r\n{body}",
            self.method, self.path
        )
    }
}

/// Lets one connection at a time through to each VMM.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<HashMap<VmId, Arc<tokio::sync::Mutex<()>>>>);

impl Gates {
    pub(super) async fn pass(&self, vm: VmId) -> OwnedMutexGuard<()> {
        let gate = {
            // A panic while it was held left a map of plain values.
            let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            Arc::clone(gates.entry(vm).or_default())
        };
        gate.lock_owned().await
    }
}

/// A connection to the API.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    fault_message: String,
}

impl Connection {
    pub(super) async fn open(dir: &Utf8Path) -> Result<Self, ApiError> {
        let stream = place::connect(dir, place::API_SOCKET)
            .await
            .map_err(ApiError::Io)?;
        Ok(Self::over(stream))
    }

    pub(super) const fn over(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Does one request and returns the answer's body, `null` if it has none. No deadline of
    /// its own: the caller has one.
    pub(super) async fn request(&mut self, request: &Request) -> Result<Value, ApiError> {
        self.stream
            .write_all(request.text().as_bytes())
            .await
            .map_err(ApiError::Io)?;
        let (status, length) = self.head().await?;
        let body = self.take(length).await?;
        if !(200..300).contains(&status) {
            let message = match serde_json::from_slice::<Fault>(&body) {
                Ok(fault) => fault.fault_message,
                Err(_) => String::from_utf8_lossy(&body).into_owned(),
            };
            return Err(ApiError::Refused {
                status,
                message,
                request: format!("{} {}", request.method, request.path),
            });
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| ApiError::Protocol(error.to_string()))
    }

    /// Status and length of the body.
    async fn head(&mut self) -> Result<(u16, usize), ApiError> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if self.buffer.len() > HEAD_MAX {
                return Err(ApiError::Protocol(format!(
                    "a head longer than {HEAD_MAX} bytes"
                )));
            }
            self.read().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default();
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
            .ok_or_else(|| ApiError::Protocol(format!("the answer begins with {first:?}")))?;
        let length = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-length"))
            .map_or(Ok(0), |(_, value)| value.trim().parse());
        match length {
            Ok(length) if length <= BODY_MAX => Ok((status, length)),
            _ => Err(ApiError::Protocol(format!(
                "an answer without a length below {BODY_MAX} bytes"
            ))),
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, ApiError> {
        while self.buffer.len() < length {
            self.read().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn read(&mut self) -> Result<(), ApiError> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(ApiError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(ApiError::Io(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `request` gives when the other side answers with these bytes and hangs up.
    async fn answered(bytes: &[u8]) -> Result<Value, ApiError> {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let request = Request::put("/vm", serde_json::json!({"a": 1}));
        let answer = Connection::over(near).request(&request).await;
        let mut asked = [0; 8];
        far.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"PUT /vm ");
        answer
    }

    #[tokio::test]
    async fn answers_of_all_kinds() {
        let none = answered(b"HTTP/1.1 204 \r\nServer: x\r\n\r\n").await;
        assert_eq!(none.unwrap(), Value::Null);
        let some = b"HTTP/1.1 200 \r\ncontent-length: 20\r\n\r\n{\"state\":\"x\",\"y\":1} rest";
        assert_eq!(answered(some).await.unwrap()["state"], "x");
        let refused = b"HTTP/1.1 400 \r\nContent-Length: 23\r\n\r\n{\"fault_message\": \"no\"} ";
        let error = answered(refused).await.unwrap_err();
        assert_eq!(error.to_string(), "Firecracker answered 400 to PUT /vm: no");
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for (nonsense, what) in [
            (&b"SSH-2.0-x\r\n\r\n"[..], "begins with"),
            (
                b"HTTP/1.1 200 \r\nContent-Length: 9999999999\r\n\r\n",
                "length",
            ),
            (b"HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n", "length"),
            (
                b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{]",
                "key must be",
            ),
        ] {
            let error = answered(nonsense).await.unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert!(!error.is_disconnect());
        }
        let long = answered(&[b'x'; HEAD_MAX + 100]).await.unwrap_err();
        assert!(long.to_string().contains("head"), "{long}");
        let cut = answered(b"HTTP/1.1 200 \r\nContent-Le").await.unwrap_err();
        assert!(cut.is_disconnect());
    }

    #[tokio::test]
    async fn a_gate_lets_one_through_and_is_forgotten() {
        let gates = Gates::default();
        let (one, two) = (VmId::new(), VmId::new());
        let first = gates.pass(one).await;
        let second = gates.pass(two).await;
        let wait = tokio::time::timeout(Duration::from_millis(20), gates.pass(one));
        assert!(wait.await.is_err(), "somebody is inside");
        drop((first, second));
        drop(gates.pass(one).await);
        drop(gates.pass(VmId::new()).await);
        assert!(gates.0.lock().unwrap().len() <= 1);
    }
}
