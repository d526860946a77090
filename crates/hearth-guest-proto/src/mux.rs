//! Sessions, streams and credit, without I/O: both sides of the channel drive one of these.
//!
//! Session (guest's view):
//! ```text
//!   none ──Hello(s)──► s ──Hello(s)──► s (acknowledged again; streams stay)
//!                      └───Hello(t)──► t (all streams of s are over; frames of s are noise)
//! ```
//! Stream: `Open` ─► data, window, half-close and control in both directions ─► `Close` or
//! `Reset` by either side, after which both sides forget it and drop what is still under way.
//!
//! Each channel of a stream has [`WINDOW`] bytes of credit to begin with; who consumes data
//! grants more with [`Mux::grant`]. So a slow reader stalls its own stream alone, and neither
//! side ever holds more than streams × channels × `WINDOW` bytes for the other. Who sends more
//! than it may is cut off with a reset.

mod event;
mod receive;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BytesMut};

pub use event::{MuxError, MuxEvent};

use crate::frame::{Accept, Decoder, FrameKind, MAX_PAYLOAD, encode};
use crate::message::{ErrorCode, Hello, HelloAck, StreamError};

/// Credit that each channel of a stream begins with, in bytes.
pub const WINDOW: usize = 256 * 1024;
/// Channels of a stream in each direction.
pub const CHANNELS: usize = 2;
/// Streams that one session may have open at once.
pub const MAX_STREAMS: usize = 256;
/// When this much waits to be sent, callers should stop to feed in more ([`Mux::congested`]).
pub const OUTPUT_HIGH_WATER: usize = 256 * 1024;

/// Credit is granted in steps of this size, not for each read.
pub const GRANT_STEP: usize = WINDOW / 4;

/// Which side of the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Host,
    Guest,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    /// What the peer lets us send.
    credit: usize,
    /// What the peer may still send.
    window: usize,
    /// Consumed, not yet granted again.
    owed: usize,
    /// We said that no more comes.
    closed: bool,
}

impl Channel {
    const NEW: Self = Self {
        credit: WINDOW,
        window: WINDOW,
        owed: 0,
        closed: false,
    };
}

/// One side of the channel.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    session: Option<u64>,
    decoder: Decoder,
    output: BytesMut,
    streams: BTreeMap<u32, [Channel; CHANNELS]>,
    next_stream: u32,
    events: VecDeque<MuxEvent>,
    unasked: Vec<usize>,
}

impl Mux {
    /// The host's side, with a session number that nobody can guess.
    #[must_use]
    pub fn host(session: u64) -> Self {
        Self::new(Role::Host, Some(session), Accept::Session(session))
    }

    /// The guest's side.
    #[must_use]
    pub fn guest() -> Self {
        Self::new(Role::Guest, None, Accept::Hello)
    }

    fn new(role: Role, session: Option<u64>, accept: Accept) -> Self {
        Self {
            role,
            session,
            decoder: Decoder::new(accept),
            output: BytesMut::new(),
            streams: BTreeMap::new(),
            next_stream: 1,
            events: VecDeque::new(),
            unasked: Vec::new(),
        }
    }

