//! Making a check once.

use std::time::Duration;

use hearth_host::aside::aside;
use hearth_store::VmRow;
use hearth_types::api::Verdict;
use hearth_types::observe::RunState;
use hearth_types::spec::health::{Check, Probe};
use tokio::time::timeout;

use super::{Ward, console, exec, net, process, qemu_agent};
use crate::engine::Engine;

/// How long one attempt to reach the agent of a guest that boots may take.
const BOOT_DEADLINE: Duration = Duration::from_secs(30);

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) message: String,
}

impl Outcome {
    pub(super) fn pass(message: impl Into<String>) -> Self {
        Self::new(Verdict::Pass, message)
    }

    pub(super) fn fail(message: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, message)
    }

    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, message)
    }

    fn new(verdict: Verdict, message: impl Into<String>) -> Self {
        Self {
            verdict,
            message: message.into(),
        }
    }

    /// The answer to an error: the guest's fault, unless the host lacks what it takes to ask.
    pub(super) fn of_error(error: &(dyn std::error::Error + 'static)) -> Self {
        let message = hearth_types::survey::chain(error);
        if is_the_hosts(error) {
            Self::unknown(message)
        } else {
            Self::fail(message)
        }
    }
}

/// What a check remembers from one time to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    console: Option<console::Reader>,
}

/// Makes a check, within the time that an answer may take. `booting`: the guest may still be coming
/// up; `patient`: it is waited for.
pub(super) async fn make(
    engine: &Engine,
    ward: &Ward,
    run: &VmRow,
    check: &Check,
    (booting, patient): (bool, bool),
    memory: &mut Memory,
) -> Outcome {
    let deadline = if patient {
        BOOT_DEADLINE
    } else {
        check.timeout
    };
    let probe = async {
        match &check.probe {
            Probe::Process => process::check(engine, ward),
            Probe::VmmApi => vmm_api(engine, ward, deadline).await,
            Probe::Agent => agent(engine, ward, deadline).await,
            Probe::Console {
                pattern,
                bad,
                regex,
            } => match console::Wanted::new(pattern.as_deref(), bad, *regex) {
                Ok(wanted) => read_console(engine, ward, wanted, memory).await,
                Err(why) => Outcome::unknown(why),
            },
            Probe::Unit => engine.health.units.check(ward.vm).await,
            Probe::Tcp { port } => match run.leases.ip {
                Some(ip) => net::tcp((ip, *port).into()).await,
                None => Outcome::unknown("it has no address"),
            },
            Probe::Http { port, path, status } => match run.leases.ip {
                Some(ip) => net::http((ip, *port).into(), path, *status).await,
                None => Outcome::unknown("it has no address"),
            },
            // Its agent is waited for by the check that is made for that.
            Probe::Exec { .. } if booting && !engine.agents.connected(ward.vm) => {
                Outcome::unknown("the guest's agent does not answer yet")
            }
            Probe::Exec { command } => exec::check(engine, ward.vm, command, deadline).await,
            Probe::QemuAgent => qemu_agent::check(engine, ward, check.timeout).await,
        }
    };
    timeout(deadline, probe).await.unwrap_or_else(|_| {
        let message = format!("no answer within {} ms", deadline.as_millis());
        match check.probe {
            Probe::Unit => Outcome::unknown(message),
            _ => Outcome::fail(message),
        }
    })
}

/// A file may be on a slow disk: it is read where that holds up nobody.
async fn read_console(
    engine: &Engine,
    ward: &Ward,
    wanted: console::Wanted,
    memory: &mut Memory,
) -> Outcome {
    let dir = engine.paths.vm(ward.vm);
    let mark = || engine.launch_record(ward.vm)?.console;
    let reader = memory.console.take();
    let mut reader = reader.unwrap_or_else(|| console::Reader::new(mark()));
    let read = aside(move || {
        let outcome = reader.check(&dir, &wanted);
        (outcome, reader)
    });
    match read.await {
        Ok((outcome, reader)) => {
            memory.console = Some(reader);
            outcome
        }
        Err(error) => Outcome::unknown(error.to_string()),
    }
}

async fn vmm_api(engine: &Engine, ward: &Ward, deadline: Duration) -> Outcome {
    let dir = engine.paths.vm(ward.vm);
    match engine.parts.vmm.run_state(ward.vm, &dir, deadline).await {
        Ok(RunState::Running) => Outcome::pass("it runs the guest"),
        Ok(RunState::Paused) => Outcome::pass("it has paused the guest"),
        Ok(RunState::DiskFull) => {
            Outcome::fail("its guest is stopped at a write: its disk has no room on the host")
        }
        Ok(RunState::Broken) => Outcome::fail("it has stopped its guest by an internal error"),
        Ok(RunState::Ended) => Outcome::pass("its guest has ended"),
        Err(error) => Outcome::of_error(&error),
    }
}

async fn agent(engine: &Engine, ward: &Ward, deadline: Duration) -> Outcome {
    if engine.launch_record(ward.vm).is_none() {
        return Outcome::unknown("it has no launch record: its agent cannot be told from another");
    }
    match engine.agents.ping(engine, ward.vm, deadline).await {
        Ok(()) => Outcome::pass("it answers"),
        Err(error) => Outcome::of_error(error.as_ref()),
    }
}

/// Whether the host itself lacks what it takes to ask: descriptors, memory, the right, a route.
fn is_the_hosts(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustix::io::Errno;
    const LACKS: [Errno; 9] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOBUFS,
        Errno::ACCESS,
        Errno::PERM,
        Errno::ADDRNOTAVAIL,
        Errno::NETUNREACH,
        Errno::NETDOWN,
    ];
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if let Some(code) = io.and_then(std::io::Error::raw_os_error) {
            return LACKS.iter().any(|errno| errno.raw_os_error() == code);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_descriptors_says_nothing_of_the_guest() {
        let of = |errno: rustix::io::Errno| {
            let error = std::io::Error::from(errno);
            Outcome::of_error(&error).verdict
        };
        assert_eq!(of(rustix::io::Errno::MFILE), Verdict::Unknown);
        assert_eq!(of(rustix::io::Errno::NETUNREACH), Verdict::Unknown);
        assert_eq!(of(rustix::io::Errno::CONNREFUSED), Verdict::Fail);
        assert_eq!(of(rustix::io::Errno::HOSTUNREACH), Verdict::Fail);
    }
}
