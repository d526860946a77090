//! What each frame of the peer means.

use bytes::Buf;

use super::{CHANNELS, Channel, MAX_STREAMS, Mux, MuxEvent, Role, WINDOW};
use crate::frame::{Accept, Frame, FrameKind};
use crate::message::{ErrorCode, StreamError};

impl Mux {
    pub(super) fn handle(&mut self, frame: Frame) {
        let length = frame.payload.len();
        let event = match (self.role, frame.kind) {
            (Role::Guest, FrameKind::Hello) => self.on_hello(&frame),
            (Role::Guest, FrameKind::Open) => self.on_open(frame),
            (Role::Guest, FrameKind::Ping) => Some(MuxEvent::Ping(frame.payload)),
            (Role::Host, FrameKind::HelloAck) => serde_json::from_slice(&frame.payload)
                .ok()
                .map(MuxEvent::Established),
            (Role::Host, FrameKind::Pong) => Some(MuxEvent::Pong(frame.payload)),
            (Role::Host, FrameKind::Event) => Some(MuxEvent::Event(frame.payload)),
            _ => self.on_stream_frame(frame),
        };
        if event.is_none() && self.role == Role::Host {
            self.unasked.push(length);
        }
        self.events.extend(event);
    }

    fn on_hello(&mut self, frame: &Frame) -> Option<MuxEvent> {
        let hello = serde_json::from_slice(&frame.payload).ok()?;
        let fresh = self.session != Some(frame.session);
        if fresh {
            self.output.clear();
            self.streams.clear();
            self.session = Some(frame.session);
            self.decoder
                .set_accept(Accept::SessionOrHello(frame.session));
        }
        Some(MuxEvent::Hello { hello, fresh })
    }

    fn on_open(&mut self, frame: Frame) -> Option<MuxEvent> {
        let stream = frame.stream;
        if self.streams.contains_key(&stream) {
            return Some(self.violation(stream, "the stream is open already"));
        }
        if self.streams.len() >= MAX_STREAMS {
            self.send_reset(
                stream,
                ErrorCode::Busy,
                "too many streams are open in the guest",
            );
            return None;
        }
        self.streams.insert(stream, [Channel::NEW; CHANNELS]);
        Some(MuxEvent::Opened {
            stream,
            request: frame.payload,
        })
    }

    /// Frames of streams that are over are dropped: they were under way.
    fn on_stream_frame(&mut self, frame: Frame) -> Option<MuxEvent> {
        let Frame {
            kind,
            channel,
            stream,
            payload,
            ..
        } = frame;
        let state = self.streams.get_mut(&stream)?;
        let Some(state) = state.get_mut(usize::from(channel)) else {
            return Some(self.violation(stream, "no such channel"));
        };
        match kind {
            FrameKind::Data if payload.is_empty() => None,
            FrameKind::Data => match state.window.checked_sub(payload.len()) {
                Some(left) => {
                    state.window = left;
                    Some(MuxEvent::Data {
                        stream,
                        channel,
                        data: payload,
                    })
                }
                None => Some(self.violation(stream, "more data than the window allows")),
            },
            FrameKind::Window => {
                let bytes = usize::try_from((&mut &payload[..]).try_get_u32_le().ok()?).ok()?;
                // More than a whole window at once is nothing an honest peer sends.
                if bytes > WINDOW || state.credit + bytes > WINDOW {
                    return Some(self.violation(stream, "more credit than a window"));
                }
                state.credit += bytes;
                Some(MuxEvent::Credit {
                    stream,
                    channel,
                    bytes,
                })
            }
            FrameKind::HalfClose => Some(MuxEvent::HalfClosed { stream, channel }),
            FrameKind::Control => Some(MuxEvent::Control { stream, payload }),
            FrameKind::Close => {
                self.streams.remove(&stream);
                Some(MuxEvent::Closed { stream })
            }
            FrameKind::Reset => {
                self.streams.remove(&stream);
                let error = serde_json::from_slice(&payload).unwrap_or_else(|_| StreamError {
                    code: ErrorCode::Protocol,
                    message: "the peer broke the stream off without a reason".to_owned(),
                });
                Some(MuxEvent::Reset { stream, error })
            }
            _ => None,
        }
    }

    fn violation(&mut self, stream: u32, what: &str) -> MuxEvent {
        self.reset(stream, ErrorCode::Protocol, what);
        let message = format!("the peer broke the channel's rules: {what}");
        MuxEvent::Reset {
            stream,
            error: StreamError {
                code: ErrorCode::Protocol,
                message,
            },
        }
    }
}
