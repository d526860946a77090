//! What comes in, and why something cannot go out.

use bytes::Bytes;

use super::MAX_STREAMS;
use crate::frame::MAX_PAYLOAD;
use crate::message::{Hello, HelloAck, StreamError};

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MuxEvent {
    /// Guest: a host wants a session. All older streams are over when `fresh`; else it is the
    /// same session asking again. Answer with [`super::Mux::acknowledge`].
    Hello {
        /// What it said.
        hello: Hello,
        /// The session is a new one.
        fresh: bool,
    },
    /// Host: the guest has answered.
    Established(HelloAck),
    /// Guest: a new stream.
    Opened {
        /// Its number.
        stream: u32,
        /// The request's JSON.
        request: Bytes,
    },
    /// Bytes on a channel; the receiver owes a [`super::Mux::grant`] once it has consumed them.
    Data {
        /// The stream.
        stream: u32,
        /// Its channel.
        channel: u8,
        /// Never empty.
        data: Bytes,
    },
    /// The peer lets us send more.
    Credit {
        /// The stream.
        stream: u32,
        /// Its channel.
        channel: u8,
        /// How many bytes more.
        bytes: usize,
    },
    /// No more data comes on this channel.
    HalfClosed {
        /// The stream.
        stream: u32,
        /// Its channel.
        channel: u8,
    },
    /// A message on the stream, JSON.
    Control {
        /// The stream.
        stream: u32,
        /// The message.
        payload: Bytes,
    },
    /// The stream was broken off.
    Reset {
        /// The stream.
        stream: u32,
        /// Why.
        error: StreamError,
    },
    /// The stream is over.
    Closed {
        /// The stream.
        stream: u32,
    },
    /// Guest: answer with [`super::Mux::pong`].
    Ping(Bytes),
    /// Host: the answer to a ping.
    Pong(Bytes),
    /// Host: a message without a stream, JSON.
    Event(Bytes),
}

/// Why something cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// No session, or none any more.
    #[error("the channel has no session")]
    NoSession,
    /// The stream is over.
    #[error("stream {0} of the channel is over")]
    NoStream(u32),
    /// A message beyond the limit.
    #[error("a message of {0} bytes does not fit a frame of {MAX_PAYLOAD} bytes")]
    TooLarge(usize),
    /// No room for another stream.
    #[error("the channel carries {MAX_STREAMS} streams already; end one first")]
    TooManyStreams,
}
