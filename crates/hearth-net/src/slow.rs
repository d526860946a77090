//! Which failures come from a host that is busy: the same step may well succeed in a moment.

use std::error::Error;
use std::io;

use hearth_host::command::CommandError;
use hearth_systemd::SystemdError;
use rustix::io::Errno;

use crate::NetError;
use crate::host::is_passing_dump;

/// What the kernel answers when it cannot now and may be able to soon.
const PASSING: [Errno; 6] = [
    Errno::BUSY,
    Errno::AGAIN,
    Errno::INTR,
    Errno::NOBUFS,
    Errno::NOMEM,
    Errno::TIMEDOUT,
];

/// The same in the words of `strerror(3)`, which is all that a tool such as `nft` tells. The
/// runner sets the locale, so these are the words.
const PASSING_WORDS: [&str; 6] = [
    "Device or resource busy",
    "Resource temporarily unavailable",
    "Interrupted system call",
    "No buffer space available",
    "Cannot allocate memory",
    "Connection timed out",
];

impl NetError {
    /// Whether the host was only too slow or busy: a deadline that passed, a kernel that
    /// asks to be asked again. An object that is not ours, a missing tool or a refusal is not.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = self.source();
        while let Some(error) = cause {
            if passes(error) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

fn passes(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<CommandError>() {
        return match error {
            CommandError::Deadline { .. } => true,
            CommandError::Failed { output, .. } => {
                PASSING_WORDS.iter().any(|words| output.contains(words))
            }
            CommandError::Missing { .. } | CommandError::Run { .. } => false,
        };
    }
    if let Some(rtnetlink::Error::NetlinkError(error)) = error.downcast_ref() {
        return passes_by_number(error.to_io().raw_os_error());
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.kind() == io::ErrorKind::TimedOut || passes_by_number(error.raw_os_error());
    }
    if let Some(error) = error.downcast_ref::<SystemdError>() {
        return error.is_transient();
    }
    if let Some(error) = error.downcast_ref::<Errno>() {
        return PASSING.contains(error);
    }
    is_passing_dump(error)
}

fn passes_by_number(number: Option<i32>) -> bool {
    number.is_some_and(|number| PASSING.iter().any(|errno| errno.raw_os_error() == number))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;
    use std::time::Duration;

    use super::*;

    fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> NetError {
        NetError::failed("apply", "the rules", source)
    }

    fn nft(output: &str) -> NetError {
        failed(CommandError::Failed {
            command: "nft -f -".to_owned(),
            status: ExitStatus::from_raw(256),
            output: output.to_owned(),
        })
    }

    #[test]
    fn a_host_that_is_slow_is_told_from_one_that_refuses() {
        let deadline = CommandError::Deadline {
            command: "nft -f -".to_owned(),
            deadline: Duration::from_secs(20),
        };
        let missing = CommandError::Missing {
            program: "nft".to_owned(),
        };
        for (error, slow) in [
            (failed(deadline), true),
            (
                nft("Error: Could not process rule: Device or resource busy"),
                true,
            ),
            (
                nft("Error: Could not process rule: Operation not permitted"),
                false,
            ),
            (failed(io::Error::from(Errno::BUSY)), true),
            (failed(io::Error::from(Errno::PERM)), false),
            (failed(Errno::NOBUFS), true),
            (failed(Errno::EXIST), false),
            (failed(missing), false),
            (
                NetError::Foreign {
                    object: "br0".to_owned(),
                },
                false,
            ),
        ] {
            assert_eq!(error.is_transient(), slow, "{error:?}");
        }
    }

    #[test]
    fn a_cause_within_a_cause_counts() {
        let inner = failed(io::Error::from(Errno::TIMEDOUT));
        assert!(failed(inner).is_transient());
    }
}
