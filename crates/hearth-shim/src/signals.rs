//! Signals to the shim: it ends when its VMM ends and not before. What SIGTERM asks for is in
//! `stop`.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd as _, OwnedFd};

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
/// one that matters can be read from a descriptor.
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

/// A descriptor that is readable when this signal, which is blocked, has come.
pub(crate) fn descriptor(signal: i32) -> std::io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised before it is used; the descriptor is a new one, and
    // nobody else's.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        match libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) {
            -1 => Err(std::io::Error::last_os_error()),
            number => Ok(OwnedFd::from_raw_fd(number)),
        }
    }
}

/// Whether the signal of a descriptor has come; it has not any more after that.
pub(crate) fn take(descriptor: &OwnedFd) -> bool {
    let mut taken = [0; size_of::<libc::signalfd_siginfo>()];
    matches!(rustix::io::read(descriptor, &mut taken), Ok(count) if count > 0)
}
