//! A real registry on loopback: open, with a login, behind TLS.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whether the tools are here; says so when not.
pub(crate) fn need_tools() -> bool {
    need(&["docker-registry", "skopeo", "umoci"])
}

/// Whether these programs are here; says so when not.
pub(crate) fn need(tools: &[&str]) -> bool {
    for tool in tools {
        if !Path::new("/usr/bin").join(tool).exists() {
            println!("SKIP: {tool} is not installed");
            return false;
        }
    }
    true
}

/// Runs a tool that must succeed.
pub(crate) fn run(program: &str, args: &[&str]) {
    output(program, args);
}

/// What a tool that must succeed has written.
pub(crate) fn output(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output.stdout
}

/// The registry; it ends with the test.
pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// An open one, plain HTTP.
    pub(crate) fn start() -> Self {
        Self::with("", "")
    }

    /// One with these parts of the configuration: a line under `http:`, a section of its own.
    pub(crate) fn with(http: &str, section: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\n\
             log: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: '127.0.0.1:{port}'\n{http}\n{section}\n",
            data.display()
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

    /// One with a login by name and password, as `docker login` has it.
    pub(crate) fn with_passwords(file: &Path) -> Self {
        let auth = format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}",
            file.display()
        );
        Self::with("", &auth)
    }

    /// Pushes an image of an OCI layout and returns its reference.
    pub(crate) fn push(&self, layout: &Path, tag: &str, name: &str) -> String {
        self.push_as(&[], layout, tag, name)
    }

    /// The same with more arguments for skopeo, such as credentials.
    pub(crate) fn push_as(&self, more: &[&str], layout: &Path, tag: &str, name: &str) -> String {
        let reference = format!("127.0.0.1:{}/{name}", self.port);
        let from = format!("oci:{}:{tag}", layout.display());
        let to = format!("docker://{reference}");
        let mut args = vec!["copy", "-q", "--all", "--dest-tls-verify=false"];
        args.extend(more);
        args.extend([from.as_str(), &to]);
        run("skopeo", &args);
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
