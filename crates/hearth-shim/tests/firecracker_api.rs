//! The stand-in against the real one: the same requests, the same answers. The real one is
//! the one that `HEARTH_TEST_FIRECRACKER` names.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "part of tests: a failed unwrap is a failed test, and a skip is said"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const STANDIN: &str = env!("CARGO_BIN_EXE_hearth-firecracker-standin");

/// A VMM that listens, outside of any cage.
struct Vmm {
    child: Child,
    dir: tempfile::TempDir,
}

impl Vmm {
    fn start(program: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args(["--api-sock", "api.sock", "--id", "parity"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    fn connect(&self) -> UnixStream {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            match UnixStream::connect(self.dir.path().join("api.sock")) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < give_up, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        let mut stream = self.connect();
        let length = body.map_or_else(String::new, |body| {
            format!("Content-Length: {}\r\n", body.len())
        });
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{}",
            body.unwrap_or_default()
        );
        stream.write_all(text.as_bytes()).unwrap();
        answer(&mut stream)
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn answer(stream: &mut UnixStream) -> (u16, Value) {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length: usize = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length:")?
                        .trim()
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            if body.len() >= length {
                let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
                return (status, serde_json::from_str(body).unwrap_or(Value::Null));
            }
        }
        let count = stream.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "hung up on after {text:?}");
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// Requests before the start, with the answers that both give: a status and the beginning
/// of the fault, if it is one.
fn before_start(
    dir: &Path,
) -> Vec<(
    &'static str,
    &'static str,
    Option<String>,
    u16,
    &'static str,
)> {
    std::fs::write(dir.join("disk"), vec![0; 1 << 20]).unwrap();
    std::fs::write(dir.join("kernel"), "not a kernel").unwrap();
    let some = |value: Value| Some(value.to_string());
    let broken = "An error occurred when deserializing the json body of a request: ";
    let before = "The requested operation is not supported before starting the microVM.";
    let drive = json!({"drive_id": "disk0", "path_on_host": "disk", "is_root_device": false,
        "is_read_only": false, "cache_type": "Writeback",
        "rate_limiter": {"bandwidth": {"size": 1000, "refill_time": 100}, "ops": null}});
    vec![
        ("GET", "/", None, 200, ""),
        ("GET", "/version", None, 200, ""),
        ("GET", "/machine-config", None, 200, ""),
        (
            "GET",
            "/nothing",
            None,
            400,
            "Invalid request method and/or path: GET nothing.",
        ),
        (
            "PUT",
            "/nothing",
            some(json!({})),
            400,
            "Invalid request method and/or path: PUT nothing.",
        ),
        ("PUT", "/actions", None, 400, "Empty PUT request."),
        (
            "PUT",
            "/actions",
            some(json!({"action_type": "Dance"})),
            400,
            broken,
        ),
        (
            "PUT",
            "/actions",
            some(json!({"action_type": "SendCtrlAltDel"})),
            400,
            before,
        ),
        (
            "PUT",
            "/actions",
            some(json!({"action_type": "FlushMetrics"})),
            400,
            before,
        ),
        (
            "PATCH",
            "/vm",
            some(json!({"state": "Paused"})),
            400,
            before,
        ),
        (
            "PATCH",
            "/vm",
            some(json!({"state": "Asleep"})),
            400,
            broken,
        ),
        (
            "PUT",
            "/machine-config",
            some(json!({"vcpu_count": 33, "mem_size_mib": 128})),
            400,
            "Machine config error: The number of vCPUs must be greater than 0",
        ),
        (
            "PUT",
            "/machine-config",
            some(json!({"vcpu_count": 1, "mem_size_mib": 0})),
            400,
            "Machine config error: The memory size (MiB) is either 0",
        ),
        (
            "PUT",
            "/machine-config",
            some(json!({"vcpu_count": 1, "mem_size_mib": 128, "x": 1})),
            400,
            broken,
        ),
        (
            "PUT",
            "/machine-config",
            some(json!({"vcpu_count": 1})),
            400,
            broken,
        ),
        (
            "PUT",
            "/machine-config",
            some(json!({"vcpu_count": 2, "mem_size_mib": 128, "smt": false})),
            204,
            "",
        ),
        (
            "PUT",
            "/actions",
            some(json!({"action_type": "InstanceStart"})),
            400,
            "Start microvm error: Cannot start microvm without kernel configuration.",
        ),
        (
            "PUT",
            "/boot-source",
            some(json!({"kernel_image_path": "absent"})),
            400,
            "Boot source error: The kernel file cannot be opened: No such file or directory",
        ),
        (
            "PUT",
            "/boot-source",
            some(json!({"kernel_image_path": "kernel", "initrd_path": "absent"})),
            400,
            "Boot source error: The initrd file cannot be opened",
        ),
        (
            "PUT",
            "/boot-source",
            some(json!({"kernel_image_path": "kernel", "boot_args": "a=b"})),
            204,
            "",
        ),
        (
            "PUT",
            "/drives/disk0",
            some(json!({"drive_id": "other", "path_on_host": "disk", "is_root_device": false})),
            400,
            "The id from the path does not match the id from the body!",
        ),
        (
            "PUT",
            "/drives/disk-0",
            some(drive.clone()),
            400,
            "API Resource IDs can only contain alphanumeric characters and underscores.",
        ),
        (
            "PUT",
            "/drives/disk0",
            some(json!({"drive_id": "disk0", "path_on_host": "absent", "is_root_device": false})),
            400,
            "Drive config error: Unable to create the virtio block device",
        ),
        ("PUT", "/drives/disk0", some(drive), 204, ""),
        (
            "PUT",
            "/vsock",
            some(json!({"guest_cid": 3, "uds_path": "v.sock"})),
            204,
            "",
        ),
        (
            "PUT",
            "/vsock",
            some(json!({"guest_cid": "3", "uds_path": "v.sock"})),
            400,
            broken,
        ),
        (
            "PUT",
            "/balloon",
            some(json!({"amount_mib": 0, "deflate_on_oom": true})),
            204,
            "",
        ),
        (
            "PUT",
            "/balloon",
            some(json!({"amount_mib": 0})),
            400,
            broken,
        ),
        ("PUT", "/entropy", some(json!({})), 204, ""),
        (
            "PUT",
            "/metrics",
            some(json!({"metrics_path": "metrics"})),
            204,
            "",
        ),
        (
            "PUT",
            "/metrics",
            some(json!({"metrics_path": "metrics"})),
            400,
            "Metrics error",
        ),
    ]
}

fn both(act: impl Fn(&Vmm)) {
    act(&Vmm::start(STANDIN));
    match std::env::var("HEARTH_TEST_FIRECRACKER") {
        Ok(real) => act(&Vmm::start(&real)),
        Err(_) => println!("SKIP: HEARTH_TEST_FIRECRACKER names no Firecracker to compare with"),
    }
}

#[test]
fn what_is_asked_before_the_start() {
    both(|vmm| {
        for (method, path, body, status, fault) in before_start(vmm.dir.path()) {
            let (answered, said) = vmm.ask(method, path, body.as_deref());
            let what = format!("{method} {path} {body:?}: {answered} {said}");
            assert_eq!(answered, status, "{what}");
            if status >= 300 {
                let message = said["fault_message"].as_str().unwrap();
                assert!(message.starts_with(fault), "{what}");
            }
        }
        let (_, state) = vmm.ask("GET", "/", None);
        assert_eq!(state["state"], "Not started");
        assert_eq!(state["id"], "parity");
        assert_eq!(state["app_name"], "Firecracker");
        let (_, machine) = vmm.ask("GET", "/machine-config", None);
        assert_eq!(machine["vcpu_count"], 2);
    });
}

#[test]
fn ten_connections_are_taken_and_an_eleventh_is_told() {
    both(|vmm| {
        let _open: Vec<_> = (0..10)
            .map(|_| {
                let mut stream = vmm.connect();
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
                assert_eq!(answer(&mut stream).0, 200);
                stream
            })
            .collect();
        let mut eleventh = vmm.connect();
        drop(eleventh.write_all(b"GET / HTTP/1.1\r\n\r\n"));
        assert_eq!(answer(&mut eleventh).0, 503);
    });
}
