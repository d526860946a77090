//! Requests and answers as bytes.

use serde_json::{Value, json};

/// Longest request, as the real one's default.
const BODY_MAX: usize = 51_200;
/// Longest head of a request.
const HEAD_MAX: usize = 8 << 10;

/// A whole request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Option<Vec<u8>>,
}

/// Takes a whole request out of what was received, if there is one.
pub(super) fn take_request(received: &mut Vec<u8>) -> Result<Option<Request>, String> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        if received.len() > HEAD_MAX {
            return Err("Invalid request.".to_owned());
        }
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0")) =
        (words.next(), words.next(), words.next())
    else {
        return Err("Invalid HTTP Version: Unsupported HTTP version.".to_owned());
    };
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim().parse::<usize>());
    let length = match length {
        None => 0,
        Some(Ok(length)) if length <= BODY_MAX => length,
        Some(Ok(length)) => {
            return Err(format!(
                "Request payload with size {length} is larger than the limit of {BODY_MAX} allowed by server."
            ));
        }
        Some(Err(_)) => return Err("Invalid content length header.".to_owned()),
    };
    let whole = end + 4 + length;
    if received.len() < whole {
        return Ok(None);
    }
    let bytes: Vec<u8> = received.drain(..whole).collect();
    Ok(Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        body: (length > 0).then(|| bytes[end + 4..].to_vec()),
    }))
}

/// An answer without content.
pub(super) fn done() -> Vec<u8> {
    b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n".to_vec()
}

/// An answer with content.
pub(super) fn says(value: &Value) -> Vec<u8> {
    with_body(200, value)
}

/// A refusal.
pub(super) fn fault(status: u16, message: &str) -> Vec<u8> {
    with_body(status, &json!({ "fault_message": message }))
}

fn with_body(status: u16, value: &Value) -> Vec<u8> {
    let body = value.to_string();
    format!(
        "HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
