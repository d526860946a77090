//! What the host asked for and what became of it: the streams, their programs, the timers.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_guest_proto::config::GuestConfig;
use hearth_guest_proto::message::{
    CHANNEL_MAIN, CHANNEL_STDERR, HelloAck, PROTOCOL, Ping, Pong, ShutdownKind, StreamControl,
    StreamReply,
};
use hearth_guest_proto::mux::{Mux, MuxEvent};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::Token;
use super::exec::{Exec, Kind};
use super::freeze::Freezer;

/// How long a program that was hung up on may take.
const HANGUP_PATIENCE: Duration = Duration::from_secs(5);
const CHANNELS: [u8; 2] = [CHANNEL_MAIN, CHANNEL_STDERR];

pub(super) struct Session {
    pub(super) mux: Mux,
    pub(super) config: GuestConfig,
    /// The way to PID 1, where there is one that listens.
    pub(super) supervisor: Option<UnixStream>,
    /// It may stop the machine, freeze its disks, set its clock.
    pub(super) privileged: bool,
    pub(super) execs: Vec<Exec>,
    pub(super) freezer: Freezer,
    /// A shutdown that was agreed to and has yet to begin, with its timeout in milliseconds.
    pub(super) going_down: Option<(u64, ShutdownKind)>,
    /// When the machine is powered off without its init's help.
    pub(super) force_off_at: Option<(Instant, ShutdownKind)>,
    buffer: Vec<u8>,
}

impl Session {
    pub(super) fn new(
        config: GuestConfig,
        supervisor: Option<UnixStream>,
        privileged: bool,
    ) -> Self {
        Self {
            mux: Mux::guest(),
            config,
            supervisor,
            privileged,
            execs: Vec::new(),
            freezer: Freezer::default(),
            going_down: None,
            force_off_at: None,
            buffer: vec![0; 64 * 1024],
        }
    }

