//! From the kernel's hand-over to the image's root: PID 1 in the initramfs.
//!
//! ```text
//!  mounts ─► config ─► modules ─► root disk ─► volumes ─► names ─► network ─► clock ─► switch root
//!                                                                                       │
//!                                                    mode hearth: supervise ◄───────────┤
//!                                                    mode image: start agent, exec init ◄┘
//! ```
//! What the workload cannot do without (the root disk, its volumes) stops the boot; the rest
//! is told on the console and the boot goes on.

mod disks;
mod files;
mod netlink;
mod network;
mod root;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use hearth_guest_proto::config::{CONFIG_PATH, GuestConfig, InitMode, MODULES_PATH};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::error::{Context, Failure, say, tell};
use crate::{supervise, uevent};

pub(crate) use disks::grow_volume;

/// Where the root disk is mounted before it becomes the root.
pub(crate) const NEW_ROOT: &str = "/newroot";

/// Where programs look for virtio-serial ports by their names (`60-persistent-virtio.rules`, udev).
const PORTS: &str = "/dev/virtio-ports";
/// How long a port may take to appear after its driver was loaded.
const PORT_PATIENCE: Duration = Duration::from_secs(5);

/// Boots. Comes back only when there is nothing to go on with, and never to a living machine.
pub(crate) fn run() -> Result<(), Failure> {
    let failure = match prepare() {
        Ok(config) => match config.init {
            InitMode::Hearth => supervise::run(&config),
            InitMode::Image => become_init(&config),
        },
        Err(failure) => failure,
    };
    say(&failure);
    supervise::give_up(&failure.to_string())
}

fn prepare() -> Result<GuestConfig, Failure> {
    root::kernel_mounts("")?;
    let text = fs::read(CONFIG_PATH).context("read", CONFIG_PATH)?;
    let config: GuestConfig = serde_json::from_slice(&text).context("understand", CONFIG_PATH)?;
    crate::machine::learn(&config);
    load_modules();
    if let Some(now) = config.wall_clock_ms {
        tell(set_clock(now));
    }
    disks::mount_root(&config.root_serial)?;
    for volume in &config.volumes {
        disks::mount_volume(volume)?;
    }
    files::write_names(&config);
    if let Err(error) = rustix::system::sethostname(config.hostname.as_bytes()) {
        say(&format!(
            "cannot set the host name {}: {error}",
            config.hostname
        ));
    }
    tell(network::set_up(config.network.as_ref()));
    root::switch()?;
    name_ports(&config.ports);
    Ok(config)
}

/// A module that cannot be loaded is told of: what needs it will say so as well.
fn load_modules() {
    let Some(list) = tell(fs::read_to_string(MODULES_PATH).context("read", MODULES_PATH)) else {
        return;
    };
    for path in list.lines().map(str::trim).filter(|path| !path.is_empty()) {
        let loaded = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::system::finit_module(file, c"", 0));
        match loaded {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => say(&format!("cannot load the module {path}: {error}")),
        }
    }
}

/// Gives ports the names that udev would give them: programs look for them there, and an image
/// may have no udev. One that does not come is told of: what needs it will say so as well.
fn name_ports(names: &[String]) {
    for name in names {
        tell(name_port(name));
    }
}

fn name_port(name: &str) -> Result<(), Failure> {
    let node = uevent::wait_for(name, PORT_PATIENCE, || uevent::find_port(name))?;
    fs::create_dir_all(PORTS).context("make", PORTS)?;
    let link = Path::new(PORTS).join(name);
    match std::os::unix::fs::symlink(&node, &link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Failure::new("make", link.display(), error))
        }
        _ => Ok(()),
    }
}

/// Sets the clock, if it is more than a moment off.
pub(crate) fn set_clock(wall_clock_ms: u64) -> Result<(), Failure> {
    let wanted = Duration::from_millis(wall_clock_ms);
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    if now.abs_diff(wanted) < Duration::from_millis(500) {
        return Ok(());
    }
    let time = Timespec::try_from(wanted).context("set", "the clock")?;
    clock_settime(ClockId::Realtime, time).context("set", "the clock")
}

/// The image's own init takes over; the agent stays as a process of its own.
fn become_init(config: &GuestConfig) -> Failure {
    if let Some((_, socket)) = tell(supervise::start_agent(config)) {
        drop(socket);
    }
    let mut last = Failure::new("find", "the image's init", "it has none");
    for init in [
        "/sbin/init",
        "/lib/systemd/systemd",
        "/usr/lib/systemd/systemd",
        "/etc/init",
        "/bin/init",
    ] {
        if !fs::exists(init).unwrap_or(false) {
            continue;
        }
        let error = Command::new(init)
            .arg0(init)
            .env_clear()
            .env("TERM", "linux")
            .env("HOME", "/")
            .exec();
        last = Failure::new("become", init, error);
    }
    last
}
