//! The task that owns the connection: it moves bytes between the wire, the [`Mux`] and the
//! streams' handles, and never waits for a reader.
//!
//! ```text
//!   start ──Hello, again and again──► established ──► over (wire closed | nobody holds a handle)
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tracing::debug;

use super::ClientError;
use super::budget::Budget;
use super::reader::{Feed, StreamReader};
use super::stream::SendCredit;
use crate::message::{
    CHANNEL_MAIN, CHANNEL_STDERR, ErrorCode, Event, GuestReport, Hello, HelloAck, PROTOCOL, Ping,
    Pong, StreamError, StreamReply,
};
use crate::mux::{CHANNELS, GRANT_STEP, Mux, MuxEvent, OUTPUT_HIGH_WATER, WINDOW};

/// How often the hello is repeated while nobody answers.
const HELLO_EVERY: Duration = Duration::from_millis(250);
/// Each so many-th hello is sent behind padding, for a guest that waits in a half frame.
const FLUSH_EVERY: u32 = 4;
/// Messages that a stream's owner may leave unread: an honest guest sends two.
const REPLIES: usize = 8;
const READ_SIZE: usize = 16 * 1024;
/// Why the connection to a guest is ended that sends no frames.
pub(super) const GARBAGE: &str = "it sent garbage instead of frames";
/// Why the connection to a guest is ended that sends more of them than anybody asked for.
pub(super) const FLOOD: &str = "it flooded the channel with frames that nobody had asked for";
/// What a guest may send because a stream was opened, in bytes: its messages and its end.
const PER_STREAM: usize = 128 << 10;

/// What the guest did, if that is why the connection was ended.
pub(super) fn misbehaviour(reason: &str) -> Option<&'static str> {
    [GARBAGE, FLOOD].into_iter().find(|known| *known == reason)
}

pub(super) type Opened = Result<StreamHandles, ClientError>;

/// What handles ask of the driver.
#[derive(Debug)]
pub(super) enum Command {
    Open {
        payload: Vec<u8>,
        reply: oneshot::Sender<Opened>,
        commands: mpsc::UnboundedSender<Command>,
    },
    Data {
        stream: u32,
        data: Bytes,
    },
    EndData {
        stream: u32,
    },
    Control {
        stream: u32,
        payload: Vec<u8>,
    },
    Grant {
        stream: u32,
        channel: u8,
        bytes: usize,
    },
    Abandon {
        stream: u32,
    },
    Ping {
        nonce: u64,
        reply: oneshot::Sender<Pong>,
    },
}

/// What the opener of a stream holds. Dropping it gives the stream up.
#[derive(Debug)]
pub(super) struct StreamHandles {
    pub(super) stream: u32,
    pub(super) stdout: Option<StreamReader>,
    pub(super) stderr: Option<StreamReader>,
    pub(super) credit: Arc<SendCredit>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    replies: mpsc::Receiver<Result<StreamReply, StreamError>>,
}

impl StreamHandles {
    /// The guest's next message on the stream.
    pub(super) async fn next_reply(&mut self) -> Result<StreamReply, ClientError> {
        match self.replies.recv().await {
            Some(reply) => reply.map_err(ClientError::from),
            None => Err(ClientError::Closed {
                reason: "the stream broke before its end".to_owned(),
            }),
        }
    }
}

impl Drop for StreamHandles {
    fn drop(&mut self) {
        // The stream is over already when its driver is.
        let _sent = self.commands.send(Command::Abandon {
            stream: self.stream,
        });
    }
}

/// The driver's end of one stream.
#[derive(Debug)]
struct Stream {
    channels: [Option<Feed>; CHANNELS],
    credit: Arc<SendCredit>,
    replies: mpsc::Sender<Result<StreamReply, StreamError>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.credit.close();
    }
}

/// The connection's owner.
#[derive(Debug)]
pub(super) struct Driver<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    core: Core,
    inbox: mpsc::UnboundedReceiver<Command>,
}

/// Everything but the I/O.
#[derive(Debug)]
struct Core {
    mux: Mux,
    hello: Hello,
    hellos: u32,
    ack: Option<oneshot::Sender<HelloAck>>,
    report: watch::Sender<Option<GuestReport>>,
    streams: HashMap<u32, Stream>,
    pings: HashMap<u64, oneshot::Sender<Pong>>,
    budget: Budget,
}

