//! `hearthd dm-helper`: the process that makes the daemon's calls to device-mapper, and how the daemon has it
//! started. What the two say to each other is `hearth-pool`'s.
//!
//! It is the daemon's own program, so both ends are of one version also while a new one is installed, and there is one
//! program less to install. It holds nothing of the daemon's: not its lock, not its sockets, not its folder.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::Context as _;
use hearth_host::process::Signal;
use hearth_host::signals;
use hearth_pool::{HelperGround, Helpers, HostGround};
use hearth_types::InstallationId;
use hearth_types::mark::OwnerMark;
use rustix::net::sockopt;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The subcommand.
pub const COMMAND: &str = "dm-helper";
/// This program, whatever has its name by now.
const PROGRAM: &str = "/proc/self/exe";

/// Those who make this installation's calls. None is started before the first call.
pub(crate) fn of_host(installation: InstallationId) -> Helpers {
    let mark = OwnerMark::shared(installation);
    Helpers::new(move || hearth_pool::start_helper(PROGRAM, &[COMMAND], mark))
}

/// The host's device-mapper, by way of them.
pub(crate) fn ground(helpers: &Helpers) -> Arc<HelperGround> {
    Arc::new(HelperGround::new(Arc::new(HostGround), helpers.clone()))
}

/// What the helper does: calls for the daemon at the other end of its standard input, until that is gone.
///
/// # Errors
/// When nobody is there, or what they say cannot be understood.
pub fn run() -> anyhow::Result<()> {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let stdin = stdin.context("there is no standard input")?;
    sockopt::socket_domain(&stdin)
        .context("this is started by hearthd alone: its standard input is no socket")?;
    // Neither a person's `kill` nor the end of a session cuts a call in two; a wait that the kernel can
    // undo ends, and the call says so.
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        signals::interrupt_only(signal).context("cannot put off signals")?;
    }
    // By this name device-mapper's own threads are known, too.
    rustix::thread::set_name(c"dm-helper").ok();
    if let Err(error) = give_up_powers() {
        tracing::warn!(%error, "the helper keeps all of the daemon's powers");
    }
    hearth_pool::serve_helper(UnixStream::from(stdin), &HostGround)
        .context("what the daemon says cannot be understood")
}

/// Device-mapper and loop devices need `CAP_SYS_ADMIN`; the pool's files may be another user's. Nothing else is kept.
fn give_up_powers() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let now = rustix::thread::capabilities(None)?;
    let kept = now.permitted & (CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}
