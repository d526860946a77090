//! A real S3 server on loopback: SeaweedFS, as scripts/seaweedfs.sh installs it. It checks
//! signatures, ranges and conditions.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const KEY: &str = "HEARTHTESTKEY";
pub(crate) const SECRET: &str = "hush-hush-secret";
pub(crate) const BUCKET: &str = "images";
/// An object that is always there.
const READY: &str = "ready";
/// The version that scripts/seaweedfs.sh installs.
const VERSION: &str = "4.48";

/// The server; it ends with the test.
pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) port: u16,
    ports: Vec<u16>,
    dir: tempfile::TempDir,
}

/// Where the program is, if it is installed.
fn program() -> Option<PathBuf> {
    let cache = std::env::var("HEARTH_TEST_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|_| {
        std::env::var("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|_| std::env::var("HOME").map(|home| Path::new(&home).join(".cache")))
            .map(|cache| cache.join("hearth-test"))
    });
    let installed = cache.ok()?.join(format!("seaweedfs-{VERSION}/bin/weed"));
    installed.exists().then_some(installed)
}

impl Server {
    /// One with an empty bucket, or none with the reason said.
    pub(crate) fn start() -> Option<Self> {
        if program().is_none() {
            println!("SKIP: SeaweedFS is not installed (scripts/seaweedfs.sh)");
            return None;
        }
        let mut server = Self {
            child: None,
            port: 0,
            ports: free_ports(),
            dir: tempfile::tempdir().unwrap(),
        };
        server.port = server.ports[0];
        let identities = format!(
            r#"{{"identities":[{{"name":"tester","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List"]}}]}}"#
        );
        std::fs::write(server.dir.path().join("s3.json"), identities).unwrap();
        std::fs::create_dir(server.dir.path().join("data")).unwrap();
        server.run();
        server.request(&["-X", "PUT"], BUCKET);
        server.put(READY, b"x");
        Some(server)
    }

    /// Starts the program and waits until it answers.
    fn run(&mut self) {
        let (dir, p) = (self.dir.path(), &self.ports);
        let child = Command::new(program().unwrap())
            .arg("server")
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=20"])
            .arg(format!("-dir={}", dir.join("data").display()))
            .arg(format!("-s3.config={}", dir.join("s3.json").display()))
            .arg(format!("-s3.port={}", p[0]))
            .arg(format!("-filer.port={}", p[1]))
            .arg(format!("-master.port={}", p[2]))
            .arg(format!("-volume.port={}", p[3]))
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log")).unwrap())
            // The whole group ends with the test.
            .process_group(0)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(90);
        while self.status("nothing") != "404" {
            let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(
                Instant::now() < end,
                "the S3 server does not answer: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts it again with what it had, and waits until that can be read.
    pub(crate) fn again(&mut self) {
        self.run();
        let url = format!("{}/{BUCKET}/{READY}", self.endpoint());
        let end = Instant::now() + Duration::from_secs(90);
        while Self::curl(&[], &url) != "200" {
            assert!(
                Instant::now() < end,
                "the S3 server does not find its objects"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Puts an object.
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        let file = self.dir.path().join("upload");
        std::fs::write(&file, bytes).unwrap();
        let file = file.to_str().unwrap().to_owned();
        self.request(&["-T", &file], &format!("{BUCKET}/{key}"));
    }

    fn curl(more: &[&str], url: &str) -> String {
        let output = Command::new("curl")
            .args(["-s", "-S", "-o", "/dev/null", "-w", "%{http_code}"])
            .args(["--aws-sigv4", "aws:amz:us-east-1:s3"])
            .args(["--user", &format!("{KEY}:{SECRET}")])
            .args(more)
            .arg(url)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn request(&self, more: &[&str], path: &str) {
        let status = Self::curl(more, &format!("{}/{path}", self.endpoint()));
        assert_eq!(status, "200", "{more:?} {path}");
    }

    fn status(&self, key: &str) -> String {
        Self::curl(&["-I"], &format!("{}/{BUCKET}/{key}", self.endpoint()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        // It makes these whatever it is told, and leaves them.
        for port in &self.ports {
            for part in ["s3", "filer", "master", "volume"] {
                for name in [
                    format!("{part}-{port}"),
                    format!("{part}-grpc-{}", port + 10_000),
                ] {
                    drop(std::fs::remove_file(format!("/tmp/seaweedfs-{name}.sock")));
                }
            }
        }
    }
}

/// Four ports that are free, all at the same time, each with its companion: the program also
/// listens on the port that is higher by ten thousand.
fn free_ports() -> Vec<u16> {
    let mut held = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < 4 {
        let upper = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = upper.local_addr().unwrap().port() - 10_000;
        if let Ok(lower) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((lower, upper));
            ports.push(port);
        }
    }
    ports
}
