//! `exec -it` and `console` on a real pseudo-terminal: raw while it lasts, restored after.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::fake::Fake;
use crate::runner::hearth;

/// A terminal with a program on it.
pub(crate) struct Terminal {
    pub(crate) master: File,
    /// Kept open, so that the terminal outlives the program.
    slave: File,
    pub(crate) shown: String,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let terminal = Self {
            master: master.into(),
            slave,
            shown: String::new(),
        };
        terminal.resize(30, 90);
        terminal
    }

    fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).unwrap();
    }

    /// Starts the binary as the leader of a session whose terminal this is.
    pub(crate) fn start(&self, fake: &Fake, args: &[&str]) -> Child {
        let plain = hearth(&fake.host());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(plain.get_program());
        command.env_clear();
        for (key, value) in plain.get_envs() {
            if let Some(value) = value {
                command.env(key, value);
            }
        }
        let tty = || self.slave.try_clone().unwrap();
        command
            .args(args)
            .env("TERM", "xterm")
            .env("PATH", std::env::var("PATH").unwrap());
        command
            .stdin(tty())
            .stdout(tty())
            .stderr(tty())
            .spawn()
            .unwrap()
    }

    /// Reads until the text has been shown; the test runner's time limit bounds it.
    pub(crate) fn expect(&mut self, text: &str) {
        let mut buffer = [0; 1024];
        while !self.shown.contains(text) {
            let length = self.master.read(&mut buffer).unwrap();
            self.shown
                .push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }

    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap();
        !modes.local_modes.contains(LocalModes::ICANON)
    }
}

/// Sends a program a signal, by its name without SIG.
pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn exec_is_raw_follows_the_size_and_restores() {
    let fake = Fake::start();
    let mut terminal = Terminal::new();
    let mut child = terminal.start(&fake, &["exec", "-it", "web-1", "tty"]);
    terminal.expect("size 30 90\r\n");
    assert!(terminal.is_raw());
    terminal.master.write_all(b"\x03").unwrap();
    terminal.expect("typed [3]\r\n");
    terminal.resize(40, 120);
    terminal.expect("resized 40 120\r\n");
    terminal.master.write_all(b"q").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(!terminal.is_raw());
}

#[test]
fn a_signal_from_outside_restores_the_terminal() {
    let fake = Fake::start();
    let mut terminal = Terminal::new();
    let mut child = terminal.start(&fake, &["exec", "-it", "web-1", "tty"]);
    terminal.expect("size 30 90\r\n");
    assert!(terminal.is_raw());
    // `setsid` forks only when it leads a group already: here the child is the program itself.
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert!(!terminal.is_raw());
}

#[test]
fn the_console_is_left_with_its_key() {
    let fake = Fake::start();
    let mut terminal = Terminal::new();
    let mut child = terminal.start(&fake, &["console", "web-1"]);
    terminal.expect("login: ");
    assert!(terminal.is_raw());
    terminal.master.write_all(b"ab\x1d").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!terminal.is_raw());
}

#[test]
fn pulls_show_bars_on_a_terminal() {
    let fake = Fake::start();
    let mut terminal = Terminal::new();
    let mut child = terminal.start(&fake, &["image", "pull", "localhost:5000/demo:1"]);
    terminal.expect("localhost:5000/demo:1\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(terminal.shown.contains("[=="), "{:?}", terminal.shown);
    // Plain lines are for those who have no terminal.
    assert!(
        !terminal.shown.contains("ab12ab12ab12: "),
        "{:?}",
        terminal.shown
    );
}
