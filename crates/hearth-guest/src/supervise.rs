//! PID 1 in mode hearth: from the entrypoint's start to the machine's end.
//!
//! ```text
//!   start entrypoint ──ok──► running ──its exit─────────────────────────► report ─► go down
//!        │                      └──shutdown asked──► stopping ──exit──────────┤
//!        │                                               └──deadline──► kill ─┤
//!        └──failed: report `failed` ─────────────────────────────────────────┘
//! ```
//! One thread reaps, one listens to the agent, one to each power button; the main thread
//! decides. The report goes to its own port first: it is what survives a dead daemon.

mod button;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hearth_guest_proto::REPORT_PORT;
use hearth_guest_proto::config::GuestConfig;
use hearth_guest_proto::message::{Event, ExitStatus, GuestReport, Request, ShutdownKind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use rustix::system::{RebootCommand, reboot};

use crate::error::{Context, Failure, say, tell};
use crate::spawn::{Files, Launch, Refusal, pairs, spawn};

const DEFAULT_STOP: Duration = Duration::from_secs(10);
/// An agent that ends is started again, not faster than this.
const AGENT_PAUSE: Duration = Duration::from_secs(1);
/// How long processes may take to be gone after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// The helper threads do little.
const STACK: usize = 64 * 1024;

/// What the main thread hears of.
#[derive(Debug, Clone, Copy)]
enum News {
    Ended(Pid, Option<ExitStatus>),
    Shutdown(Duration, ShutdownKind),
    Button,
}

/// A signal by its number, without those that the C library keeps for itself.
pub(crate) fn signal_of(number: i32) -> Option<Signal> {
    if !(1..=64).contains(&number) || (32..34).contains(&number) {
        return None;
    }
    // SAFETY: it is a signal of Linux, and none of the two that glibc's threads use.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

/// `SIGTERM`, `TERM`, `15`, `RTMIN+4`, as image configurations write them.
fn signal_by_name(name: &str) -> Option<Signal> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = name.parse() {
        return signal_of(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse().ok()?
        };
        return signal_of(34 + offset).filter(|_| (0..=30).contains(&offset));
    }
    let index = NAMES.iter().position(|known| *known == short)?;
    signal_of(i32::try_from(index).ok()? + 1)
}

/// Starts the agent; what it says and hears goes over the socket.
pub(crate) fn start_agent(config: &GuestConfig) -> Result<(Pid, UnixStream), Failure> {
    let (ours, theirs) = UnixStream::pair().context("make", "the agent's socket")?;
    let mut command = Command::new("/proc/self/exe");
    // A leading @ keeps systemd's final killing spree away from it.
    command
        .arg0("@hearth-guest")
        .arg("agent")
        .env_clear()
        .process_group(0);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let child = command.spawn().context("start", "the agent")?;
    let mut line = serde_json::to_vec(config).context("write", "the agent's configuration")?;
    line.push(b'\n');
    (&ours)
        .write_all(&line)
        .context("write", "the agent's configuration")?;
    Ok((Pid::from_child(&child), ours))
}

/// Runs the entrypoint and ends the machine after it.
pub(crate) fn run(config: &GuestConfig) -> ! {
    let console = console();
    let (report, kind) = match start_entrypoint(config, &console) {
        Err(refusal) => (failed(&refusal), ShutdownKind::Poweroff),
        Ok(entrypoint) => watch(config, entrypoint),
    };
    if let Some(console) = &console {
        let _drained = rustix::termios::tcdrain(console);
    }
    tell(send_report(&report));
    go_down(kind)
}

/// The boot has failed: nothing can run.
pub(crate) fn give_up(message: &str) -> ! {
    let report = GuestReport {
        exit: Some(ExitStatus::Code(126)),
        reason: "failed".to_owned(),
        message: Some(message.to_owned()),
    };
    tell(send_report(&report));
    go_down(ShutdownKind::Poweroff)
}

fn failed(refusal: &Refusal) -> GuestReport {
    say(&refusal.message);
    GuestReport {
        exit: Some(ExitStatus::Code(refusal.code.shell_code())),
        reason: "failed".to_owned(),
        message: Some(refusal.message.clone()),
    }
}

/// The terminal behind /dev/console, which itself cannot be a controlling terminal.
fn console() -> Option<File> {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let node = match active.split_whitespace().last() {
        Some(name) => PathBuf::from("/dev").join(name),
        None => PathBuf::from("/dev/console"),
    };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(&node, flags, Mode::empty()).context("open the console", node.display());
    tell(opened).map(File::from)
}

fn start_entrypoint(config: &GuestConfig, console: &Option<File>) -> Result<Pid, Refusal> {
    let process = &config.process;
    let launch = Launch {
        argv: process.argv.clone(),
        env: pairs(&process.env),
        workdir: process.workdir.clone(),
        user: process.user.clone(),
        hostname: config.hostname.clone(),
        tty: true,
        make_workdir: true,
    };
    let file = || match console.as_ref().map(File::try_clone) {
        Some(Ok(file)) => Stdio::from(file),
        _ => Stdio::null(),
    };
    let files = Files {
        stdin: file(),
        stdout: file(),
        stderr: file(),
    };
    spawn(&launch, files).map(|child| Pid::from_child(&child))
}

/// Waits for the entrypoint's end, which may be asked for.
fn watch(config: &GuestConfig, entrypoint: Pid) -> (GuestReport, ShutdownKind) {
    let (sender, news) = channel();
    // Before the agent: who hears from the guest may press the button.
    button::watch(&sender, News::Button);
    let mut agent = supervise_agent(config, &sender);
    let reaper = sender.clone();
    helper("reaper", move || reap(&reaper));
    let stop = config
        .stop_signal
        .as_deref()
        .and_then(signal_by_name)
        .unwrap_or(Signal::TERM);
    let default = config
        .stop_timeout_ms
        .map_or(DEFAULT_STOP, Duration::from_millis);
    let mut asked: Option<(Instant, ShutdownKind)> = None;
    let mut restart_agent: Option<Instant> = None;
    let mut killed = false;
    loop {
        let kill = asked.map(|(deadline, _)| deadline).filter(|_| !killed);
        match next(&news, [kill, restart_agent]) {
            Some(News::Ended(pid, exit)) if pid == entrypoint => {
                let report = report_of(exit, asked.is_some(), killed);
                if let Some((_, agent)) = &mut agent {
                    announce(agent, &report);
                }
                return (
                    report,
                    asked.map_or(ShutdownKind::Poweroff, |(_, kind)| kind),
                );
            }
            Some(News::Ended(pid, _)) if agent.as_ref().is_some_and(|(agent, _)| *agent == pid) => {
                say(&"the agent has ended and is started again");
                agent = None;
                restart_agent = Some(Instant::now() + AGENT_PAUSE);
            }
            Some(News::Ended(..)) => {}
            Some(News::Shutdown(timeout, kind)) => {
                // Asked again: the shorter time holds.
                let deadline = later(timeout);
                let deadline = asked.map_or(deadline, |(earlier, _)| earlier.min(deadline));
                asked = Some((deadline, kind));
                let _sent = kill_process(entrypoint, stop);
            }
            Some(News::Button) => {
                asked.get_or_insert((later(default), ShutdownKind::Poweroff));
                let _sent = kill_process(entrypoint, stop);
            }
            None => {}
        }
        let now = Instant::now();
        if !killed && asked.is_some_and(|(deadline, _)| deadline <= now) {
            killed = true;
            let _sent = kill_process(entrypoint, Signal::KILL);
        }
        if restart_agent.is_some_and(|at| at <= now) {
            restart_agent = None;
            agent = supervise_agent(config, &sender);
        }
    }
}

/// A deadline that no timeout can push beyond the clock's range.
fn later(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(7 * 24 * 3600))
}

