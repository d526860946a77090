//! The exit codes: part of the interface, so that scripts can tell what happened.

use hearth_types::problem::{Code, Problem};

/// All went well.
pub(crate) const OK: u8 = 0;
/// It failed in a way that has no code of its own.
pub(crate) const FAILURE: u8 = 1;
/// The command line, a file or a value is not valid.
pub(crate) const USAGE: u8 = 2;
/// There is no such object.
pub(crate) const NOT_FOUND: u8 = 3;
/// The object's state does not allow it, it is in use, or it has changed meanwhile.
pub(crate) const CONFLICT: u8 = 4;
/// The daemon cannot be reached.
pub(crate) const UNREACHABLE: u8 = 5;
/// The time was up.
pub(crate) const TIMEOUT: u8 = 6;
/// `run` in the foreground and `exec`: Hearth failed, not the guest's program.
pub(crate) const HEARTH_FAILED: u8 = 125;
/// `exec`: the command is there but cannot be run.
pub(crate) const CANNOT_RUN: u8 = 126;
/// `exec`: there is no such command in the guest.
pub(crate) const NO_SUCH_COMMAND: u8 = 127;

/// For people: `hearth help exit-codes`, and the end of `hearth --help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    all went well
  1    failure
  2    the command line, a file or a value is not valid
  3    no such VM, image or kernel
  4    conflict: the state does not allow it, it is in use, or it has changed meanwhile
  5    the daemon cannot be reached
  6    the time was up

  `hearth run` without -d and `hearth exec` pass on the exit code of the guest's program
  (128 + N when signal N ended it), and use these of their own:
  125  Hearth failed, not the program
  126  exec: the command cannot be run
  127  exec: there is no such command

  With several VMs at once the exit code is that of the worst failure.";

/// The code for a problem that the daemon told.
pub(crate) const fn of_problem(problem: &Problem) -> u8 {
    if problem.status == 504 {
        return TIMEOUT;
    }
    match problem.code {
        Code::Invalid | Code::TooLarge => USAGE,
        Code::NotFound => NOT_FOUND,
        Code::Conflict | Code::InUse | Code::PreconditionFailed | Code::IdempotencyMismatch => {
            CONFLICT
        }
        _ => FAILURE,
    }
}

/// The worse of two: what cannot be reached tells most, then what failed by itself.
pub(crate) fn worse(a: u8, b: u8) -> u8 {
    const fn rank(code: u8) -> u8 {
        match code {
            OK => 0,
            NOT_FOUND => 1,
            CONFLICT => 2,
            USAGE => 3,
            TIMEOUT => 4,
            UNREACHABLE => 6,
            _ => 5,
        }
    }
    if rank(b) > rank(a) { b } else { a }
}

/// A guest's exit code as the process's own: 0 to 255.
pub(crate) fn of_guest(code: i32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_wins_in_any_order() {
        for (a, b, worst) in [
            (OK, NOT_FOUND, NOT_FOUND),
            (NOT_FOUND, FAILURE, FAILURE),
            (UNREACHABLE, FAILURE, UNREACHABLE),
            (CONFLICT, NOT_FOUND, CONFLICT),
        ] {
            assert_eq!((worse(a, b), worse(b, a)), (worst, worst));
        }
    }

    #[test]
    fn guests_codes_are_cut_to_a_byte() {
        assert_eq!([0, 7, 137, 256, -1].map(of_guest), [0, 7, 137, 0, 255]);
    }
}