    /// What to poll for the programs. The indices hold until [`Session::settle`].
    pub(super) fn interest<'a>(&'a self, tokens: &mut Vec<Token>, polled: &mut Vec<PollFd<'a>>) {
        for (index, exec) in self.execs.iter().enumerate() {
            if exec.exited.is_none() {
                tokens.push(Token::Exit(index));
                polled.push(PollFd::from_borrowed_fd(exec.pidfd.as_fd(), PollFlags::IN));
            }
            if let Some(stdin) = exec.stdin.as_ref().filter(|_| !exec.input.is_empty()) {
                tokens.push(Token::Stdin(index));
                polled.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::OUT));
            }
            for (channel, output) in exec.outputs.iter().enumerate() {
                if let Some(output) = output.as_ref().filter(|_| self.room(exec, channel) > 0) {
                    tokens.push(Token::Output(index, channel));
                    polled.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
                }
            }
        }
    }

    /// How much of a program's output may be read now.
    fn room(&self, exec: &Exec, channel: usize) -> usize {
        match exec.stream {
            // Nobody listens: it is read to be thrown away.
            None => self.buffer.len(),
            Some(_) if self.mux.congested() => 0,
            Some(stream) => self
                .mux
                .credit(stream, CHANNELS[channel])
                .min(self.buffer.len()),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let kills = self.execs.iter().filter_map(|exec| exec.kill_at).min();
        let off = self.force_off_at.map(|(at, _)| at);
        [kills, self.freezer.deadline(), off]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn reap(&mut self, index: usize) {
        if let Some(exec) = self.execs.get_mut(index) {
            exec.reap();
        }
    }

    pub(super) fn feed(&mut self, index: usize) {
        if let Some(exec) = self.execs.get_mut(index) {
            let done = exec.feed();
            if let Some(stream) = exec.stream {
                self.mux.grant(stream, CHANNEL_MAIN, done);
            }
        }
    }

    pub(super) fn drain(&mut self, index: usize, channel: usize) {
        let Some(exec) = self.execs.get(index) else {
            return;
        };
        let room = self.room(exec, channel);
        let mut buffer = std::mem::take(&mut self.buffer);
        if room > 0
            && let Some(exec) = self.execs.get_mut(index)
            && let Some(count) = exec.read(channel, &mut buffer[..room])
            && let Some(stream) = exec.stream
        {
            // There is credit for all of it: `room` saw to that.
            let _sent = self.mux.data(stream, CHANNELS[channel], &buffer[..count]);
        }
        self.buffer = buffer;
    }

    /// Ends what has ended and does what is due.
    pub(super) fn settle(&mut self, now: Instant) {
        for index in 0..self.execs.len() {
            if self.execs[index].exited.is_some() {
                for channel in 0..CHANNELS.len() {
                    self.drain(index, channel);
                }
            }
        }
        for exec in &mut self.execs {
            if exec.kill_at.is_some_and(|at| at <= now) {
                exec.kill_at = None;
                exec.signal(Signal::KILL);
            }
            if let (Some(stream), Some(status), true) = (exec.stream, exec.exited, exec.finished())
            {
                for channel in CHANNELS {
                    let _sent = self.mux.half_close(stream, channel);
                }
                send_reply(&mut self.mux, stream, &StreamReply::Exit { status });
                self.mux.close(stream);
            }
        }
        self.execs.retain(|exec| !exec.finished());
        self.freezer.thaw_if_due(now);
        self.go_down_if_asked(now);
        self.force_off_if_due(now);
    }

    /// The connection was cut.
    pub(super) fn host_is_gone(&mut self) {
        self.mux.disconnect();
        for exec in &mut self.execs {
            abandon(exec);
        }
    }

    pub(super) fn handle_events(&mut self) {
        while let Some(event) = self.mux.next_event() {
            match event {
                MuxEvent::Hello { hello, fresh } => self.hello(hello.nonce, fresh),
                MuxEvent::Ping(payload) => self.ping(&payload),
                MuxEvent::Opened { stream, request } => self.request(stream, &request),
                MuxEvent::Data { stream, data, .. } => self.input(stream, data),
                MuxEvent::HalfClosed { stream, .. } => {
                    if let Some(exec) = self.exec_of(stream) {
                        exec.end_input();
                        exec.feed();
                    }
                }
                MuxEvent::Control { stream, payload } => self.control(stream, &payload),
                MuxEvent::Reset { stream, .. } | MuxEvent::Closed { stream } => {
                    if let Some(exec) = self.exec_of(stream) {
                        abandon(exec);
                    }
                }
                _ => {}
            }
        }
    }

    fn exec_of(&mut self, stream: u32) -> Option<&mut Exec> {
        self.execs
            .iter_mut()
            .find(|exec| exec.stream == Some(stream))
    }

    fn hello(&mut self, nonce: u64, fresh: bool) {
        if fresh {
            for exec in &mut self.execs {
                abandon(exec);
            }
        }
        let _sent = self.mux.acknowledge(&HelloAck {
            protocol: PROTOCOL,
            nonce,
            vm_id: self.config.vm_id.clone(),
            boot_nonce: self.config.boot_nonce.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        });
    }

    fn ping(&mut self, payload: &[u8]) {
        if let Ok(Ping { nonce }) = serde_json::from_slice(payload) {
            let (vm_id, boot_nonce) = (self.config.vm_id.clone(), self.config.boot_nonce.clone());
            let pong = Pong {
                nonce,
                vm_id,
                boot_nonce,
            };
            let _sent = self
                .mux
                .pong(&serde_json::to_vec(&pong).unwrap_or_default());
        }
    }

    fn input(&mut self, stream: u32, data: Bytes) {
        let done = match self.exec_of(stream) {
            Some(exec) => {
                exec.input.push_back(data);
                exec.feed()
            }
            None => data.len(),
        };
        self.mux.grant(stream, CHANNEL_MAIN, done);
    }

    fn control(&mut self, stream: u32, payload: &[u8]) {
        let Some(exec) = self.exec_of(stream) else {
            return;
        };
        match serde_json::from_slice(payload) {
            Ok(StreamControl::Resize(size)) => exec.resize(size),
            Ok(StreamControl::Signal { signal }) => {
                if let Some(signal) = crate::supervise::signal_of(signal) {
                    exec.signal(signal);
                }
            }
            Err(_) => {}
        }
    }

    /// Passes a line of PID 1's on: an event as JSON.
    pub(super) fn tell_host(&mut self, line: &str) {
        let _sent = self.mux.event(line.as_bytes());
    }

    pub(super) fn reply(&mut self, stream: u32, reply: &StreamReply) {
        send_reply(&mut self.mux, stream, reply);
    }
}

fn send_reply(mux: &mut Mux, stream: u32, reply: &StreamReply) {
    let payload = serde_json::to_vec(reply).unwrap_or_default();
    let _sent = mux.control(stream, &payload);
}

/// Nobody listens to this program any more.
fn abandon(exec: &mut Exec) {
    if exec.stream.take().is_none() {
        return;
    }
    match exec.kind {
        Kind::Plain => {}
        Kind::Copy => exec.signal(Signal::KILL),
        Kind::Interactive => {
            exec.signal(Signal::HUP);
            exec.kill_at = Some(Instant::now() + HANGUP_PATIENCE);
        }
    }
    exec.input.clear();
    if !exec.terminal {
        exec.stdin = None;
    }
}
