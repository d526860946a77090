//! The shim from its first to its last instruction.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use hearth_types::process::{Evidence, ExitRecord, GuestReport, ProcessExit, ProcessIdentity};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

use crate::evidence;
use crate::identity::Instance;
use crate::journal::Journal;
use crate::kernel_log::KernelLog;
use crate::log::Log;
use crate::pump::{Channels, End, Pump};
use crate::setup::{self, Failure, Started};
use crate::{Answer, CONSOLE_LOG, Reason, Request, UNIT_FLAG, VMM_LOG};

/// Longest request that is read, in bytes.
const REQUEST_MAX: u64 = 1 << 20;
/// Size cap of the VMM's own log, in bytes; one old file is kept.
const VMM_LOG_MAX: u64 = 128 << 10;

/// Runs the shim: returns in the caller's child at once, in the shim when the VMM is dead.
/// With [`UNIT_FLAG`] the caller's child is the shim itself.
#[must_use]
pub fn run() -> ExitCode {
    if std::env::args_os().any(|arg| arg == UNIT_FLAG) {
        return serve(true);
    }
    // SAFETY: the process has one thread, so the child may use everything that the parent
    // could; no lock can be held by a thread that does not exist there.
    match unsafe { libc::fork() } {
        -1 => {
            answer(&Answer::Failed {
                reason: Reason::System,
                detail: format!("cannot fork: {}", io::Error::last_os_error()),
            });
            ExitCode::FAILURE
        }
        0 => {
            // The child of a fork leads no process group, so this cannot fail.
            rustix::process::setsid().ok();
            serve(false)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn serve(in_unit: bool) -> ExitCode {
    // In a unit, standard error is the journal's.
    let journal = in_unit
        .then(|| rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).ok())
        .flatten();
    crate::signals::put_off();
    close_on_exec();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let kernel = KernelLog::from_here();
    let (request, started) = match read_request().and_then(|request| {
        let started = setup::start(&request)?;
        Ok((request, started))
    }) {
        Ok(both) => both,
        Err(Failure { reason, detail }) => {
            answer(&Answer::Failed { reason, detail });
            return ExitCode::FAILURE;
        }
    };
    attend(&request, started, Journal::new(journal), &kernel)
}

/// From the VMM's exec to its exit record.
fn attend(request: &Request, started: Started, journal: Journal, kernel: &KernelLog) -> ExitCode {
    let Started {
        mut child,
        console,
        report,
        outlets,
        draft,
        lock,
        made,
    } = started;
    let ready = identify(request, &child).and_then(|(instance, identity)| {
        setup::sign(&lock, request, Some(instance)).map_err(|failure| failure.detail)?;
        let deadline = request
            .max_millis
            .map(|millis| Instant::now() + Duration::from_millis(millis));
        let logs = open_logs(request);
        let channels = Channels {
            console,
            report,
            outlets,
            caller: request.caller.clone(),
            stop: request.stop.clone(),
            user: request.user,
        };
        let pump = Pump::new(&mut child, channels, logs, journal, deadline)
            .map_err(|error| format!("cannot attend to the VMM: {error}"))?;
        Ok((identity, pump))
    });
    let (identity, pump) = match ready {
        Ok(ready) => ready,
        Err(detail) => {
            // It is our own child and not reaped: its pid cannot be anybody else's.
            drop(child.kill());
            drop(child.wait());
            draft.discard();
            drop(made);
            answer(&Answer::Failed {
                reason: Reason::System,
                detail: format!("{detail}: {}", last_words(&mut child)),
            });
            return ExitCode::FAILURE;
        }
    };
    if !answer(&Answer::Started(identity.clone())) {
        // A caller that has given up takes the launch for failed, so it must be.
        drop(child.kill());
        drop(child.wait());
        draft.discard();
        drop(made);
        return ExitCode::FAILURE;
    }
    leave_caller();
    let end = pump.run();
    let pid = child.id();
    let status = child.wait();
    let published = match end {
        End::Run(guest, console, told) => status.and_then(|status| {
            draft.publish(&record(
                identity,
                status,
                guest,
                evidence::gather(status, &console, told, || kernel.oom_kill(pid)),
            ))
        }),
        End::Undone => {
            draft.discard();
            Ok(())
        }
    };
    drop(made);
    // The lock goes with the process, after everything else.
    drop(lock);
    match published {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn identify(request: &Request, child: &Child) -> Result<(Instance, ProcessIdentity), String> {
    let pid = i32::try_from(child.id()).map_err(|_| "the VMM has no pid".to_owned())?;
    // A VMM that is dead already still has a stat line: it is not reaped. Its program has
    // gone, though, and then there is nothing to identify.
    let read = |error: io::Error| format!("cannot identify the VMM: {error}");
    let instance = Instance::of(pid)
        .map_err(read)?
        .ok_or("the VMM ended at once")?;
    let program = setup::program_of(request);
    let identity = instance.clone().identify(request.mark, &program);
    let identity = identity.map_err(read)?;
    Ok((instance, identity))
}

/// What a VMM said before it ended so early that nobody attended to it.
fn last_words(child: &mut Child) -> String {
    const LENGTH_MAX: u64 = 4096;
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // The VMM is dead, so the pipe has an end.
        drop(stderr.take(LENGTH_MAX).read_to_end(&mut said));
    }
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().map(str::trim).collect();
    if lines.is_empty() {
        "it said nothing".to_owned()
    } else {
        lines.join("; ")
    }
}

fn record(
    identity: ProcessIdentity,
    status: ExitStatus,
    guest: Option<GuestReport>,
    evidence: Evidence,
) -> ExitRecord {
    let vmm = match (status.code(), status.signal()) {
        (Some(code), _) => ProcessExit::Code(code),
        (None, signal) => ProcessExit::Signal(signal.unwrap_or(0)),
    };
    ExitRecord {
        evidence,
        identity,
        vmm,
        guest,
        ended_at: jiff::Timestamp::now(),
    }
}

fn open_logs(request: &Request) -> (Log, Log) {
    let console = Log::open(CONSOLE_LOG, request.console_bytes, request.console_keep);
    let mut vmm = Log::open(VMM_LOG, VMM_LOG_MAX, 1);
    if !vmm.is_empty() {
        vmm.rotate();
    }
    (console, vmm)
}

fn read_request() -> Result<Request, Failure> {
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .take(REQUEST_MAX)
        .read_to_end(&mut text)
        .map_err(|error| Failure::io("read the request", &error))?;
    serde_json::from_slice(&text).map_err(|error| Failure {
        reason: Reason::Request,
        detail: format!("the request is not understood: {error}"),
    })
}

/// Says the one line; whether somebody is there to hear it.
fn answer(answer: &Answer) -> bool {
    let Ok(mut text) = serde_json::to_vec(answer) else {
        return false;
    };
    text.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&text).and_then(|()| out.flush()).is_ok()
}

/// Lets go of the caller's pipes: it waits for their end.
fn leave_caller() {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        rustix::stdio::dup2_stdin(&null).ok();
        rustix::stdio::dup2_stdout(&null).ok();
        rustix::stdio::dup2_stderr(&null).ok();
    }
}

/// Whatever the caller left open is not passed on to the VMM.
fn close_on_exec() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    for entry in entries.flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|&number: &i32| number > 2) {
            // SAFETY: the descriptor was just listed, and this one thread closes none
            // while it is borrowed.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).ok();
        }
    }
}
