//! Signals that break off a wait and end nothing.

use std::io;

/// From now on this signal interrupts a call that waits in a way that may be interrupted (`EINTR`), and
/// does nothing else: the program goes on.
///
/// # Errors
/// When the kernel refuses the signal, which it does only for `SIGKILL` and `SIGSTOP`.
pub fn interrupt_only(signal: rustix::process::Signal) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a structure of numbers and a pointer that may be null, all zero is "no flags, no mask"; the handler
    // touches nothing, so it may run at any moment. Without `SA_RESTART` a call that was interrupted comes back.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(signal.as_raw(), &raw const action, std::ptr::null_mut())
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn the_signal_ends_nothing_and_what_cannot_be_caught_is_refused() {
        interrupt_only(Signal::USR2).unwrap();
        kill_process(getpid(), Signal::USR2).unwrap();
        let refused = interrupt_only(Signal::KILL).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
