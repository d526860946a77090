//! What the end of a run means: the class and the sentence for what the shim's record, the
//! guest's report and the traces beside them say.

use jiff::Timestamp;

use hearth_types::process::{ConsoleEnd, Evidence, ExitRecord, GuestReport, ProcessExit};
use hearth_types::status::{EndClass, RunEnd};

/// What the end of a VMM means. `stopping` says that the user asked for it: then it is never a failure.
#[must_use]
pub fn classify(exit: Option<&ExitRecord>, stopping: bool, now: Timestamp) -> RunEnd {
    let Some(record) = exit else {
        return RunEnd {
            class: EndClass::Unknown,
            exit_code: None,
            vmm: None,
            guest: None,
            failure: !stopping,
            reason: "VMM ended without a record".to_owned(),
            at: now,
        };
    };
    let workload = record.guest.as_ref().and_then(|guest| guest.exit);
    let (class, reason) = match &record.guest {
        _ if record.evidence.host_down => {
            let reason = "went down with the host".to_owned();
            (EndClass::HostRebooted, reason)
        }
        Some(_) if record.evidence.terminated => {
            let reason = "guest was shut down from outside: its unit was stopped".to_owned();
            (EndClass::Killed, reason)
        }
        Some(guest) => judge_guest(guest),
        None => judge_vmm(record.vmm, record.evidence),
    };
    let failed = !matches!(
        class,
        EndClass::Clean
            | EndClass::GuestPoweredOff
            | EndClass::GuestRebooted
            | EndClass::HostRebooted
    );
    RunEnd {
        class,
        exit_code: workload.map(exit_code),
        vmm: Some(record.vmm),
        guest: record.guest.clone(),
        failure: failed && !stopping,
        reason,
        at: record.ended_at,
    }
}

fn exit_code(exit: ProcessExit) -> i32 {
    match exit {
        ProcessExit::Code(code) => code,
        ProcessExit::Signal(signal) => signal.saturating_add(128),
    }
}

fn judge_guest(guest: &GuestReport) -> (EndClass, String) {
    let failed = |text: String| {
        let reason = match &guest.message {
            Some(message) => format!("{text}: {message}"),
            None => text,
        };
        (EndClass::WorkloadFailed, reason)
    };
    let clean = |text: &str| (EndClass::Clean, text.to_owned());
    match guest.exit {
        Some(ProcessExit::Code(0)) => clean("entrypoint exited with status 0"),
        Some(ProcessExit::Code(code)) => failed(format!("entrypoint exited with status {code}")),
        Some(ProcessExit::Signal(signal)) => {
            failed(format!("entrypoint was ended by signal {signal}"))
        }
        None if guest.reason == "shutdown" => clean("guest was shut down"),
        None => failed(format!("guest went down ({})", guest.reason)),
    }
}

/// Signals that a program earns itself (signal(7), action "Core").
const FAULTS: [i32; 10] = [3, 4, 5, 6, 7, 8, 11, 24, 25, 31];
/// SIGKILL, the only signal of the kernel's OOM killer.
const SIGKILL: i32 = 9;

fn judge_vmm(vmm: ProcessExit, evidence: Evidence) -> (EndClass, String) {
    match vmm {
        ProcessExit::Signal(SIGKILL) if evidence.oom_kills > 0 && evidence.oom_host => (
            EndClass::HostOutOfMemory,
            "VMM was killed by the kernel: the host had no memory left".to_owned(),
        ),
        ProcessExit::Signal(SIGKILL) if evidence.oom_kills > 0 => (
            EndClass::OutOfMemory,
            "VMM was killed by the kernel: its memory limit was reached".to_owned(),
        ),
        ProcessExit::Signal(signal) if FAULTS.contains(&signal) => {
            let core = if evidence.core_dumped {
                ", core dumped"
            } else {
                ""
            };
            let reason = format!("VMM crashed with signal {signal}{core}");
            (EndClass::VmmCrashed, reason)
        }
        ProcessExit::Signal(signal) => {
            let reason = format!("VMM was killed by signal {signal}");
            (EndClass::Killed, reason)
        }
        _ if evidence.console == Some(ConsoleEnd::Panic) => (
            EndClass::GuestPanicked,
            "guest's kernel panicked: its console says why".to_owned(),
        ),
        ProcessExit::Code(0) if evidence.console == Some(ConsoleEnd::Reboot) => {
            (EndClass::GuestRebooted, "guest rebooted".to_owned())
        }
        ProcessExit::Code(0) if evidence.terminated => (
            EndClass::Killed,
            "VMM was ended from outside: its unit was stopped".to_owned(),
        ),
        // The image's own init may power off without a word.
        ProcessExit::Code(0) => (EndClass::GuestPoweredOff, "guest powered off".to_owned()),
        ProcessExit::Code(code) => {
            let reason = format!("VMM exited with status {code}: its log says why");
            (EndClass::VmmCrashed, reason)
        }
    }
}
