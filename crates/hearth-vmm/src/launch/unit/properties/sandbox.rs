//! What a unit may touch.
//!
//! The shim is root with a few capabilities; the VMM drops to its own uid and has none. So
//! each rule here is for one of the two: paths, devices and system calls confine the VMM,
//! capabilities confine the shim.

use camino::{Utf8Path, Utf8PathBuf};
use hearth_shim::Request;
use hearth_systemd::property::{Property, Setting};

use crate::Disk;
use crate::launch::Needs;

/// The namespaces of a cage: mounts, IPC, UTS (`CLONE_NEW…` of linux/sched.h).
const CAGE_NAMESPACES: u64 = 0x0002_0000 | 0x0800_0000 | 0x0400_0000;
/// `EPERM`: what a system call that is not allowed returns.
const EPERM: i32 = 1;

/// Which files it sees and may change: nothing but its own folder. `used` are the real
/// paths of all that it needs.
pub(super) fn files(request: &Request, used: &[Utf8PathBuf]) -> Vec<Property> {
    let uses = |folders: &[&str]| {
        used.iter()
            .any(|path| folders.iter().any(|folder| path.starts_with(folder)))
    };
    let home = ["/home", "/root", "/run/user"];
    let temporary = ["/tmp", "/var/tmp"];
    // Sockets that ask for no permission, or for one that a mistake may give.
    let sockets = ["/run/dbus", "/run/hearth"];
    let hidden = sockets.iter().filter(|folder| !uses(&[**folder]));
    vec![
        Property::flag("PrivateMounts", true),
        Property::text("ProtectSystem", "strict"),
        Property::texts("ReadWritePaths", [request.dir.as_str()]),
        Property::texts(
            "InaccessiblePaths",
            hidden.map(|folder| format!("-{folder}")),
        ),
        // An installation in a home folder or below /tmp is somebody's experiment. It has to
        // be able to see itself.
        Property::text("ProtectHome", if uses(&home) { "read-only" } else { "yes" }),
        Property::flag("PrivateTmp", !uses(&temporary)),
        Property::new("UMask", Setting::Word(0o077)),
    ]
}

/// All that the shim and the VMM open by a path.
pub(in crate::launch::unit) fn used<'a>(
    shim: &'a Utf8Path,
    request: &'a Request,
) -> impl Iterator<Item = &'a Utf8Path> {
    let caged = request.cage.iter().flat_map(|cage| &cage.files);
    [shim, &request.program, &request.dir]
        .into_iter()
        .chain(request.files.iter().map(|file| file.path.as_path()))
        .chain(caged.map(|file| file.path.as_path()))
        .filter(|path| path.is_absolute())
}

/// Capabilities, by their numbers in linux/capability.h.
mod capability {
    /// Hands disks to the VMM's uid.
    pub(super) const CHOWN: u64 = 1 << 0;
    /// Opens disks that belong to the VMM's uid.
    pub(super) const DAC_READ_SEARCH: u64 = 1 << 2;
    /// Ends the VMM at a deadline.
    pub(super) const KILL: u64 = 1 << 5;
    /// Drops to the VMM's gid.
    pub(super) const SETGID: u64 = 1 << 6;
    /// Drops to the VMM's uid, and attaches to its TAP as that uid.
    pub(super) const SETUID: u64 = 1 << 7;
    /// Mounts a cage.
    pub(super) const SYS_ADMIN: u64 = 1 << 21;
    /// Makes the VMM's `oom_score_adj` one that the VMM cannot take back.
    pub(super) const SYS_RESOURCE: u64 = 1 << 24;
    /// Makes the device nodes in a cage.
    pub(super) const MKNOD: u64 = 1 << 27;
}

/// What the shim and the VMM may ask of the kernel.
pub(super) fn privileges(request: &Request, needs: &Needs) -> Vec<Property> {
    use capability::{
        CHOWN, DAC_READ_SEARCH, KILL, MKNOD, SETGID, SETUID, SYS_ADMIN, SYS_RESOURCE,
    };
    let mut capabilities = 0;
    if request.user.is_some() {
        capabilities |= CHOWN | DAC_READ_SEARCH | KILL | SETGID | SETUID | SYS_RESOURCE;
    }
    // What services commonly use: no mounts, modules, tracing, clocks, reboot or swap.
    // seccomp: a VMM filters its own calls further, and some versions leave it out.
    let mut calls = ["@system-service", "seccomp"].map(str::to_owned).to_vec();
    let mut namespaces = 0;
    if request.cage.is_some() {
        // The shim makes it; the VMM in it has no capability, whatever it calls.
        capabilities |= SYS_ADMIN | MKNOD;
        calls.extend(["@mount", "unshare"].map(str::to_owned));
        namespaces = CAGE_NAMESPACES;
    }
    let only = |values: &[&str]| {
        Setting::List(true, values.iter().map(|&value| value.to_owned()).collect())
    };
    let mut all = vec![
        Property::flag("NoNewPrivileges", true),
        Property::number("CapabilityBoundingSet", capabilities),
        Property::flag("RestrictSUIDSGID", true),
        Property::flag("RestrictRealtime", true),
        Property::number("RestrictNamespaces", namespaces),
        Property::flag("LockPersonality", true),
        Property::flag("MemoryDenyWriteExecute", !needs.makes_code),
        // The TAP and all sockets are opened before or are local.
        Property::new("RestrictAddressFamilies", only(&["AF_UNIX"])),
        Property::texts("SystemCallArchitectures", ["native"]),
        Property::new("SystemCallFilter", Setting::List(true, calls)),
        Property::new("SystemCallErrorNumber", Setting::Signed(EPERM)),
        Property::text("KeyringMode", "private"),
    ];
    all.extend(
        [
            "ProtectKernelTunables",
            "ProtectKernelModules",
            "ProtectKernelLogs",
            "ProtectControlGroups",
            "ProtectClock",
            "ProtectHostname",
        ]
        .map(|name| Property::flag(name, true)),
    );
    all
}

/// Which devices it may open, beside those that every program may (`/dev/null` …).
pub(super) fn devices(request: &Request, needs: &Needs, disks: &[Disk]) -> Vec<Property> {
    let opened = |device: &str| (device.to_owned(), "rw".to_owned());
    let tun = (!request.taps.is_empty()).then_some("/dev/net/tun");
    let mut allowed: Vec<_> = needs
        .devices
        .iter()
        .copied()
        .chain(tun)
        .map(opened)
        .collect();
    // Its own disks, and no other VM's.
    let own = disks.iter().filter_map(|disk| {
        let rights = if disk.read_only { "r" } else { "rw" };
        Some((disk.device.as_ref()?.to_string(), rights.to_owned()))
    });
    allowed.extend(own);
    // The nodes of a cage are made by the shim.
    let caged = request.cage.iter().flat_map(|cage| &cage.devices);
    allowed.extend(caged.map(|device| (format!("/dev/{device}"), "rwm".to_owned())));
    vec![
        Property::text("DevicePolicy", "closed"),
        Property::new("DeviceAllow", Setting::Pairs(allowed)),
    ]
}
