//! The channel between host and guest: frames, streams, messages.
//!
//! One byte stream that nobody vouches for (a virtio-serial port, or vsock) carries many
//! independent streams. The layers, from the wire upwards:
//!
//! - [`frame`]: checksummed frames; the decoder finds its place again after garbage or a cut.
//! - [`mux`]: sessions, streams and credit-based flow control, without I/O.
//! - [`message`]: what is said, as JSON in control frames.
//! - `client` (feature `client`): the host's side on tokio.
//! - [`config`]: what the host tells the guest before there is a channel.

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
pub mod config;
pub mod crc;
pub mod frame;
pub mod message;
pub mod mux;

/// Name of the virtio-serial port that carries the channel.
pub const AGENT_PORT: &str = "org.hearth.agent";

/// Name of the virtio-serial port that takes the guest's final [`message::GuestReport`].
pub const REPORT_PORT: &str = "org.hearth.report";

/// The vsock port that the guest listens on when the VMM offers vsock instead.
pub const VSOCK_PORT: u32 = 1024;
