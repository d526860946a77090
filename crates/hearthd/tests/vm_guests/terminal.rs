//! A command in the guest that has a terminal.

use std::time::Duration;

use hearth_client::{ExecOutput, ExecSession};
use hearth_types::api::{ExecRequest, WindowSize};

use crate::harness::{Host, PATIENCE, request, spec};

/// A terminal with somebody at it.
struct Terminal {
    session: ExecSession,
    /// All that was on the screen so far.
    screen: String,
}

impl Terminal {
    async fn type_in(&mut self, keys: &str) {
        self.session.writer.stdin(keys.as_bytes()).await.unwrap();
    }

    /// Reads until this is on the screen, and forgets what was there.
    async fn shows(&mut self, text: &str) {
        let shown = tokio::time::timeout(PATIENCE, async {
            while !self.screen.contains(text) {
                match self.session.reader.next().await.unwrap() {
                    ExecOutput::Stdout(bytes) => {
                        self.screen += &String::from_utf8_lossy(&bytes);
                    }
                    other => panic!("{other:?} instead of {text:?} after {:?}", self.screen),
                }
            }
        });
        if shown.await.is_err() {
            panic!("no {text:?} in {:?}", self.screen);
        }
        self.screen.clear();
    }

    /// Reads to the end.
    async fn exit_code(&mut self) -> i32 {
        let end = async {
            loop {
                if let ExecOutput::Exit(code) = self.session.reader.next().await.unwrap() {
                    return code;
                }
            }
        };
        tokio::time::timeout(PATIENCE, end).await.expect("an end")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_gives_a_terminal_its_size_its_interrupt_and_its_exit_code() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let vm = host.run(spec("web")).await;
    vm.healthy().await;
    let wish = ExecRequest {
        tty: Some(WindowSize {
            rows: 33,
            cols: 101,
        }),
        stdin: true,
        ..request(&["sh"])
    };
    let mut terminal = Terminal {
        session: vm.open(&wish).await,
        screen: String::new(),
    };

    // What the shell computes is not what was typed: the echo cannot pass for it.
    terminal.type_in("test -t 0 && stty size\n").await;
    terminal.shows("33 101").await;
    let larger = WindowSize {
        rows: 50,
        cols: 132,
    };
    terminal.session.writer.resize(larger).await.unwrap();
    terminal.type_in("stty size; echo si$((1))ze\n").await;
    terminal.shows("50 132").await;

    terminal.type_in("echo sl$((1))eeps; sleep 100000\n").await;
    terminal.shows("sl1eeps").await;
    // Typed again until it is heard: the shell may still be on its way to `sleep`.
    let interrupted = async {
        loop {
            terminal.type_in("\u{3}").await;
            terminal.type_in("echo co$((1))de=$?\n").await;
            let heard = terminal.shows("co1de=");
            if tokio::time::timeout(Duration::from_secs(5), heard)
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, interrupted)
        .await
        .expect("an interrupt");

    terminal.type_in("exit 7\n").await;
    assert_eq!(terminal.exit_code().await, 7);

    // One that is ended by its interrupt says so.
    let wish = ExecRequest {
        tty: Some(larger),
        stdin: true,
        ..request(&["sh", "-c", "echo rea$((1))dy; exec sleep 100000"])
    };
    terminal = Terminal {
        session: vm.open(&wish).await,
        screen: String::new(),
    };
    terminal.shows("rea1dy").await;
    terminal.type_in("\u{3}").await;
    assert_eq!(terminal.exit_code().await, 130);
    vm.remove().await;
    host.clean().await;
}
