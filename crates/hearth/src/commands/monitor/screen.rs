//! The terminal: the alternate screen in raw mode, and its keys.
//!
//! ```text
//!  cooked ── enter ──► alternate, raw ──┬── leave ──► cooked ── come_back ──► alternate, raw
//!                                       └── drop, panic ──► cooked
//! ```
//! SIGKILL is all that leaves it as it is: `reset` puts that right.

use std::collections::VecDeque;
use std::io::{self, Stdout, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use hearth_monitor::{Key, Keyboard, Model, News};

use crate::exit_codes;
use crate::failure::Failure;

/// The rest of a key's sequence comes at once, also over a slow line: the key Escape alone is
/// the one that nothing follows.
const ESCAPE: Duration = Duration::from_millis(50);

/// How the terminal was, while it is not so: what a panic puts back.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal while it is the dashboard's.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

fn failed(error: &io::Error) -> Failure {
    Failure::because(exit_codes::FAILURE, "Cannot use the terminal", error)
}

impl Screen {
    /// Takes the terminal. A panic gives it back before it is told.
    pub(super) fn enter() -> Result<Self, Failure> {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        let backend = CrosstermBackend::new(io::stdout());
        let terminal = Terminal::new(backend).map_err(|e| failed(&e))?;
        let mut screen = Self { terminal };
        screen.come_back()?;
        Ok(screen)
    }

    /// Takes the terminal again, and draws all of it anew.
    pub(super) fn come_back(&mut self) -> Result<(), Failure> {
        let take = || -> io::Result<()> {
            let stdin = io::stdin();
            let before = tcgetattr(&stdin)?;
            let mut raw = before.clone();
            raw.make_raw();
            if let Ok(mut kept) = BEFORE.lock() {
                kept.get_or_insert(before);
            }
            tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
            execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
        };
        take().map_err(|e| failed(&e))?;
        // Clears as `clear` does, and unlike it does not ask the terminal where its cursor is:
        // one that never answers would hold up the start.
        let mut clear = || {
            self.terminal
                .size()
                .and_then(|size| self.terminal.resize(size.into()))
        };
        clear().map_err(|e| failed(&e))
    }

    /// Leaves the terminal as it was found, to another program.
    #[expect(clippy::unused_self, reason = "who has no screen has none to leave")]
    pub(super) fn leave(&mut self) {
        restore();
    }

    pub(super) fn draw(&mut self, model: &Model) -> Result<(), Failure> {
        let drawn = self
            .terminal
            .draw(|frame| hearth_monitor::draw(model, frame));
        drawn.map(drop).map_err(|e| failed(&e))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// As it was found; nothing when it is so already.
fn restore() {
    let Some(before) = BEFORE.lock().ok().and_then(|mut kept| kept.take()) else {
        return;
    };
    let mut stdout = io::stdout();
    // A terminal that has gone needs nothing put back.
    execute!(stdout, cursor::Show, LeaveAlternateScreen).ok();
    stdout.flush().ok();
    tcsetattr(io::stdin(), OptionalActions::Drain, &before).ok();
}

/// Keys that are pressed, and the terminal's size when it changes. What is typed while there is
/// no such value is the next reader's, and nothing of it is lost.
pub(super) struct Keys {
    input: AsyncFd<OwnedFd>,
    resized: Signal,
    keyboard: Keyboard,
    ready: VecDeque<Key>,
}

impl Keys {
    pub(super) fn new() -> Result<Self, Failure> {
        let made = || -> io::Result<Self> {
            let input = io::stdin().as_fd().try_clone_to_owned()?;
            Ok(Self {
                input: watched(input)?,
                resized: signal(SignalKind::window_change())?,
                keyboard: Keyboard::default(),
                ready: VecDeque::new(),
            })
        };
        made().map_err(|e| failed(&e))
    }

    /// The next key that means something, or the terminal's new size.
    pub(super) async fn next(&mut self) -> Result<News, Failure> {
        loop {
            if let Some(key) = self.ready.pop_front() {
                return Ok(News::Key(key));
            }
            let more = self.keyboard.expects_more();
            tokio::select! {
                _ = self.resized.recv() => {
                    let size = crate::terminal::size();
                    return Ok(News::Size(size.cols, size.rows));
                }
                read = read(&self.input) => {
                    let bytes = read.map_err(|e| failed(&e))?;
                    if bytes.is_empty() {
                        // The terminal has gone.
                        return Ok(News::Key(Key::Interrupt));
                    }
                    self.ready.extend(self.keyboard.read(&bytes));
                }
                () = tokio::time::sleep(ESCAPE), if more => {
                    self.ready.extend(self.keyboard.no_more());
                }
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types that lie about their descriptor, and OwnedFd does not"
)]
fn watched(input: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(input, Interest::READABLE)
}

/// What was typed. It is asked each time whether there is something: a read that finds nothing
/// would hold up everything.
async fn read(input: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 256];
    loop {
        let mut ready = input.readable().await?;
        let mut asked = [PollFd::new(input, PollFlags::IN)];
        match rustix::event::poll(&mut asked, Some(&Timespec::default())) {
            Ok(0) => ready.clear_ready(),
            Ok(_) => {
                let length = rustix::io::read(input, &mut buffer)?;
                return Ok(buffer[..length].to_vec());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Read;
    use std::process::{Command, Stdio};

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    const CHILD: &str = "HEARTH_TEST_PANICS_ON_ITS_TERMINAL";

    /// In a process of its own, on a terminal of its own.
    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        if std::env::var_os(CHILD).is_some() {
            let _screen = Screen::enter().unwrap();
            panic!("as a bug does");
        }
        let mut master = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let tty = || Stdio::from(slave.try_clone().unwrap());
        let own =
            "commands::monitor::screen::tests::a_panic_gives_the_terminal_back_before_it_is_told";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([own, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .stdin(tty())
            .stdout(tty())
            .stderr(tty())
            .spawn()
            .unwrap();
        let mut shown = String::new();
        let mut buffer = [0; 4096];
        while !shown.contains("as a bug does") {
            let length = master.read(&mut buffer).unwrap();
            shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        // Some more of the panic may come; the terminal takes it, and nobody reads it.
        assert!(!child.wait().unwrap().success());
        let told = shown.find("as a bug does").unwrap();
        let entered = shown.find("\u{1b}[?1049h").unwrap();
        let left = shown.find("\u{1b}[?1049l").unwrap();
        assert!(entered < left && left < told, "{shown:?}");
        let modes = tcgetattr(&slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    }
}
