//! A host of its own: a process that holds a network namespace, tied to ours by a veth.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::run;

/// The longest that anything in these tests may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Peer {
    holder: Child,
}

impl Peer {
    /// A namespace whose `eth0` is `near` on our side.
    pub(crate) fn new(near: &str, mac: &str, ip: Ipv4Addr, gateway: Option<Ipv4Addr>) -> Self {
        let mut holder = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo ready; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 5];
        holder
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        let peer = Self { holder };
        let pid = peer.holder.id();
        run(&format!(
            "ip link add {near} type veth peer name eth0 address {mac} netns {pid}"
        ));
        run(&format!("ip link set {near} up"));
        peer.ip("link set eth0 up");
        peer.ip(&format!("addr add {ip}/24 dev eth0"));
        if let Some(gateway) = gateway {
            peer.ip(&format!("route add default via {gateway}"));
        }
        peer
    }

    /// `ip` in the namespace.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.run(&format!("ip {words}"))
    }

    /// A program in the namespace.
    pub(crate) fn run(&self, words: &str) -> String {
        run(&format!("nsenter -t {} -n {words}", self.holder.id()))
    }

    /// Runs something in the namespace. Sockets made there stay there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.holder.id());
        std::thread::scope(|scope| {
            let inner = scope.spawn(move || {
                let namespace = File::open(path).unwrap();
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                work()
            });
            inner.join().unwrap()
        })
    }

    pub(crate) fn udp(&self, at: impl Into<SocketAddr>) -> UdpSocket {
        let at = at.into();
        self.inside(|| udp(at))
    }

    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        self.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
    }

    pub(crate) fn connect(&self, to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
        let to = to.into();
        self.inside(|| connect(to))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// A socket in the namespace of the caller.
pub(crate) fn udp(at: impl Into<SocketAddr>) -> UdpSocket {
    let socket = UdpSocket::bind(at.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A connection from the namespace of the caller.
pub(crate) fn connect(to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&to.into(), PATIENCE)
}

/// The next datagram as text.
pub(crate) fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram in time");
    (
        String::from_utf8_lossy(&buffer[..length]).into_owned(),
        from,
    )
}
