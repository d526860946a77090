//! Frames on the wire, and a decoder that finds its place again.
//!
//! ```text
//!  0       4        5     6        7    8        16      20     24            28           32
//!  ┌───────┬────────┬─────┬────────┬────┬────────┬───────┬──────┬─────────────┬────────────┬─────────┐
//!  │ magic │version │kind │channel │ 0  │session │stream │ len  │ payload CRC │ header CRC │ payload │
//!  └───────┴────────┴─────┴────────┴────┴────────┴───────┴──────┴─────────────┴────────────┴─────────┘
//! ```
//! Integers are little-endian. A frame counts only when both checksums hold; else the decoder
//! drops one byte and looks for the next magic. It can be held up by at most one payload's
//! length, when a valid header's payload was cut: [`flush_padding`] ends that wait.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::crc::crc32;

/// How a frame begins: not text, not UTF-8, not likely in an executable.
pub const MAGIC: [u8; 4] = [0xF5, b'H', 0xA1, 0x9C];
/// The format's version; other versions are not frames to us.
pub const VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 32;
/// Longest payload: bounds a decoder's memory and its wait after a cut.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// How many bytes may be looked through in vain, beyond those of good frames, before a peer is
/// nobody to talk to. What an honest one has left on the wire after a cut is far less.
pub const WASTE_MAX: u64 = 4 << 20;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Host: begins a session, ends every older one.
    Hello = 1,
    /// Guest: the session holds.
    HelloAck = 2,
    /// Host: begins a stream with a request.
    Open = 3,
    /// Bytes of a stream's channel; they use up credit.
    Data = 4,
    /// Credit for the peer: how many more bytes it may send.
    Window = 5,
    /// No more data on this channel of the stream from the sender.
    HalfClose = 6,
    /// A message on a stream.
    Control = 7,
    /// The stream ends here, with an error.
    Reset = 8,
    /// The stream ends here, all said.
    Close = 9,
    /// Host: are you there?
    Ping = 10,
    /// Guest: I am.
    Pong = 11,
    /// Guest: something happened, without a stream.
    Event = 12,
}

impl FrameKind {
    const ALL: [Self; 12] = [
        Self::Hello,
        Self::HelloAck,
        Self::Open,
        Self::Data,
        Self::Window,
        Self::HalfClose,
        Self::Control,
        Self::Reset,
        Self::Close,
        Self::Ping,
        Self::Pong,
        Self::Event,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: FrameKind,
    /// Which of a stream's channels, for data, window and half-close.
    pub channel: u8,
    /// The session it belongs to.
    pub session: u64,
    /// The stream it belongs to; 0 outside of streams.
    pub stream: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

/// Appends a frame to `out`. A payload beyond [`MAX_PAYLOAD`] is refused: `false`.
#[must_use]
pub fn encode(
    out: &mut BytesMut,
    kind: FrameKind,
    (session, stream, channel): (u64, u32, u8),
    payload: &[u8],
) -> bool {
    let Ok(len) = u32::try_from(payload.len()) else {
        return false;
    };
    if payload.len() > MAX_PAYLOAD {
        return false;
    }
    let start = out.len();
    out.reserve(HEADER_LEN + payload.len());
    out.put_slice(&MAGIC);
    out.put_slice(&[VERSION, kind as u8, channel, 0]);
    out.put_u64_le(session);
    out.put_u32_le(stream);
    out.put_u32_le(len);
    out.put_u32_le(crc32(payload));
    let header_crc = crc32(&out[start..]);
    out.put_u32_le(header_crc);
    out.put_slice(payload);
    true
}

/// Bytes that complete any half frame a decoder may be waiting for, and are none themselves.
#[must_use]
pub fn flush_padding() -> Vec<u8> {
    vec![0; MAX_PAYLOAD + HEADER_LEN]
}

/// Which sessions' frames a decoder believes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// Only a new session's Hello: a guest without a session.
    Hello,
    /// This session, and a new session's Hello: a guest with one.
    SessionOrHello(u64),
    /// This session alone: the host, who chose its number.
    Session(u64),
}

impl Accept {
    fn admits(self, session: u64, kind: FrameKind) -> bool {
        match self {
            Self::Hello => kind == FrameKind::Hello,
            Self::SessionOrHello(ours) => session == ours || kind == FrameKind::Hello,
            Self::Session(ours) => session == ours,
        }
    }
}

struct Header {
    kind: FrameKind,
    channel: u8,
    session: u64,
    stream: u32,
    len: usize,
    payload_crc: u32,
}

/// Turns bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    accept: Accept,
    skipped: u64,
    waste: u64,
}

