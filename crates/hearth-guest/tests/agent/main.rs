//! The agent as an ordinary process, talked to through the host's client.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: a failed unwrap is a failed test"
)]

mod copies;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use hearth_guest_proto::client::{AgentClient, ClientError, ExecSession, ExpectedGuest};
use hearth_guest_proto::message::{ErrorCode, ExecRequest, ExitStatus, PathKind, TtySize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running agent; dropping it ends it.
struct Agent {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        let text = r#"{"vm_id":"vm","hostname":"guest","boot_nonce":"boot",
            "process":{"argv":["x"],"env":["FROM_IMAGE=1","BOTH=image"]}}"#;
        std::fs::write(&config, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_hearth-guest"))
            .arg("agent")
            .arg("--config")
            .arg(&config)
            .arg("--listen")
            .arg(folder.path().join("agent.sock"))
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn wire(&self) -> UnixStream {
        let connect = async {
            loop {
                match UnixStream::connect(self.path("agent.sock")).await {
                    Ok(stream) => return stream,
                    Err(_) => pause().await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, connect).await.unwrap()
    }

    async fn client(&self) -> AgentClient {
        let expected = ExpectedGuest {
            vm_id: "vm".into(),
            boot_nonce: "boot".into(),
        };
        AgentClient::connect(self.wire().await, expected, PATIENCE)
            .await
            .unwrap()
    }
}

fn sh(script: &str) -> ExecRequest {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    ExecRequest {
        argv,
        ..ExecRequest::default()
    }
}

/// Everything a program says, and its end.
async fn finish(mut session: ExecSession) -> (ExitStatus, Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (
        session.stdout.take().unwrap(),
        session.stderr.take().unwrap(),
    );
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (first, second) = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    first.unwrap();
    second.unwrap();
    (session.wait().await.unwrap(), out, err)
}

async fn run(client: &AgentClient, request: ExecRequest) -> (ExitStatus, String, String) {
    let session = client.exec(request).await.unwrap();
    let (status, out, err) = tokio::time::timeout(PATIENCE, finish(session))
        .await
        .unwrap();
    (
        status,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

fn gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

/// Between two looks at a condition.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Waits for something outside of the channel, by looking again.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let look = async {
        while !condition() {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn output_exit_codes_signals_environment_and_folder() {
    let agent = Agent::start();
    let client = agent.client().await;
    let (status, out, err) = run(&client, sh("echo out; echo err >&2; exit 7")).await;
    assert_eq!(
        (status, out.as_str(), err.as_str()),
        (ExitStatus::Code(7), "out\n", "err\n")
    );
    let (status, ..) = run(&client, sh("kill -9 $$")).await;
    assert_eq!(status.shell_code(), 137);
    let request = ExecRequest {
        env: BTreeMap::from([("BOTH".into(), "host".into())]),
        workdir: Some("/usr".into()),
        ..sh("echo $FROM_IMAGE $BOTH $HOSTNAME $(pwd); cat")
    };
    let (_, out, _) = run(&client, request).await;
    assert_eq!(out, "1 host guest /usr\n");
    let (_, out, _) = run(
        &client,
        ExecRequest {
            user: Some("12345:54321".into()),
            ..sh("id -u; id -g; id -G")
        },
    )
    .await;
    assert_eq!(out, "12345\n54321\n54321\n");
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_by_name() {
    let agent = Agent::start();
    let client = agent.client().await;
    let argv = |name: &str| ExecRequest {
        argv: vec![name.into()],
        ..ExecRequest::default()
    };
    for (request, code, word) in [
        (
            argv("no-such-program"),
            ErrorCode::NotFound,
            "no-such-program",
        ),
        (argv("/etc/passwd"), ErrorCode::NotPermitted, "/etc/passwd"),
        (ExecRequest::default(), ErrorCode::Invalid, "no program"),
        (
            ExecRequest {
                user: Some("nobody-here".into()),
                ..sh("true")
            },
            ErrorCode::NoSuchUser,
            "nobody-here",
        ),
        (
            ExecRequest {
                workdir: Some("/no/where".into()),
                ..sh("true")
            },
            ErrorCode::Invalid,
            "/no/where",
        ),
    ] {
        match client.exec(request).await.unwrap_err() {
            ClientError::Refused {
                code: found,
                message,
            } => {
                assert_eq!(found, code, "{message}");
                assert!(message.contains(word), "{message}");
            }
            other => panic!("{other}"),
        }
    }
    assert!(
        matches!(client.set_clock(1).await, Err(ClientError::Refused { .. })),
        "no power in tests"
    );
}

#[tokio::test]
async fn a_hundred_megabytes_both_ways_at_once_arrive_as_they_are() {
    const SIZE: usize = 100_000_000;
    let agent = Agent::start();
    let client = agent.client().await;
    let mut session = client
        .exec(ExecRequest {
            stdin: true,
            ..sh("tee /dev/stderr")
        })
        .await
        .unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let byte = |index: usize| u8::try_from((index ^ (index >> 9)) & 0xFF).unwrap();
    let writing = tokio::spawn(async move {
        for start in (0..SIZE).step_by(100_000) {
            let piece: Vec<u8> = (start..start + 100_000).map(byte).collect();
            stdin.write_all(&piece).await.unwrap();
        }
    });
    let (mut stdout, mut stderr) = (
        session.stdout.take().unwrap(),
        session.stderr.take().unwrap(),
    );
    let check = |name: &'static str| {
        move |index: usize, data: &[u8]| {
            for (offset, found) in data.iter().enumerate() {
                assert!(
                    *found == byte(index + offset),
                    "{name} differs at {}",
                    index + offset
                );
            }
            index + data.len()
        }
    };
    let (mut out, mut err) = (0, 0);
    let (check_out, check_err) = (check("stdout"), check("stderr"));
    let read_out = async {
        while let Some(data) = stdout.next().await.unwrap() {
            out = check_out(out, &data)
        }
    };
    let read_err = async {
        while let Some(data) = stderr.next().await.unwrap() {
            err = check_err(err, &data)
        }
    };
    tokio::join!(read_out, read_err);
    writing.await.unwrap();
    assert_eq!((out, err), (SIZE, SIZE));
    assert_eq!(session.wait().await.unwrap(), ExitStatus::Code(0));
}

#[tokio::test]
async fn a_reader_that_never_reads_holds_up_nobody_else() {
    let agent = Agent::start();
    let client = agent.client().await;
    let stalled = client.exec(sh("head -c 5000000 /dev/zero")).await.unwrap();
    let mut others = Vec::new();
    for number in 0..40 {
        let client = client.clone();
        others.push(tokio::spawn(async move {
            let (status, out, _) = run(
                &client,
                sh(&format!(
                    "head -c 300000 /dev/zero; echo {number}; exit {number}"
                )),
            )
            .await;
            assert_eq!(status, ExitStatus::Code(number));
            assert!(out.ends_with(&format!("\0{number}\n")), "mixed up");
            assert_eq!(out.len(), 300_000 + number.to_string().len() + 1);
        }));
    }
    for other in others {
        other.await.unwrap();
    }
    client.ping(1, PATIENCE).await.unwrap();
    let (status, out, _) = tokio::time::timeout(PATIENCE, finish(stalled))
        .await
        .unwrap();
    assert_eq!((status, out.len()), (ExitStatus::Code(0), 5_000_000));
}

#[tokio::test]
async fn a_terminal_has_a_size_and_an_interrupt_key() {
    let agent = Agent::start();
    let client = agent.client().await;
    let tty = Some(TtySize { rows: 33, cols: 77 });
    let script = "trap 'stty size; exit 5' WINCH; stty size; tty; while :; do read line && echo got $line; done";
    let request = ExecRequest {
        tty,
        stdin: true,
        ..sh(script)
    };
    let mut session = client.exec(request).await.unwrap();
    let mut stdout = session.stdout.take().unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let mut seen = String::new();
    async fn expect(
        stdout: &mut hearth_guest_proto::client::StreamReader,
        seen: &mut String,
        text: &str,
    ) {
        let look = async {
            while !seen.contains(text) {
                let data = stdout
                    .next()
                    .await
                    .unwrap()
                    .unwrap_or_else(|| panic!("ended: {seen:?}"));
                seen.push_str(&String::from_utf8_lossy(&data));
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, look).await;
        assert!(outcome.is_ok(), "never said {text:?}");
    }
    expect(&mut stdout, &mut seen, "33 77").await;
    expect(&mut stdout, &mut seen, "/dev/pts/").await;
    stdin.write_all(b"hello\n").await.unwrap();
    expect(&mut stdout, &mut seen, "got hello").await;
    session.resize(TtySize { rows: 44, cols: 99 }).unwrap();
    // A shell that is about to read notices the signal only when that read returns. One
    // that has noticed it is gone, and then nobody takes the line.
    drop(stdin.write_all(b"\n").await);
    expect(&mut stdout, &mut seen, "44 99").await;
    assert_eq!(session.wait().await.unwrap(), ExitStatus::Code(5));

    let mut session = client
        .exec(ExecRequest {
            tty,
            stdin: true,
            argv: vec!["cat".to_owned()],
            ..ExecRequest::default()
        })
        .await
        .unwrap();
    let mut stdout = session.stdout.take().unwrap();
    seen.clear();
    let mut stdin = session.stdin.take().unwrap();
    // Once from the terminal, once from the program: now it runs.
    stdin.write_all(b"ready\n").await.unwrap();
    expect(&mut stdout, &mut seen, "ready\r\nready").await;
    stdin.write_all(&[3]).await.unwrap();
    assert_eq!(session.wait().await.unwrap(), ExitStatus::Signal(2));
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let agent = Agent::start();
    let client = agent.client().await;
    let mut session = client
        .exec(sh("echo ready; sleep 1000; exit 1"))
        .await
        .unwrap();
    assert!(
        session
            .stdout
            .as_mut()
            .unwrap()
            .next()
            .await
            .unwrap()
            .is_some()
    );
    session.signal(15).unwrap();
    assert_eq!(session.wait().await.unwrap(), ExitStatus::Signal(15));
}

#[tokio::test]
async fn a_client_that_vanishes_takes_its_interactive_programs_along_and_can_come_back() {
    let agent = Agent::start();
    let client = agent.client().await;
    let interactive = client
        .exec(ExecRequest {
            stdin: true,
            ..sh("cat; sleep 1000")
        })
        .await
        .unwrap();
    let flood = client
        .exec(ExecRequest {
            stdin: true,
            ..sh("cat /dev/zero")
        })
        .await
        .unwrap();
    let marker = agent.path("done");
    let script = format!("head -c 3000000 /dev/zero; echo > {}", marker.display());
    let plain = client.exec(sh(&script)).await.unwrap();
    let pids = (interactive.pid(), flood.pid());
    let closed = client.clone();
    drop((client, interactive, flood, plain));
    closed.ping(3, PATIENCE).await.unwrap();
    drop(closed);

    let mut again = agent.wire().await;
    again
        .write_all(b"garbage of a host that dies in the middle of a fra")
        .await
        .unwrap();
    drop(again);
    let client = agent.client().await;
    assert_eq!(client.ping(9, PATIENCE).await.unwrap().nonce, 9);
    until("the interactive programs are gone", || {
        gone(pids.0) && gone(pids.1)
    })
    .await;
    until("the plain program ran to its end", || marker.exists()).await;
    let (_, out, _) = run(&client, sh("echo back")).await;
    assert_eq!(out, "back\n");
}

#[tokio::test]
async fn metrics_and_information_are_of_this_machine() {
    let agent = Agent::start();
    let client = agent.client().await;
    let metrics = client.metrics().await.unwrap();
    assert!(metrics.mem_total > metrics.mem_available && metrics.mem_available > 0);
    assert!(metrics.processes > 1 && metrics.disk_total > 0);
    let info = client.info().await.unwrap();
    assert_eq!(
        (info.vm_id.as_str(), info.boot_nonce.as_str()),
        ("vm", "boot")
    );
    assert_eq!(
        info.kernel,
        std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap()
            .trim()
    );
}
