//! The people at the console: any number of clients, none of which can hold up the VM.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// Clients at once. A further one is hung up on.
const CLIENTS_MAX: usize = 32;
/// Input that waits for the VMM, in bytes. While there is any, clients are not read.
const INPUT_MAX: usize = 4096;

/// The console's socket, its clients, and input on its way to the guest.
#[derive(Debug)]
pub(crate) struct Outside {
    listener: UnixListener,
    clients: Vec<UnixStream>,
    input: Vec<u8>,
}

impl Outside {
    pub(crate) fn new(listener: UnixListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            clients: Vec::new(),
            input: Vec::new(),
        })
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn clients(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.clients.iter().map(AsFd::as_fd)
    }

    /// Whether the VMM's input should be polled for room.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Lets everyone in who waits.
    pub(crate) fn accept(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS_MAX && client.set_nonblocking(true).is_ok() {
                self.clients.push(client);
            }
        }
    }

    /// Sends output to everyone. Who does not take it loses it: the guest must not wait.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.clients.retain_mut(|client| match client.write(bytes) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
    }

    /// Reads from the clients that are marked ready, in the order of [`Self::clients`].
    pub(crate) fn receive(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        let input = &mut self.input;
        self.clients.retain_mut(|client| {
            if ready.next() != Some(&true) || input.len() >= INPUT_MAX {
                return true;
            }
            let mut buffer = [0; 1024];
            match client.read(&mut buffer) {
                Ok(0) => false,
                Ok(count) => {
                    input.extend_from_slice(&buffer[..count]);
                    true
                }
                Err(error) => matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ),
            }
        });
    }

    /// Passes waiting input on to the VMM, as much as it takes.
    pub(crate) fn flush(&mut self, vmm: Option<&std::process::ChildStdin>) {
        let Some(mut vmm) = vmm else {
            self.input.clear();
            return;
        };
        while !self.input.is_empty() {
            match vmm.write(&self.input) {
                Ok(count) if count > 0 => drop(self.input.drain(..count)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                _ => self.input.clear(),
            }
        }
    }
}
