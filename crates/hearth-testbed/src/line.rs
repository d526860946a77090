//! A TCP connection to a guest that echoes: it notices a loss, a gap and a wrong answer.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::hearth::VM_UP;
use crate::host::Host;

/// How long an echo may take.
const ECHO: Duration = Duration::from_mins(2);

impl Host {
    /// A connection through the host's published port of this index, as soon as the guest
    /// echoes: that its agent answers says nothing of its program.
    ///
    /// # Errors
    /// When it does not.
    pub fn line(&self, index: usize) -> anyhow::Result<Line> {
        let address = self.published(index)?;
        self.wait("an echo of the guest", VM_UP, || {
            let mut line = Line::open(address)?;
            line.echo()?;
            Ok(Some(line))
        })
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Line {
    stream: BufReader<TcpStream>,
    sent: u64,
}

impl Line {
    /// Connects. That alone proves nothing: the network in between accepts by itself.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ECHO)
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(ECHO))?;
        Ok(Self {
            stream: BufReader::new(stream),
            sent: 0,
        })
    }

    /// Sends the next numbered line and waits for it to come back.
    ///
    /// # Errors
    /// When the connection is lost or something else comes.
    pub fn echo(&mut self) -> anyhow::Result<()> {
        self.send()?;
        self.receive()
    }

    /// Sends the next numbered line.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&mut self) -> anyhow::Result<()> {
        self.sent += 1;
        let line = format!("line {}\n", self.sent);
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        sent.context("the connection is lost")
    }

    /// Waits for the line that was sent last.
    ///
    /// # Errors
    /// When the connection is lost or something else comes.
    pub fn receive(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line);
        if length.context("the connection is silent or lost")? == 0 {
            bail!("the connection was closed");
        }
        if line != format!("line {}\n", self.sent) {
            bail!("line {} came back as {line:?}", self.sent);
        }
        Ok(())
    }
}
