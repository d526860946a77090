//! Just enough HTTP for the daemon's unix socket: one request per connection, so that a
//! sample holds all that a client pays.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Longest time without a byte: longer than anything that is measured.
const SILENCE: Duration = Duration::from_secs(300);

/// Sends a request; returns the status and the reader of the body, its chunks undone.
pub(crate) fn send(
    socket: &Path,
    method: &str,
    path: &str,
    accept: &str,
    body: Option<&Value>,
) -> anyhow::Result<(u16, Box<dyn BufRead>)> {
    let mut stream = UnixStream::connect(socket).context("cannot connect to the daemon")?;
    stream.set_read_timeout(Some(SILENCE))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: hearth\r\nAccept: {accept}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("the daemon answers {line:?}"))?;
    let mut chunked = false;
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the answer has no end");
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        chunked |= header == "transfer-encoding: chunked";
    }
    let body: Box<dyn BufRead> = if chunked {
        Box::new(BufReader::new(Chunks { reader, left: 0 }))
    } else {
        Box::new(reader)
    };
    Ok((status, body))
}

/// Sends a request that must succeed; returns what came, whole.
pub(crate) fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<String> {
    let (status, mut reader) = send(socket, method, path, "application/json", body)?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    ensure!(
        (200..300).contains(&status),
        "{method} {path}: {status} {text}"
    );
    Ok(text)
}

struct Chunks<R> {
    reader: R,
    left: usize,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            // The line end after the last chunk's data comes first.
            while line.trim().is_empty() {
                line.clear();
                if self.reader.read_line(&mut line)? == 0 {
                    return Ok(0);
                }
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = buffer.len().min(self.left);
        let count = self.reader.read(&mut buffer[..most])?;
        self.left -= count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_undone() {
        let mut text = String::new();
        let reader = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n".as_slice();
        Chunks { reader, left: 0 }
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "abc0123456789");
    }
}