fn next(news: &Receiver<News>, deadlines: [Option<Instant>; 2]) -> Option<News> {
    match deadlines.into_iter().flatten().min() {
        None => news.recv().ok(),
        Some(deadline) => news
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok(),
    }
}

fn report_of(exit: Option<ExitStatus>, asked: bool, killed: bool) -> GuestReport {
    let reason = if asked { "shutdown" } else { "exited" };
    let message = killed.then(|| "the entrypoint did not end in time and was killed".to_owned());
    GuestReport {
        exit,
        reason: reason.to_owned(),
        message,
    }
}

fn announce(agent: &mut UnixStream, report: &GuestReport) {
    let event = Event::Exited {
        report: report.clone(),
    };
    if let Ok(mut line) = serde_json::to_vec(&event) {
        line.push(b'\n');
        // The quick way only; the report port is the sure one.
        let _sent = agent.write_all(&line);
    }
}

fn supervise_agent(config: &GuestConfig, sender: &Sender<News>) -> Option<(Pid, UnixStream)> {
    let (pid, socket) = tell(start_agent(config))?;
    let lines = tell(socket.try_clone().context("copy", "the agent's socket"))?;
    let sender = sender.clone();
    helper("agent", move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            if let Ok(Request::Shutdown { timeout_ms, kind }) = serde_json::from_str(&line) {
                let _heard = sender.send(News::Shutdown(Duration::from_millis(timeout_ms), kind));
            }
        }
    });
    Some((pid, socket))
}