impl Decoder {
    /// A decoder that believes in `accept`'s frames; all else is garbage to it.
    #[must_use]
    pub fn new(accept: Accept) -> Self {
        Self {
            buffer: BytesMut::new(),
            accept,
            skipped: 0,
            waste: 0,
        }
    }

    /// Changes whose frames count from here on.
    pub fn set_accept(&mut self, accept: Accept) {
        self.accept = accept;
    }

    /// Takes bytes in. Memory is bounded when [`Decoder::next_frame`] is called until it
    /// says `None` after each: one frame at most then remains.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets half a frame, when the connection below is known to have been cut.
    pub fn clear(&mut self) {
        self.buffer = BytesMut::new();
    }

    /// How many bytes were no frame of ours.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The peer sends so much garbage that reading it is a waste. A payload with a wrong checksum
    /// counts in full each time that it is summed up, for frames may lie within one another. Only the
    /// host gives a peer up: a guest has nobody else to talk to.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.waste > WASTE_MAX && matches!(self.accept, Accept::Session(_))
    }

    /// How many bytes wait for the rest of their frame.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            self.skip_to_magic();
            if self.buffer.is_empty() {
                // A connection that rests holds nothing.
                self.buffer = BytesMut::new();
            }
            if self.buffer.len() < HEADER_LEN {
                return None;
            }
            let Some(header) = self.parse_header() else {
                self.skip(1);
                continue;
            };
            let whole = HEADER_LEN + header.len;
            if self.buffer.len() < whole {
                return None;
            }
            if crc32(&self.buffer[HEADER_LEN..whole]) != header.payload_crc {
                self.waste = self.waste.saturating_add(whole as u64);
                if self.is_hopeless() {
                    return None;
                }
                self.skip(1);
                continue;
            }
            self.waste = self.waste.saturating_sub(whole as u64);
            let payload = self.buffer.split_to(whole).freeze().slice(HEADER_LEN..);
            return Some(Frame {
                kind: header.kind,
                channel: header.channel,
                session: header.session,
                stream: header.stream,
                payload,
            });
        }
    }

    fn skip(&mut self, count: usize) {
        self.skipped += count as u64;
        self.waste = self.waste.saturating_add(count as u64);
        self.buffer.advance(count);
    }

    /// Drops what cannot be the start of a frame. The last bytes may be half a magic.
    fn skip_to_magic(&mut self) {
        let mut from = 0;
        while from < self.buffer.len() {
            let rest = &self.buffer[from..];
            let Some(at) = rest.iter().position(|byte| *byte == MAGIC[0]) else {
                from = self.buffer.len();
                break;
            };
            from += at;
            let rest = &self.buffer[from..];
            let known = rest.len().min(MAGIC.len());
            if rest[..known] == MAGIC[..known] {
                break;
            }
            from += 1;
        }
        if from > 0 {
            self.skip(from);
        }
    }

    fn parse_header(&self) -> Option<Header> {
        let mut bytes = self.buffer.get(MAGIC.len()..HEADER_LEN)?;
        let checked = self.buffer.get(..HEADER_LEN - 4)?;
        let version = bytes.get_u8();
        let kind = bytes.get_u8();
        let channel = bytes.get_u8();
        let _reserved = bytes.get_u8();
        let session = bytes.get_u64_le();
        let stream = bytes.get_u32_le();
        let len = usize::try_from(bytes.get_u32_le()).ok()?;
        let payload_crc = bytes.get_u32_le();
        let header_crc = bytes.get_u32_le();
        let kind = FrameKind::from_byte(kind)?;
        let sound = version == VERSION
            && len <= MAX_PAYLOAD
            && crc32(checked) == header_crc
            && self.accept.admits(session, kind);
        sound.then_some(Header {
            kind,
            channel,
            session,
            stream,
            len,
            payload_crc,
        })
    }
}

#[cfg(test)]
mod tests;
