//! The real program, with a service manager made of a datagram socket and a shell that passes
//! descriptors as systemd does. No VM is made, so nothing on the host changes.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::Utf8PathBuf;
use hearth_client::{Client, Endpoint};
use rustix::process::{Pid, Signal};

/// How long anything may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client that came early had asked.
const REQUEST: &str = "GET /v1/version HTTP/1.1\r\nHost: hearth\r\nConnection: close\r\n\r\n";

/// A folder for one daemon, and the socket that a service manager would listen on.
struct Place {
    dir: tempfile::TempDir,
    manager: UnixDatagram,
}

/// A daemon that ends with this value.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The engine wants to be root, whatever it does.
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIP: needs root: hearthd runs as root only");
    }
    root
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        std::fs::write(dir.path().join("config"), "").unwrap();
        std::fs::write(dir.path().join("companion"), "not run in these tests").unwrap();
        Self { dir, manager }
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8PathBuf::try_from(self.dir.path().join(name)).unwrap()
    }

    fn socket(&self) -> Utf8PathBuf {
        self.path("run/api.sock")
    }

    /// A socket as a service manager makes it, before there is a daemon.
    fn listen(&self) -> UnixListener {
        std::fs::create_dir_all(self.path("run")).unwrap();
        UnixListener::bind(self.socket()).unwrap()
    }

    /// Starts the daemon. `before` is shell that runs in the same process right before it;
    /// `passed` is its descriptor 3.
    fn start(&self, before: &str, passed: Option<OwnedFd>) -> Daemon {
        let script = format!("exec 3<&0 </dev/null; {before} exec \"$0\" \"$@\"");
        let daemon = self.command("");
        let child = Command::new("sh")
            .args(["-c", &script])
            .arg(daemon.get_program())
            .args(daemon.get_args())
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stdin(passed.map_or_else(Stdio::null, Stdio::from))
            .stderr(std::fs::File::create(self.path("log")).unwrap())
            .spawn()
            .unwrap();
        Daemon(child)
    }

    /// The program with this place's configuration; the daemon itself without a subcommand.
    fn command(&self, subcommand: &str) -> Command {
        // Kernel objects of the host have names of this test's own, should any be looked at.
        let name = format!("hs{}", std::process::id());
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearthd"));
        command
            .args(Some(subcommand).filter(|word| !word.is_empty()))
            .args(["--config", self.path("config").as_str()])
            .args(["--bridge", &name, "--nft-table", &name])
            .args(["--data-dir", self.path("data").as_str()])
            .args(["--run-dir", self.path("run").as_str()])
            .args(["--socket", self.socket().as_str()])
            .args(["--guest-path", self.path("companion").as_str()])
            .args(["--shim-path", self.path("companion").as_str()]);
        command
    }

    /// The next message for the service manager that has this line.
    fn heard(&self, wanted: &str) {
        let mut before = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = self.manager.recv(&mut buffer).unwrap_or_else(|error| {
                let log = std::fs::read_to_string(self.path("log")).unwrap();
                panic!("{wanted} was not heard ({error}), only {before:?}; log:\n{log}")
            });
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return;
            }
            before.push(text);
        }
    }

    async fn answers(&self) {
        let client = Client::new(Endpoint::Unix(self.socket()));
        let answer = tokio::time::timeout(PATIENCE, client.version()).await;
        assert_eq!(answer.unwrap().unwrap().version, env!("CARGO_PKG_VERSION"));
    }
}

impl Daemon {
    fn terminate(mut self) {
        let pid = Pid::from_child(&self.0);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

#[tokio::test]
async fn the_manager_hears_of_readiness_passes_and_the_end() {
    if !root() {
        return;
    }
    let place = Place::new();
    let watched = "export WATCHDOG_USEC=20000000 WATCHDOG_PID=$$;";
    let daemon = place.start(watched, None);
    place.heard("READY=1");
    // Ready is what it says.
    place.answers().await;
    place.heard("WATCHDOG=1");
    place.heard("STATUS=0 of 0 VMs run");
    daemon.terminate();
    place.heard("STOPPING=1");
    assert!(!place.socket().exists(), "its own socket stays");
}

#[tokio::test]
async fn a_watchdog_of_another_process_is_not_fed() {
    if !root() {
        return;
    }
    let place = Place::new();
    let daemon = place.start("export WATCHDOG_USEC=20000000 WATCHDOG_PID=1;", None);
    place.heard("STATUS=0 of 0 VMs run");
    daemon.terminate();
    place.manager.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = place.manager.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        assert!(!text.contains("WATCHDOG=1"), "{text}");
    }
}

#[tokio::test]
async fn a_passed_socket_is_served_and_outlives_the_daemon() {
    if !root() {
        return;
    }
    let place = Place::new();
    let listener = place.listen();
    // A client that comes before the daemon is not refused: it waits.
    let mut early = UnixStream::connect(place.socket()).unwrap();
    early.write_all(REQUEST.as_bytes()).unwrap();
    let passed = "export LISTEN_FDS=1 LISTEN_PID=$$;";
    for _ in 0..2 {
        let daemon = place.start(passed, Some(listener.try_clone().unwrap().into()));
        place.heard("READY=1");
        place.answers().await;
        daemon.terminate();
        assert!(place.socket().exists(), "the manager's socket was removed");
        drop(UnixStream::connect(place.socket()).expect("nobody listens between two daemons"));
    }
    let mut answer = String::new();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_socket_for_another_process_is_left_alone() {
    if !root() {
        return;
    }
    let place = Place::new();
    let other = place.path("other.sock");
    let listener = UnixListener::bind(&other).unwrap();
    let daemon = place.start(
        "export LISTEN_FDS=1 LISTEN_PID=1;",
        Some(listener.try_clone().unwrap().into()),
    );
    place.heard("READY=1");
    // It made its own.
    place.answers().await;
    let unserved = UnixStream::connect(&other).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener.accept().expect("the client is still in the queue");
    drop(unserved);
    daemon.terminate();
}

#[test]
fn something_else_than_a_listening_socket_is_refused() {
    if !root() {
        return;
    }
    let place = Place::new();
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut daemon = place.start("export LISTEN_FDS=1 LISTEN_PID=$$;", Some(file.into()));
    assert!(!daemon.0.wait().unwrap().success());
    let log = std::fs::read_to_string(place.path("log")).unwrap();
    assert!(log.contains("hearthd.socket may have"), "{log}");
    assert!(!place.path("data").exists(), "it began all the same");
}

/// `hearthd clean-up`: what it said, and whether it went well.
fn clean_up(place: &Place) -> (bool, String) {
    let output = place.command("clean-up").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn nothing_is_cleaned_up_behind_a_daemons_back() {
    if !root() {
        return;
    }
    let place = Place::new();
    let (well, said) = clean_up(&place);
    assert!(well && said.contains("No daemon ever ran here"), "{said}");
    let daemon = place.start("", None);
    place.heard("READY=1");
    let (well, said) = clean_up(&place);
    assert!(!well && said.contains("a daemon runs"), "{said}");
    place.answers().await;
    daemon.terminate();
    let (well, said) = clean_up(&place);
    assert!(well && said.contains("No VM runs"), "{said}");
}

/// The variables by which systemd speaks to the daemon are the daemon's alone: a child that
/// had them could end its watchdog or call it ready.
#[tokio::test]
async fn programs_that_are_run_inherit_no_environment() {
    let seen = hearth_host::command::run("env", &[], b"", PATIENCE).await;
    let seen = String::from_utf8(seen.unwrap()).unwrap();
    let names: Vec<_> = seen
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let mut names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["LC_ALL", "PATH"]);
}