impl<S: AsyncRead + AsyncWrite> Driver<S> {
    pub(super) fn new(
        stream: S,
        inbox: mpsc::UnboundedReceiver<Command>,
        ack: oneshot::Sender<HelloAck>,
        report: watch::Sender<Option<GuestReport>>,
    ) -> Result<Self, ClientError> {
        let (reader, writer) = tokio::io::split(stream);
        let core = Core {
            mux: Mux::host(random()?),
            hello: Hello {
                protocol: PROTOCOL,
                nonce: random()?,
            },
            hellos: 0,
            ack: Some(ack),
            report,
            streams: HashMap::new(),
            pings: HashMap::new(),
            budget: Budget::new(Instant::now()),
        };
        Ok(Self {
            reader,
            writer,
            core,
            inbox,
        })
    }

    /// Runs until the wire closes or nobody holds a handle any more.
    pub(super) async fn run(mut self, closed: watch::Sender<Option<String>>) {
        let reason = self.pump().await;
        debug!(%reason, "the guest's channel is closed");
        closed.send_replace(Some(reason));
    }

    async fn pump(&mut self) -> String {
        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        let mut tick = hello_interval();
        loop {
            let established = self.core.ack.is_none();
            tokio::select! {
                read = self.reader.read_buf(&mut buffer) => match read {
                    Ok(0) => return "the other end has hung up".to_owned(),
                    Ok(_) => {
                        self.core.receive(&buffer);
                        buffer.clear();
                        if self.core.mux.is_hopeless() {
                            return GARBAGE.to_owned();
                        }
                        if self.core.budget.is_spent() {
                            return FLOOD.to_owned();
                        }
                    }
                    Err(error) => return format!("reading failed: {error}"),
                },
                written = self.writer.write(self.core.mux.output()),
                    if !self.core.mux.output().is_empty() => match written {
                    Ok(0) => return "the other end takes no more".to_owned(),
                    Ok(count) => self.core.mux.sent(count),
                    Err(error) => return format!("writing failed: {error}"),
                },
                command = self.inbox.recv() => match command {
                    Some(command) => self.core.obey(command),
                    None => return "nobody uses it any more".to_owned(),
                },
                _ = tick.tick(), if !established => self.core.send_hello(),
            }
        }
    }
}

