//! Newline-delimited JSON and server-sent events, cut out of a stream of bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;

use crate::request::decode;
use crate::{ByteStream, ClientError};

/// The longest line that is kept: more is not an answer of hearthd.
const MAX_LINE: usize = 4 << 20;

/// Collects bytes and gives back whole lines without their ends.
#[derive(Debug, Default)]
struct LineBuffer {
    pending: BytesMut,
    lines: VecDeque<Bytes>,
}

impl LineBuffer {
    /// Takes a chunk; `false` when a line became too long.
    fn push(&mut self, chunk: &[u8]) -> bool {
        self.pending.extend_from_slice(chunk);
        let mut searched = self.pending.len() - chunk.len();
        while let Some(at) = self.pending[searched..].iter().position(|b| *b == b'\n') {
            let mut line = self.pending.split_to(searched + at + 1);
            line.truncate(line.len() - 1);
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            self.lines.push_back(line.freeze());
            searched = 0;
        }
        self.pending.len() <= MAX_LINE
    }

    /// What is left at the end of the stream.
    fn finish(&mut self) {
        if !self.pending.is_empty() {
            let rest = self.pending.split().freeze();
            self.lines.push_back(rest);
        }
    }
}

/// The lines of a stream of bytes.
fn lines(name: String, bytes: ByteStream) -> impl Stream<Item = Result<Bytes, ClientError>> + Send {
    let state = (bytes, LineBuffer::default(), false, name);
    futures::stream::try_unfold(
        state,
        |(mut bytes, mut buffer, mut ended, name)| async move {
            loop {
                if let Some(line) = buffer.lines.pop_front() {
                    return Ok(Some((line, (bytes, buffer, ended, name))));
                }
                if ended {
                    return Ok(None);
                }
                match bytes.try_next().await? {
                    Some(chunk) if buffer.push(&chunk) => {}
                    Some(_) => {
                        let detail = format!("it has a line of more than {MAX_LINE} bytes");
                        return Err(ClientError::protocol(&name, detail));
                    }
                    None => {
                        buffer.finish();
                        ended = true;
                    }
                }
            }
        },
    )
}

/// Each line as a JSON value; empty lines (keep-alives) are skipped.
pub(crate) fn ndjson<T: DeserializeOwned + Send>(
    name: String,
    bytes: ByteStream,
) -> impl Stream<Item = Result<T, ClientError>> + Send {
    lines(name.clone(), bytes)
        .try_filter(|line| futures::future::ready(!line.trim_ascii().is_empty()))
        .map(move |line| line.and_then(|line| decode(&name, &line)))
}

/// The `data:` of each server-sent event as a JSON value. Comments (keep-alives) are skipped;
/// `id:` and `event:` repeat what the data says.
pub(crate) fn sse<T: DeserializeOwned + Send>(
    name: String,
    bytes: ByteStream,
) -> impl Stream<Item = Result<T, ClientError>> + Send {
    let state = (Box::pin(lines(name.clone(), bytes)), name);
    futures::stream::try_unfold(state, |(mut lines, name)| async move {
        let mut data = Vec::new();
        while let Some(line) = lines.try_next().await? {
            if line.is_empty() {
                if data.is_empty() {
                    continue;
                }
                let value = decode(&name, &data)?;
                return Ok(Some((value, (lines, name))));
            }
            if let Some(text) = line.strip_prefix(b"data:") {
                if !data.is_empty() {
                    data.push(b'\n');
                }
                data.extend_from_slice(text.strip_prefix(b" ").unwrap_or(text));
            }
        }
        // An event without its closing empty line is not whole: the standard drops it.
        Ok(None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &'static str, size: usize) -> ByteStream {
        let parts: Vec<_> = text
            .as_bytes()
            .chunks(size)
            .map(|c| Ok(Bytes::from_static(c)))
            .collect();
        Box::pin(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn lines_survive_any_cut() {
        for size in 1..20 {
            let got: Vec<u32> =
                ndjson::<u32>("t".to_owned(), chunks("1\r\n\n22\n  \n333\n4444", size))
                    .try_collect()
                    .await
                    .unwrap();
            assert_eq!(got, [1, 22, 333, 4444], "chunks of {size}");
        }
    }

    #[tokio::test]
    async fn events_survive_any_cut() {
        let text =
            ": hello\n\nid: 1\nevent: a\ndata: [1,\ndata: 2]\n\n:\n\ndata:[3]\r\n\r\ndata: [4]\n";
        for size in 1..text.len() {
            let got: Vec<Vec<u32>> = sse::<Vec<u32>>("t".to_owned(), chunks(text, size))
                .try_collect()
                .await
                .unwrap();
            assert_eq!(got, [vec![1, 2], vec![3]], "chunks of {size}");
        }
    }

    #[tokio::test]
    async fn endless_lines_are_refused() {
        let block = Bytes::from(vec![b'x'; 1 << 20]);
        let endless = futures::stream::repeat_with(move || Ok(block.clone()));
        let got: Result<Vec<u32>, _> = ndjson::<u32>("t".to_owned(), Box::pin(endless))
            .try_collect()
            .await;
        assert!(matches!(got, Err(ClientError::Protocol { .. })));
    }
}
