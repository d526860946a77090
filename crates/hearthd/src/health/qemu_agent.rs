//! QEMU's guest agent: is it there, and does it answer *us*?
//!
//! ```text
//!  0xFF  guest-sync-delimited {id: n}  ──►  …what was said to others…  0xFF {"return": n}
//!        guest-ping                    ──►  {"return": {}}
//! ```
//! The port has one client and no sessions: what another one asked before may be answered now.
//! The byte 0xFF is in no JSON text. Sent, it ends what somebody left half said; received, it
//! says that everything before it is not for us. The number is a new one each time, so that an
//! answer which comes late is none. (QEMU, "Guest Agent Protocol Reference", guest-sync-delimited.)

use std::io;
use std::time::Duration;

use hearth_vmm::VmmError;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::Ward;
use super::probe::Outcome;
use crate::engine::Engine;
use crate::engine::agents::nonce;

/// The byte that separates.
const SENTINEL: u8 = 0xff;
/// The most that is read before an answer, in bytes: the guest is not trusted.
const MOST: usize = 64 << 10;
/// Of what is wrong with an answer, this much is shown, in characters.
const SHOWN: usize = 120;

/// How the conversation failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the port cannot be used")]
    Port(#[from] io::Error),
    #[error("it hung up")]
    Closed,
    #[error("it said {MOST} bytes and no answer")]
    Babble,
    #[error("it answered {0}")]
    Wrong(String),
}

/// Good if the agent echoes a number and answers a ping.
pub(super) async fn check(engine: &Engine, ward: &Ward, deadline: Duration) -> Outcome {
    let dir = engine.paths.vm(ward.vm);
    let mut stream = match engine.parts.vmm.qemu_agent(ward.vm, &dir).await {
        Ok(stream) => stream,
        Err(error) => return no_port(&error),
    };
    let id = match nonce() {
        // Half the bits: qemu-ga reads it as a signed number.
        Ok(number) => number >> 33,
        Err(error) => return Outcome::unknown(format!("there is no random number: {error}")),
    };
    match timeout(deadline, converse(&mut stream, id)).await {
        Ok(Ok(())) => Outcome::pass("it echoes a number"),
        Ok(Err(error)) => Outcome::of_error(&error),
        Err(_) => Outcome::fail(format!(
            "no answer within {} ms: does qemu-ga run in the guest?",
            deadline.as_millis()
        )),
    }
}

/// A VM that was started before the check was asked for has no port.
fn no_port(error: &VmmError) -> Outcome {
    match error {
        VmmError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Outcome::unknown("it was started without a port for it: its next start has one")
        }
        VmmError::Unsuitable { .. } => Outcome::unknown(error.to_string()),
        error => Outcome::of_error(error),
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    id: u64,
) -> Result<(), Failure> {
    let mut sync = vec![SENTINEL];
    let request = json!({"execute": "guest-sync-delimited", "arguments": {"id": id}});
    sync.extend_from_slice(format!("{request}\n").as_bytes());
    stream.write_all(&sync).await?;
    let mut lines = Lines::default();
    loop {
        // What comes after a sentinel may still be the answer to another's sync.
        lines.skip_to_sentinel(stream).await?;
        if lines.next(stream).await?.get("return") == Some(&json!(id)) {
            break;
        }
    }
    let ping = json!({"execute": "guest-ping"});
    stream.write_all(format!("{ping}\n").as_bytes()).await?;
    let answer = lines.next(stream).await?;
    if answer.get("return").is_some_and(Value::is_object) {
        return Ok(());
    }
    let text: String = answer.to_string().chars().take(SHOWN).collect();
    Err(Failure::Wrong(text))
}

/// What was read and not yet used.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    read: usize,
}

impl Lines {
    async fn more<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<(), Failure> {
        if self.read >= MOST {
            return Err(Failure::Babble);
        }
        let before = self.buffer.len();
        if stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(Failure::Closed);
        }
        self.read += self.buffer.len() - before;
        Ok(())
    }

    async fn skip_to_sentinel<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> Result<(), Failure> {
        loop {
            let sentinel = self.buffer.iter().position(|byte| *byte == SENTINEL);
            if let Some(at) = sentinel {
                self.buffer.drain(..=at);
                return Ok(());
            }
            self.buffer.clear();
            self.more(stream).await?;
        }
    }

    /// The next line that is JSON; `null` for one that is not.
    async fn next<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<Value, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line).unwrap_or(Value::Null));
            }
            self.more(stream).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream, duplex};

    use super::*;

    const ID: u64 = 4711;

    /// One request of ours, without the sentinel.
    async fn request(guest: &mut BufReader<DuplexStream>) -> Value {
        let mut line = Vec::new();
        guest.read_until(b'\n', &mut line).await.unwrap();
        let text = line.strip_prefix(&[SENTINEL]).unwrap_or(&line);
        serde_json::from_slice(text).unwrap()
    }

    /// An agent that says this to the sync and this to the ping.
    async fn answered(sync: &[u8], ping: &[u8]) -> Result<(), Failure> {
        let (mut ours, theirs) = duplex(256);
        let (sync, ping) = (sync.to_vec(), ping.to_vec());
        let agent = async move {
            let mut guest = BufReader::new(theirs);
            let asked = request(&mut guest).await;
            assert_eq!(asked["execute"], "guest-sync-delimited");
            assert_eq!(asked["arguments"]["id"], ID);
            // We may have hung up already.
            drop(guest.write_all(&sync).await);
            if !ping.is_empty() {
                assert_eq!(request(&mut guest).await["execute"], "guest-ping");
                guest.write_all(&ping).await.unwrap();
            }
        };
        let asking = async {
            let answer = converse(&mut ours, ID).await;
            drop(ours);
            answer
        };
        let (result, ()) = tokio::join!(asking, agent);
        result
    }

    const SYNCED: &[u8] = b"\xff{\"return\": 4711}\n";
    const PONG: &[u8] = b"{\"return\": {}}\n";

    #[tokio::test]
    async fn an_agent_that_answers_is_well() {
        answered(SYNCED, PONG).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_said_to_others_is_not_for_us() {
        let stale = b"{\"return\": {\"half\": \"\n\xff{\"return\": 12}\n{\"error\": {}}\n";
        let sync = [stale.as_slice(), SYNCED].concat();
        answered(&sync, PONG).await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_told() {
        let error = answered(SYNCED, b"{\"error\": {\"desc\": \"disabled\"}}\n").await;
        assert!(error.unwrap_err().to_string().contains("disabled"));
    }

    #[tokio::test]
    async fn one_that_hangs_up_or_babbles_fails() {
        let closed = answered(b"\xff{\"return\":", b"").await.unwrap_err();
        assert!(matches!(closed, Failure::Closed), "{closed:?}");
        let noise = vec![b'x'; 2 * MOST];
        let babble = answered(&noise, b"").await.unwrap_err();
        assert!(matches!(babble, Failure::Babble), "{babble:?}");
    }
}