fn helper(name: &str, work: impl FnOnce() + Send + 'static) {
    let started = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(work);
    tell(started.context("start the thread", name));
}

/// Collects every child, the adopted ones too.
fn reap(news: &Sender<News>) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let exit = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Some(ExitStatus::Code(code)),
                    (None, signal) => signal.map(ExitStatus::Signal),
                };
                if exit.is_some() && news.send(News::Ended(pid, exit)).is_err() {
                    return;
                }
            }
            Err(Errno::CHILD) => return,
            Ok(None) | Err(_) => {}
        }
    }
}

/// One JSON line to the host's report port.
pub(crate) fn send_report(report: &GuestReport) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(report).context("write", "the report")?;
    line.push(b'\n');
    if let Some(port) = crate::machine::report_port() {
        return crate::vsock::deliver(port, &line).context("bring the report to vsock port", port);
    }
    let patience = Duration::from_secs(1);
    let port = crate::uevent::wait_for("the report port", patience, || {
        crate::uevent::find_port(REPORT_PORT)
    })?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let port = rustix::fs::open(&port, flags, Mode::empty()).context("open", port.display())?;
    let mut line = serde_json::to_vec(report).context("write", "the report")?;
    line.push(b'\n');
    let mut polled = [rustix::event::PollFd::new(
        &port,
        rustix::event::PollFlags::OUT,
    )];
    let timeout = rustix::event::Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let _writable = rustix::event::poll(&mut polled, Some(&timeout));
    File::from(port)
        .write_all(&line)
        .context("write", "the report")
}

/// Ends every process, saves what is to be saved and stops the machine.
pub(crate) fn go_down(kind: ShutdownKind) -> ! {
    kill_all();
    rustix::fs::sync();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let disks: Vec<&str> = mounts
        .lines()
        .filter(|line| line.starts_with("/dev/"))
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    for mount in disks.into_iter().rev() {
        if mount == "/"
            || rustix::mount::unmount(mount, rustix::mount::UnmountFlags::empty()).is_err()
        {
            let _saved = rustix::mount::mount_remount(mount, MountFlags::RDONLY, "");
        }
    }
    rustix::fs::sync();
    let command = match crate::machine::ending(kind) {
        ShutdownKind::Poweroff => RebootCommand::PowerOff,
        ShutdownKind::Reboot => RebootCommand::Restart,
    };
    if let Err(error) = reboot(command) {
        say(&format!("cannot stop the machine: {error}"));
    }
    loop {
        thread::park();
    }
}

/// SIGKILL for all but this process, and a bounded wait for their end.
fn kill_all() {
    if std::process::id() != 1 {
        return;
    }
    let deadline = Instant::now() + KILL_PATIENCE;
    kill_everybody();
    // The reaper thread may take some of them; both stop when there are no children left.
    while Instant::now() < deadline {
        match wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => return,
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => thread::park_timeout(Duration::from_millis(2)),
        }
    }
}

fn kill_everybody() {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return;
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| *pid > 1).filter_map(Pid::from_raw) {
        // Kernel threads do not mind, and the others may be gone.
        let _sent = kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_as_images_write_them() {
        for (name, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("SIGQUIT", 3),
            ("SIGSYS", 31),
        ] {
            assert_eq!(
                signal_by_name(name).map(Signal::as_raw),
                Some(number),
                "{name}"
            );
        }
        for bad in ["", "SIGNOPE", "0", "33", "65", "RTMIN+31", "RTMIN-1"] {
            assert!(signal_by_name(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_report_says_whether_the_end_was_asked_for() {
        let ended = report_of(Some(ExitStatus::Code(3)), false, false);
        assert_eq!((ended.reason.as_str(), ended.message), ("exited", None));
        let killed = report_of(Some(ExitStatus::Signal(9)), true, true);
        assert_eq!(killed.reason, "shutdown");
        assert!(killed.message.is_some());
    }
}