fn hello_interval() -> Interval {
    let mut tick = interval(HELLO_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

impl Core {
    fn send_hello(&mut self) {
        if self.mux.output().len() > OUTPUT_HIGH_WATER {
            return;
        }
        let flush = self.hellos % FLUSH_EVERY == FLUSH_EVERY - 1;
        self.hellos = self.hellos.wrapping_add(1);
        let outcome = self.mux.hello(&self.hello, flush);
        debug!(?outcome, flush, "said hello to the guest");
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.budget.fill(Instant::now());
        self.mux.receive(bytes);
        while let Some(event) = self.mux.next_event() {
            self.handle(event);
        }
        for payload in self.mux.take_unasked() {
            self.budget.spend(payload);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open {
                payload,
                reply,
                commands,
            } => {
                let opened = self.open(&payload, commands);
                // An opener that is gone drops its handles with this, which abandons the stream.
                let _unwanted = reply.send(opened);
            }
            Command::Data { stream, data } => {
                // A stream that is over takes nothing; its writer learns it from its credit.
                let _sent = self.mux.data(stream, CHANNEL_MAIN, &data);
            }
            Command::EndData { stream } => {
                let _sent = self.mux.half_close(stream, CHANNEL_MAIN);
            }
            Command::Control { stream, payload } => {
                let _sent = self.mux.control(stream, &payload);
            }
            Command::Grant {
                stream,
                channel,
                bytes,
            } => self.mux.grant(stream, channel, bytes),
            Command::Abandon { stream } => {
                if self.streams.remove(&stream).is_some() {
                    // What the guest was allowed to send may be under way.
                    self.budget.earn(CHANNELS * WINDOW);
                }
                self.mux.reset(
                    stream,
                    ErrorCode::Abandoned,
                    "the host has given the stream up",
                );
            }
            Command::Ping { nonce, reply } => {
                self.pings.retain(|_, waiting| !waiting.is_closed());
                self.pings.insert(nonce, reply);
                let payload = serde_json::to_vec(&Ping { nonce }).unwrap_or_default();
                let _sent = self.mux.ping(&payload);
            }
        }
    }

    fn open(&mut self, payload: &[u8], commands: mpsc::UnboundedSender<Command>) -> Opened {
        let stream = self
            .mux
            .open(payload)
            .map_err(|source| ClientError::Send { source })?;
        self.budget.earn(PER_STREAM);
        let reader = |channel| StreamReader::new(stream, channel, commands.clone());
        let (stdout, stdout_feed) = reader(CHANNEL_MAIN);
        let (stderr, stderr_feed) = reader(CHANNEL_STDERR);
        let (replies_tx, replies) = mpsc::channel(REPLIES);
        let credit = SendCredit::new();
        let channels = [Some(stdout_feed), Some(stderr_feed)];
        self.streams.insert(
            stream,
            Stream {
                channels,
                credit: credit.clone(),
                replies: replies_tx,
            },
        );
        Ok(StreamHandles {
            stream,
            stdout: Some(stdout),
            stderr: Some(stderr),
            credit,
            commands,
            replies,
        })
    }

    fn handle(&mut self, event: MuxEvent) {
        match event {
            MuxEvent::Established(ack) => self.established(ack),
            MuxEvent::Data {
                stream,
                channel,
                data,
            } => self.deliver(stream, channel, &data),
            MuxEvent::HalfClosed { stream, channel } => {
                self.budget.spend(0);
                self.end_channel(stream, channel);
            }
            MuxEvent::Credit {
                stream,
                channel: CHANNEL_MAIN,
                bytes,
            } => {
                // Who grants in steps has been sent as much before.
                if bytes < GRANT_STEP {
                    self.budget.spend(0);
                }
                if let Some(stream) = self.streams.get(&stream) {
                    stream.credit.add(bytes);
                }
            }
            MuxEvent::Control { stream, payload } => {
                self.budget.spend(payload.len());
                self.reply(stream, &payload);
            }
            MuxEvent::Reset { stream, error } => {
                if let Some(stream) = self.streams.remove(&stream) {
                    let _unwanted = stream.replies.try_send(Err(error));
                }
            }
            MuxEvent::Closed { stream } => {
                for channel in [CHANNEL_MAIN, CHANNEL_STDERR] {
                    self.end_channel(stream, channel);
                }
                self.streams.remove(&stream);
            }
            MuxEvent::Pong(payload) => self.pong(&payload),
            MuxEvent::Event(payload) => {
                self.budget.spend(payload.len());
                self.event(&payload);
            }
            // Nothing that a guest has to say to a host.
            _ => self.budget.spend(0),
        }
    }

    fn established(&mut self, ack: HelloAck) {
        match self.ack.take() {
            Some(waiting) if ack.nonce == self.hello.nonce => {
                let _unwanted = waiting.send(ack);
            }
            waiting => {
                self.ack = waiting;
                self.budget.spend(0);
            }
        }
    }

    fn deliver(&mut self, stream: u32, channel: u8, data: &[u8]) {
        let taken = self
            .streams
            .get(&stream)
            .and_then(|state| state.channels.get(usize::from(channel))?.as_ref())
            .is_some_and(|feed| feed.data(data));
        if !taken {
            self.budget.spend(data.len());
            // Nobody reads this channel any more: its data count as read, or the program stalls.
            self.mux.grant(stream, channel, data.len());
        }
    }

    fn end_channel(&mut self, stream: u32, channel: u8) {
        let state = self.streams.get_mut(&stream);
        if let Some(feed) = state
            .and_then(|state| state.channels.get_mut(usize::from(channel)))
            .and_then(Option::take)
        {
            feed.end();
        }
    }

    /// A guest that floods its stream with messages loses it.
    fn reply(&mut self, stream: u32, payload: &[u8]) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        let delivered = match serde_json::from_slice(payload) {
            Ok(reply) => !matches!(
                state.replies.try_send(Ok(reply)),
                Err(mpsc::error::TrySendError::Full(_))
            ),
            Err(error) => {
                debug!(%error, "a message of the guest cannot be read");
                false
            }
        };
        if !delivered {
            self.streams.remove(&stream);
            self.mux.reset(
                stream,
                ErrorCode::Protocol,
                "bad or too many messages on the stream",
            );
        }
    }

    fn pong(&mut self, payload: &[u8]) {
        let pong = serde_json::from_slice::<Pong>(payload).ok();
        let asked = pong.and_then(|pong| Some((self.pings.remove(&pong.nonce)?, pong)));
        match asked {
            Some((waiting, pong)) => drop(waiting.send(pong)),
            None => self.budget.spend(payload.len()),
        }
    }

    fn event(&mut self, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(Event::Exited { report }) => {
                self.report.send_replace(Some(report));
            }
            Err(error) => debug!(%error, "an event of the guest cannot be read"),
        }
    }
}

fn random() -> Result<u64, ClientError> {
    let mut bytes = [0_u8; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| ClientError::Random {
                    source: errno.into(),
                })?;
    }
    Ok(u64::from_le_bytes(bytes) | 1)
}
