//! A proxy that spoils what comes through it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the proxy does to the answers.
#[derive(Clone, Copy)]
pub(crate) enum Spoil {
    /// Hang up after so many bytes of each connection.
    CutAfter(usize),
    /// Turn a bit of the byte at this place of each connection.
    FlipAt(usize),
    /// Hand on nothing after this many bytes, without hanging up.
    StallAfter(usize),
}

/// A proxy in front of a registry.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Connections so far.
    pub(crate) connections: Arc<AtomicU64>,
    /// Bytes handed to clients so far.
    pub(crate) bytes: Arc<AtomicU64>,
    spoil: Arc<Mutex<Spoil>>,
}

impl Proxy {
    pub(crate) fn start(upstream: u16, spoil: Spoil) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU64::new(0));
        let bytes = Arc::new(AtomicU64::new(0));
        let (counted, passed) = (Arc::clone(&connections), Arc::clone(&bytes));
        let spoil = Arc::new(Mutex::new(spoil));
        let now = Arc::clone(&spoil);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                let passed = Arc::clone(&passed);
                let spoil = *now.lock().unwrap();
                std::thread::spawn(move || pass(&client, upstream, spoil, &passed));
            }
        });
        Self {
            port,
            connections,
            bytes,
            spoil,
        }
    }

    /// What it does to connections from now on.
    pub(crate) fn spoil(&self, spoil: Spoil) {
        *self.spoil.lock().unwrap() = spoil;
    }
}

fn pass(client: &TcpStream, upstream: u16, spoil: Spoil, passed: &AtomicU64) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else {
        return;
    };
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        drop(std::io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Write));
    });
    let (mut server, mut client) = (server, client);
    let mut buffer = [0; 16 << 10];
    let mut done = 0;
    while let Ok(n) = server.read(&mut buffer) {
        if n == 0 {
            break;
        }
        let mut piece = &mut buffer[..n];
        match spoil {
            Spoil::CutAfter(limit) if done + n > limit => piece = &mut piece[..limit - done],
            Spoil::FlipAt(at) if (done..done + n).contains(&at) => piece[at - done] ^= 1,
            Spoil::StallAfter(limit) if done + n > limit => {
                // Until the client goes away.
                drop(client.read(&mut [0]));
                std::thread::park_timeout(Duration::from_secs(60));
                return;
            }
            _ => {}
        }
        if client.write_all(piece).is_err() {
            break;
        }
        passed.fetch_add(piece.len() as u64, Ordering::SeqCst);
        done += piece.len();
        if matches!(spoil, Spoil::CutAfter(limit) if done >= limit) {
            break;
        }
    }
    drop(client.shutdown(Shutdown::Both));
    drop(server.shutdown(Shutdown::Both));
}
