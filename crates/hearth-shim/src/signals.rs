//! Signals to the shim: it ends when its VMM ends and not before, but remembers what came.

use std::mem::MaybeUninit;

/// What ends a program that does nothing about it, and may come from a terminal, a session's
/// end or systemd.
const PUT_OFF: [i32; 6] = [
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Lets none of these signals end the shim. They are blocked rather than ignored, so that
/// what came can be seen at the end.
pub(crate) fn put_off() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised before it is used; a signal number and a null pointer
    // for the old mask are allowed. SIGPIPE gets no handler, only the kernel's own way to
    // ignore it: writes then fail.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in PUT_OFF {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Blocks nothing any more: for the VMM, between fork and exec. It allocates nothing.
pub(crate) fn let_through() -> std::io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised before it is used; no old mask is asked for.
    let done = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if done == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Whether this signal came and was put off.
pub(crate) fn is_pending(signal: i32) -> bool {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call initialises the set if it succeeds, and only then is it read.
    unsafe {
        libc::sigpending(set.as_mut_ptr()) == 0 && libc::sigismember(set.as_ptr(), signal) == 1
    }
}
