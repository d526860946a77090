//! Other programs, with a deadline and an error that holds what they said; and programs
//! that run in the background and never outlive this one.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Output shown of a program that failed, in bytes from its end.
const OUTPUT_SHOWN: usize = 4000;

/// How a program ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Standard output without the white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// The last of what it said, the standard error first if there is any.
    #[must_use]
    pub fn said(&self) -> &str {
        let all = if self.stderr.trim().is_empty() {
            self.stdout.trim()
        } else {
            self.stderr.trim()
        };
        let from = all.len().saturating_sub(OUTPUT_SHOWN);
        let from = (from..all.len()).find(|at| all.is_char_boundary(*at));
        &all[from.unwrap_or(0)..]
    }
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started or overruns the deadline; it is killed then. A status other
/// than 0 is no error here.
pub fn run(command: &mut Command, deadline: Duration) -> anyhow::Result<Output> {
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let Some(status) = wait(&mut child, deadline)? else {
        child.kill().and_then(|()| child.wait().map(drop))?;
        // What it started may hold the pipes open: nothing is waited for here.
        bail!(
            "{shown} did not end within {} s and was killed",
            deadline.as_secs()
        );
    };
    Ok(Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

/// As [`run`], and a status other than 0 is an error that says what the program said.
///
/// # Errors
/// See there.
pub fn check(command: &mut Command, deadline: Duration) -> anyhow::Result<Output> {
    let output = run(command, deadline)?;
    if !output.success() {
        bail!(
            "{} failed ({}): {}",
            shown(command),
            output.status,
            output.said()
        );
    }
    Ok(output)
}

/// The program and its arguments, for people.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut text = words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    if let Some((end, _)) = text.char_indices().nth(300) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn collect<R: Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is what there is.
            drop(pipe.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child's end; `None` when the deadline passes first.
fn wait(child: &mut Child, deadline: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let end = Instant::now() + deadline;
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch a child")?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let timeout = rustix::event::Timespec::try_from(left)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(child.wait()?)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A program in the background. It is killed when this is dropped, and by the kernel when
/// this program dies.
#[derive(Debug)]
pub struct Background {
    child: Child,
    name: String,
}

impl Background {
    /// Starts `command`, which must be made with [`companion`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, name: &str) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within the deadline; it runs on then.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        wait(&mut self.child, deadline)?
            .with_context(|| format!("{} did not end within {} s", self.name, deadline.as_secs()))
    }

    /// Sends SIGKILL; does not wait.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
        drop(self.child.wait());
    }
}

/// A command whose process the kernel kills when its parent dies.
#[must_use]
pub fn companion(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn output_failures_and_deadlines() {
        let output = check(Command::new("echo").arg("hello"), LONG).unwrap();
        assert_eq!(output.text(), "hello");
        let error = check(Command::new("ls").arg("/no/such/file"), LONG).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
        let late = run(Command::new("sleep").arg("100"), Duration::from_millis(20));
        assert!(late.unwrap_err().to_string().contains("did not end"));
    }

    #[test]
    fn a_background_program_ends_with_its_owner() {
        let mut sleeper = Background::start(companion("sleep").arg("100"), "sleeper").unwrap();
        assert!(sleeper.ended().unwrap().is_none());
        assert!(sleeper.wait(Duration::from_millis(10)).is_err());
        let pid = sleeper.pid();
        drop(sleeper);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
