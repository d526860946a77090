//! Sending one request and reading its answer.

use std::fmt::Write as _;
use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use hearth_types::problem::Problem;

use crate::{Client, ClientError, Endpoint, connection};

/// Bytes as they come from the daemon.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>>;

pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The largest answer that is kept in memory: a page of 1,000 VMs is below 4 MiB.
const MAX_ANSWER: usize = 64 << 20;
/// The largest answer of an error that is read.
const MAX_PROBLEM: usize = 1 << 20;

/// A request under construction: method, path (with its query), headers and body.
#[derive(Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    has_query: bool,
    headers: Vec<(HeaderName, String)>,
    body: Body,
}

impl Call {
    /// Starts a request; each of `segments` is percent-encoded on its own.
    pub(crate) fn new(method: Method, segments: &[&str]) -> Self {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            encode(segment, &mut path);
        }
        Self {
            method,
            path,
            has_query: false,
            headers: Vec::new(),
            body: empty(),
        }
    }

    pub(crate) fn get(segments: &[&str]) -> Self {
        Self::new(Method::GET, segments)
    }

    pub(crate) fn post(segments: &[&str]) -> Self {
        Self::new(Method::POST, segments)
    }

    pub(crate) fn query(mut self, key: &str, value: impl ToString) -> Self {
        self.path.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        encode(key, &mut self.path);
        self.path.push('=');
        encode(&value.to_string(), &mut self.path);
        self
    }

    pub(crate) fn query_some(self, key: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn json<T: Serialize>(mut self, value: &T) -> Result<Self, ClientError> {
        let text = serde_json::to_vec(value).map_err(|e| {
            ClientError::protocol(&self.name(), format!("cannot write the body: {e}"))
        })?;
        self.body = Full::new(Bytes::from(text))
            .map_err(|e| match e {})
            .boxed_unsync();
        Ok(self.header(CONTENT_TYPE, "application/json"))
    }

    pub(crate) fn stream<S>(mut self, stream: S) -> Self
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let frames = stream.map(|chunk| chunk.map(Frame::data).map_err(Into::into));
        self.body = StreamBody::new(frames).boxed_unsync();
        self
    }

    /// Method and path without the query: what errors show.
    pub(crate) fn name(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

fn empty() -> Body {
    Empty::new().map_err(|e| match e {}).boxed_unsync()
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").expect("a String takes all text");
        }
    }
}

impl Client {
    /// Sends a request and gives back the answer of whatever status.
    pub(crate) async fn send_raw(&self, call: Call) -> Result<Response<Incoming>, ClientError> {
        let name = call.name();
        let request = self.build(call)?;
        let stream = connection::open(&self.endpoint).await?;
        let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ClientError::broken(&name, e))?;
        // Ends by itself when the answer's body has been read or dropped.
        tokio::spawn(driver.with_upgrades());
        sender
            .send_request(request)
            .await
            .map_err(|e| ClientError::broken(&name, e))
    }

    fn build(&self, call: Call) -> Result<Request<Body>, ClientError> {
        let name = call.name();
        let host = match &self.endpoint {
            Endpoint::Unix(_) => "localhost".to_owned(),
            tcp @ Endpoint::Tcp { .. } => tcp.to_string().trim_start_matches("tcp://").to_owned(),
        };
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(HOST, host);
        for (key, value) in call.headers {
            request = request.header(key, value);
        }
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&token.header()).map_err(|_| {
                ClientError::protocol(&name, "the token does not fit into a header")
            })?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request
            .body(call.body)
            .map_err(|e| ClientError::protocol(&name, format!("cannot be asked: {e}")))
    }

    /// Sends a request; an answer that is not a success becomes an error.
    pub(crate) async fn send(&self, call: Call) -> Result<Response<Incoming>, ClientError> {
        let name = call.name();
        let answer = self.send_raw(call).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(failure(&name, answer).await)
    }

    /// Sends a request and reads the JSON of its answer.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let name = call.name();
        let call = call.header(ACCEPT, "application/json");
        let bytes = read_all(&name, self.send(call).await?, MAX_ANSWER).await?;
        decode(&name, &bytes)
    }

    /// Sends a request whose answer has JSON or no body at all.
    pub(crate) async fn fetch_some<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<Option<T>, ClientError> {
        let name = call.name();
        let answer = self.send(call).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let bytes = read_all(&name, answer, MAX_ANSWER).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        decode(&name, &bytes).map(Some)
    }

    /// Sends a request and gives its answer as bytes while they come.
    pub(crate) async fn fetch_bytes(&self, call: Call) -> Result<ByteStream, ClientError> {
        let name = call.name();
        let body = self.send(call).await?.into_body();
        Ok(Box::pin(body.into_data_stream().map(move |chunk| {
            chunk.map_err(|e| ClientError::broken(&name, e))
        })))
    }
}

pub(crate) fn decode<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|e| {
        ClientError::protocol(
            name,
            format!("{e}; are client and daemon of the same version?"),
        )
    })
}

async fn read_all(
    name: &str,
    answer: Response<Incoming>,
    limit: usize,
) -> Result<Bytes, ClientError> {
    match Limited::new(answer.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(ClientError::protocol(
            name,
            format!("it is longer than {limit} bytes"),
        )),
        Err(e) => Err(ClientError::broken(name, e)),
    }
}

/// Reads the problem out of an answer that is not a success.
pub(crate) async fn failure(name: &str, answer: Response<Incoming>) -> ClientError {
    let status = answer.status();
    let bytes = match read_all(name, answer, MAX_PROBLEM).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    if let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) {
        return problem.into();
    }
    let text: String = String::from_utf8_lossy(&bytes)
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect();
    ClientError::protocol(
        name,
        format!("status {status} without a problem document: {text:?}"),
    )
}
