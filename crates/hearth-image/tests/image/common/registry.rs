//! A real registry on loopback, images made with real tools, and a proxy that spoils things.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whether the tools are here; says so when not.
pub(crate) fn need_tools() -> bool {
    for tool in ["docker-registry", "skopeo", "umoci"] {
        if !Path::new("/usr/bin").join(tool).exists() {
            println!("SKIP: {tool} is not installed");
            return false;
        }
    }
    true
}

/// Runs a tool that must succeed.
pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// The registry; it ends with the test.
pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self {
            child,
            port,
            _dir: dir,
        }
    }

    /// Pushes an image of an OCI layout and returns its reference.
    pub(crate) fn push(&self, layout: &Path, tag: &str, name: &str) -> String {
        let reference = format!("127.0.0.1:{}/{name}", self.port);
        run(
            "skopeo",
            &[
                "copy",
                "-q",
                "--all",
                "--dest-tls-verify=false",
                &format!("oci:{}:{tag}", layout.display()),
                &format!("docker://{reference}"),
            ],
        );
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

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
}

impl Proxy {
    pub(crate) fn start(upstream: u16, spoil: Spoil) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU64::new(0));
        let bytes = Arc::new(AtomicU64::new(0));
        let (counted, passed) = (Arc::clone(&connections), Arc::clone(&bytes));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                let passed = Arc::clone(&passed);
                std::thread::spawn(move || pass(&client, upstream, spoil, &passed));
            }
        });
        Self {
            port,
            connections,
            bytes,
        }
    }
}

fn pass(client: &TcpStream, upstream: u16, spoil: Spoil, passed: &AtomicU64) {
    let server = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
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

/// An OCI layout whose image has these layers, lowest first.
pub(crate) fn layout(dir: &Path, tag: &str, layers: &[Vec<u8>]) {
    let path = dir.to_str().unwrap();
    let image = format!("{path}:{tag}");
    if !dir.exists() {
        run("umoci", &["init", "--layout", path]);
    }
    run("umoci", &["new", "--image", &image]);
    for (at, layer) in layers.iter().enumerate() {
        let file = dir.with_extension(format!("{tag}{at}.tar"));
        std::fs::write(&file, layer).unwrap();
        run(
            "umoci",
            &[
                "raw",
                "add-layer",
                "--image",
                &image,
                file.to_str().unwrap(),
            ],
        );
    }
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.cmd",
            "serve",
            "--config.env",
            "A=b",
            "--config.user",
            "7:8",
            "--config.workingdir",
            "/srv",
            "--config.exposedports",
            "80/tcp",
        ],
    );
}
