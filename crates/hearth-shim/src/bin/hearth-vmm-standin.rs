//! A tiny process that takes QEMU's arguments and answers QMP like a QEMU whose guest
//! idles: for tests of scale and of everything around a VMM but the guest.
//!
//! - `quit` ends it; `system_powerdown` leaves a guest report (exit code 0) and ends it.
//! - The serial console says one line at the start and echoes its input.
//! - The agent's channel echoes.
//! - A kernel without a bzImage header is refused as QEMU refuses it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags};

/// Longest QMP line, in bytes.
const LINE_MAX: usize = 64 << 10;
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 0}, "package": "hearth-vmm-standin"}, "capabilities": []}}"#;
const REPORT: &str = "{\"exit\":{\"code\":0},\"reason\":\"shutdown\"}\n";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "hearth-vmm-standin: {error}"));
            ExitCode::FAILURE
        }
    }
}

struct Standin {
    qmp: UnixListener,
    agent: Option<UnixListener>,
    monitors: Vec<Monitor>,
    agents: Vec<UnixStream>,
    console_open: bool,
    report: Option<OwnedFd>,
    paused: bool,
    over: bool,
}

struct Monitor {
    stream: UnixStream,
    line: Vec<u8>,
}

fn run() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--version") {
        return writeln!(io::stdout(), "QEMU emulator version 0.0.0 (stand-in)");
    }
    if let Some(kernel) = value(&args, "-kernel") {
        check_kernel(kernel)?;
    }
    let qmp = chardev_fd(&args, "qmp").ok_or_else(|| io::Error::other("no QMP socket given"))?;
    let report = args
        .iter()
        .find_map(|arg| property(arg, "fd").filter(|_| arg.contains("set=")));
    let mut standin = Standin {
        qmp: adopt(qmp).into(),
        agent: chardev_fd(&args, "agent").map(|fd| adopt(fd).into()),
        monitors: Vec::new(),
        agents: Vec::new(),
        console_open: true,
        report: report.map(adopt),
        paused: false,
        over: false,
    };
    writeln!(io::stdout(), "standin: started")?;
    while !standin.over {
        standin.round()?;
    }
    Ok(())
}

fn value<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1).map(String::as_str)
}

fn property(arg: &str, name: &str) -> Option<RawFd> {
    arg.split(',')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        .and_then(|value| value.parse().ok())
}

fn chardev_fd(args: &[String], id: &str) -> Option<RawFd> {
    let id = format!("id={id}");
    args.iter()
        .find(|arg| arg.starts_with("socket,") && arg.split(',').any(|part| part == id))
        .and_then(|arg| property(arg, "fd"))
}

fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the shim passed the descriptor to this process for exactly this use, and it
    // is adopted once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn check_kernel(path: &str) -> io::Result<()> {
    let mut header = Vec::new();
    std::fs::File::open(path)?
        .take(0x206)
        .read_to_end(&mut header)?;
    // The boot protocol's magic (Documentation/arch/x86/boot.rst).
    if header.get(0x202..0x206) == Some(b"HdrS") {
        Ok(())
    } else {
        Err(io::Error::other(format!("could not load kernel '{path}'")))
    }
}

impl Standin {
    fn round(&mut self) -> io::Result<()> {
        let stdin = io::stdin();
        let mut fds = vec![PollFd::new(&self.qmp, PollFlags::IN)];
        fds.extend(self.agent.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let console_at = fds.len();
        if self.console_open {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let monitors_at = fds.len();
        fds.extend(
            self.monitors
                .iter()
                .map(|m| PollFd::new(&m.stream, PollFlags::IN)),
        );
        let agents_at = fds.len();
        fds.extend(self.agents.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        rustix::event::poll(&mut fds, None)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[agents_at..].contains(&true) {
            let mut ready = ready[agents_at..].iter();
            self.agents
                .retain_mut(|agent| ready.next() != Some(&true) || echo(agent));
        }
        self.serve_monitors(&ready[monitors_at..agents_at]);
        if self.console_open && ready[console_at] {
            self.console_open = self.echo_console();
        }
        if ready[0] {
            let mut stream = self.qmp.accept()?.0;
            if writeln!(stream, "{GREETING}").is_ok() {
                self.monitors.push(Monitor {
                    stream,
                    line: Vec::new(),
                });
            }
        }
        if let Some(agent) = self.agent.as_ref().filter(|_| ready[1]) {
            self.agents.push(agent.accept()?.0);
        }
        Ok(())
    }

    fn serve_monitors(&mut self, ready: &[bool]) {
        let mut monitors = std::mem::take(&mut self.monitors);
        let mut ready = ready.iter();
        monitors.retain_mut(|monitor| ready.next() != Some(&true) || self.serve(monitor));
        self.monitors = monitors;
    }

    fn serve(&mut self, monitor: &mut Monitor) -> bool {
        let mut buffer = [0; 1024];
        let count = match monitor.stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(count) => count,
        };
        for &byte in &buffer[..count] {
            if byte != b'\n' {
                monitor.line.push(byte);
            } else if !self.answer(&std::mem::take(&mut monitor.line), &mut monitor.stream) {
                return false;
            }
        }
        monitor.line.len() <= LINE_MAX
    }

    fn answer(&mut self, line: &[u8], stream: &mut UnixStream) -> bool {
        let Ok(command) = serde_json::from_slice::<BTreeMap<String, serde_json::Value>>(line)
        else {
            return false;
        };
        let name = command.get("execute").and_then(|name| name.as_str());
        let body = match name.unwrap_or_default() {
            "qmp_capabilities" => r#""return": {}"#.to_owned(),
            "query-status" => {
                let status = if self.paused { "paused" } else { "running" };
                format!(
                    r#""return": {{"status": "{status}", "singlestep": false, "running": {}}}"#,
                    !self.paused
                )
            }
            "query-blockstats" => r#""return": []"#.to_owned(),
            "stop" | "cont" => {
                self.paused = name == Some("stop");
                r#""return": {}"#.to_owned()
            }
            "system_powerdown" => {
                self.over = true;
                if let Some(report) = &self.report {
                    rustix::io::write(report, REPORT.as_bytes()).ok();
                }
                r#""return": {}"#.to_owned()
            }
            "quit" => {
                self.over = true;
                r#""return": {}"#.to_owned()
            }
            other => format!(
                r#""error": {{"class": "CommandNotFound", "desc": "no command {}"}}"#,
                other.escape_default()
            ),
        };
        let id = command.get("id").map(|id| format!(r#", "id": {id}"#));
        writeln!(stream, "{{{body}{}}}", id.unwrap_or_default()).is_ok()
    }

    fn echo_console(&self) -> bool {
        let mut buffer = [0; 1024];
        match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(count) => rustix::io::write(io::stdout(), &buffer[..count]).is_ok(),
        }
    }
}

fn echo(stream: &mut UnixStream) -> bool {
    let mut buffer = [0; 1024];
    match stream.read(&mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(count) => stream.write_all(&buffer[..count]).is_ok(),
    }
}
