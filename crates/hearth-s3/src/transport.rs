//! `object_store`'s requests over the HTTP client of this workspace.
//!
//! Answers that are none of success end here: all that goes on of them is status, the code in
//! their body and the region that they name. The headers of the others are kept beside them,
//! since `object_store` has no place for checksums.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use http::StatusCode;
use http::header::RANGE;
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpResponse, HttpResponseBody, HttpService,
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a server may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// Of an error's document no more is read than this.
const DOCUMENT: usize = 64 << 10;
/// Longest code that is believed to be one.
const CODE: usize = 64;

/// An answer that is none of success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoSuccess {
    pub(crate) status: u16,
    pub(crate) code: Option<String>,
    pub(crate) region: Option<String>,
}

impl fmt::Display for NoSuccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP status {}", self.status)
    }
}

impl std::error::Error for NoSuccess {}

/// A question for a part was answered with the whole.
#[derive(Debug)]
pub(crate) struct Whole;

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the whole instead of a part")
    }
}

impl std::error::Error for Whole {}

/// The headers of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Headers(pub(crate) http::HeaderMap);

/// Makes clients.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) ca: Vec<reqwest::Certificate>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let http = http.is_some_and(|value| value == "true");
        let client = client(&self.ca, http).map_err(|error| object_store::Error::Generic {
            store: "S3",
            source: Box::new(error),
        })?;
        Ok(HttpClient::new(Transport(client)))
    }
}

fn client(ca: &[reqwest::Certificate], http: bool) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .https_only(!http)
        // A signature is for one server: another one is another question.
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_merge(ca.to_vec())
        .build()
}

#[derive(Debug)]
struct Transport(reqwest::Client);

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let part = parts.headers.contains_key(RANGE);
        let asked = self
            .0
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            // Only uploads have other bodies, and nothing is uploaded.
            .body(body.as_bytes().cloned().unwrap_or_default());
        let answer = asked.send().await.map_err(unsent)?;
        if !answer.status().is_success() {
            let refused = no_success(answer).await;
            return Err(HttpError::new(HttpErrorKind::Unknown, refused));
        }
        if part && answer.status() == StatusCode::OK {
            return Err(HttpError::new(HttpErrorKind::Unknown, Whole));
        }
        let mut response = http::Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            headers.extend(answer.headers().clone());
        }
        let headers = Headers(answer.headers().clone());
        let body = reqwest::Body::from(answer);
        let body = http_body_util::BodyExt::map_err(body, unsent);
        let mut response = response
            .body(HttpResponseBody::new(body))
            .map_err(|error| HttpError::new(HttpErrorKind::Decode, error))?;
        response.extensions_mut().insert(headers);
        Ok(response)
    }
}

async fn no_success(answer: reqwest::Response) -> NoSuccess {
    let region = answer.headers().get("x-amz-bucket-region");
    let region = region.and_then(|region| word(region.to_str().ok()?));
    let status = answer.status().as_u16();
    let mut stream = answer.bytes_stream();
    let mut document = Vec::new();
    while let Some(Ok(piece)) = stream.next().await {
        document.extend_from_slice(&piece);
        if document.len() > DOCUMENT {
            document.truncate(DOCUMENT);
            break;
        }
    }
    let document = String::from_utf8_lossy(&document);
    NoSuccess {
        status,
        code: element(&document, "Code").and_then(word),
        region: region.or_else(|| element(&document, "Region").and_then(word)),
    }
}

/// An element's text. The documents are flat, and a wrong reading costs a word of a message.
fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<')?.0)
}

/// A word that may be shown: nothing that a server could hide a secret or a line break in.
fn word(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= CODE;
    let clean = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    (fits && text.bytes().all(clean)).then(|| text.to_owned())
}

/// The address is left out: it can hold a signature.
fn unsent(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, error.without_url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words() {
        let document = "<Error><Code>NoSuchKey</Code><Message>x</Message></Error>";
        assert_eq!(
            element(document, "Code").and_then(word).as_deref(),
            Some("NoSuchKey")
        );
        assert_eq!(element(document, "Region"), None);
        assert_eq!(element("<Code>", "Code"), None);
        assert_eq!(word("two words"), None);
        assert_eq!(word("a\nb"), None);
        assert_eq!(word(&"x".repeat(65)), None);
    }
}