    /// Takes bytes from the wire in; then call [`Mux::next_event`] until it says `None`.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The lengths of the payloads of frames that came since this was last asked, and meant nothing.
    #[must_use]
    pub fn take_unasked(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.unasked)
    }

    /// Whether the peer sends so much garbage that nothing more of it should be read.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.decoder.is_hopeless()
    }

    /// What came in next.
    pub fn next_event(&mut self) -> Option<MuxEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let frame = self.decoder.next_frame()?;
            self.handle(frame);
        }
    }

    /// Bytes for the wire.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The first `count` bytes of [`Mux::output`] are on the wire.
    pub fn sent(&mut self, count: usize) {
        self.output.advance(count.min(self.output.len()));
        if self.output.is_empty() {
            // A connection that rests holds nothing; there is one for each guest.
            self.output = BytesMut::new();
        }
    }

    /// Enough waits to be sent: feed in no more data before some of it is gone.
    #[must_use]
    pub fn congested(&self) -> bool {
        self.output.len() >= OUTPUT_HIGH_WATER
    }

    /// The guest's connection was cut: no session, no streams, no half frames. Says which
    /// streams that ended.
    pub fn disconnect(&mut self) -> Vec<u32> {
        self.session = None;
        self.decoder.clear();
        self.decoder.set_accept(Accept::Hello);
        self.output.clear();
        self.events.clear();
        std::mem::take(&mut self.streams).into_keys().collect()
    }

    /// Host: asks for the session. `flush` sends padding first, for a guest that waits for the
    /// rest of somebody's half frame.
    pub fn hello(&mut self, hello: &Hello, flush: bool) -> Result<(), MuxError> {
        if flush {
            self.output
                .extend_from_slice(&crate::frame::flush_padding());
        }
        self.send_json(FrameKind::Hello, hello)
    }

    /// Guest: answers a hello.
    pub fn acknowledge(&mut self, ack: &HelloAck) -> Result<(), MuxError> {
        self.send_json(FrameKind::HelloAck, ack)
    }

    /// Host: sends a ping.
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), MuxError> {
        self.send(FrameKind::Ping, 0, 0, payload)
    }

    /// Guest: answers a ping.
    pub fn pong(&mut self, payload: &[u8]) -> Result<(), MuxError> {
        self.send(FrameKind::Pong, 0, 0, payload)
    }

    /// Guest: tells something outside of streams.
    pub fn event(&mut self, payload: &[u8]) -> Result<(), MuxError> {
        self.send(FrameKind::Event, 0, 0, payload)
    }

    /// Host: begins a stream.
    pub fn open(&mut self, request: &[u8]) -> Result<u32, MuxError> {
        if self.streams.len() >= MAX_STREAMS {
            return Err(MuxError::TooManyStreams);
        }
        let stream = self.next_stream;
        self.send(FrameKind::Open, stream, 0, request)?;
        self.next_stream = self.next_stream.wrapping_add(1).max(1);
        self.streams.insert(stream, [Channel::NEW; CHANNELS]);
        Ok(stream)
    }

    /// How many bytes may be sent on a channel now.
    #[must_use]
    pub fn credit(&self, stream: u32, channel: u8) -> usize {
        match self
            .streams
            .get(&stream)
            .and_then(|all| all.get(usize::from(channel)))
        {
            Some(channel) if !channel.closed => channel.credit,
            _ => 0,
        }
    }

    /// Sends as much of `data` as there is credit for; says how much that was.
    pub fn data(&mut self, stream: u32, channel: u8, data: &[u8]) -> Result<usize, MuxError> {
        let allowed = self.credit(stream, channel).min(data.len());
        for chunk in data[..allowed].chunks(MAX_PAYLOAD) {
            self.send(FrameKind::Data, stream, channel, chunk)?;
        }
        if let Some(channel) = self.channel(stream, channel) {
            channel.credit -= allowed;
        }
        Ok(allowed)
    }

    /// No more data from us on this channel.
    pub fn half_close(&mut self, stream: u32, channel: u8) -> Result<(), MuxError> {
        match self.channel(stream, channel) {
            None => Err(MuxError::NoStream(stream)),
            Some(state) if state.closed => Ok(()),
            Some(state) => {
                state.closed = true;
                self.send(FrameKind::HalfClose, stream, channel, &[])
            }
        }
    }

    /// We have consumed data: the peer may send that much again.
    pub fn grant(&mut self, stream: u32, channel: u8, bytes: usize) {
        let Some(state) = self.channel(stream, channel) else {
            return;
        };
        state.owed += bytes;
        if state.owed < GRANT_STEP {
            return;
        }
        let owed = std::mem::take(&mut state.owed);
        state.window += owed;
        let bytes = u32::try_from(owed).unwrap_or(u32::MAX);
        // Without a session there is no stream, and so nothing to grant.
        let _sent = self.send(FrameKind::Window, stream, channel, &bytes.to_le_bytes());
    }

    /// Sends a message on a stream.
    pub fn control(&mut self, stream: u32, payload: &[u8]) -> Result<(), MuxError> {
        if !self.streams.contains_key(&stream) {
            return Err(MuxError::NoStream(stream));
        }
        self.send(FrameKind::Control, stream, 0, payload)
    }

    /// Ends a stream, all said.
    pub fn close(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            let _sent = self.send(FrameKind::Close, stream, 0, &[]);
        }
    }

    /// Breaks a stream off.
    pub fn reset(&mut self, stream: u32, code: ErrorCode, message: &str) {
        if self.streams.remove(&stream).is_some() {
            self.send_reset(stream, code, message);
        }
    }

    fn send_reset(&mut self, stream: u32, code: ErrorCode, message: &str) {
        let message = message.chars().take(4096).collect();
        let payload = serde_json::to_vec(&StreamError { code, message }).unwrap_or_default();
        let _sent = self.send(FrameKind::Reset, stream, 0, &payload);
    }

    fn channel(&mut self, stream: u32, channel: u8) -> Option<&mut Channel> {
        self.streams.get_mut(&stream)?.get_mut(usize::from(channel))
    }

    fn send_json<T: serde::Serialize>(
        &mut self,
        kind: FrameKind,
        value: &T,
    ) -> Result<(), MuxError> {
        // These small messages are plain structs: they always serialise.
        let payload = serde_json::to_vec(value).unwrap_or_default();
        self.send(kind, 0, 0, &payload)
    }

    fn send(
        &mut self,
        kind: FrameKind,
        stream: u32,
        channel: u8,
        payload: &[u8],
    ) -> Result<(), MuxError> {
        let session = self.session.ok_or(MuxError::NoSession)?;
        if encode(&mut self.output, kind, (session, stream, channel), payload) {
            Ok(())
        } else {
            Err(MuxError::TooLarge(payload.len()))
        }
    }
}

#[cfg(test)]
mod tests;
