//! What the host images are made of. All of it goes into the cache's key.

use super::Kind;

/// The Debian release.
pub(super) const SUITE: &str = "bookworm";

/// Debian packages of every host: an init, a kernel, a way in.
const HOST: [&str; 9] = [
    "systemd",
    "systemd-sysv",
    "udev",
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "kmod",
    "openssh-server",
    // The root file system of guests is made of it.
    "busybox-static",
    "procps",
];

/// What Hearth's package depends on or recommends. The minimal host has them in its offline
/// source only, each with what it depends on; whatever else the package comes to want has
/// to be added here.
pub(super) const NEEDED: [&str; 7] = [
    "qemu-system-x86",
    "nftables",
    "dnsmasq-base",
    "conntrack",
    "e2fsprogs",
    "dbus",
    "ca-certificates",
];

/// What scenarios make and look at the host with.
const USED: [&str; 16] = [
    "polkitd",
    "xfsprogs",
    "dmsetup",
    "thin-provisioning-tools",
    "adduser",
    "iproute2",
    "iputils-ping",
    "psmisc",
    "util-linux-extra",
    "curl",
    "jq",
    "socat",
    "sqlite3",
    "less",
    "man-db",
    "python3-minimal",
];

/// The packages that an image has from the beginning.
pub(super) fn packages(kind: Kind) -> Vec<&'static str> {
    match kind {
        Kind::Equipped => [&HOST[..], &NEEDED, &USED].concat(),
        Kind::Minimal => HOST.to_vec(),
    }
}

/// Where the minimal host gets packages from.
const OFFLINE: &str = "deb [trusted=yes] file:/usr/share/hearth-testbed/apt ./\n";

/// Size of the root file system, in bytes. The file is sparse.
pub(super) const ROOT_BYTES: u64 = 3 << 30;

/// Units that only make the host's boot slower, or noisy at a bad moment.
pub(super) const MASKED: [&str; 15] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "getty.target",
    "man-db.timer",
    "serial-getty@ttyS0.service",
    "systemd-pstore.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-firstboot.service",
    "keyboard-setup.service",
];

/// Units that are switched on: where the link goes, and to what.
pub(super) const ENABLED: [(&str, &str); 4] = [
    (
        "multi-user.target.wants/systemd-networkd.service",
        "systemd-networkd.service",
    ),
    (
        "sockets.target.wants/systemd-networkd.socket",
        "systemd-networkd.socket",
    ),
    (
        "network-online.target.wants/systemd-networkd-wait-online.service",
        "systemd-networkd-wait-online.service",
    ),
    (
        "dbus-org.freedesktop.network1.service",
        "systemd-networkd.service",
    ),
];

/// Files of a host: path and content.
pub(super) fn files(kind: Kind) -> Vec<(&'static str, &'static str)> {
    let own = match kind {
        // What Debian hosts load by themselves or by their administrator's word.
        Kind::Equipped => (
            "etc/modules-load.d/testbed.conf",
            "kvm-amd\ntun\nnf_tables\nloop\ndm-thin-pool\nvhost_vsock\n",
        ),
        Kind::Minimal => ("etc/apt/sources.list", OFFLINE),
    };
    FILES.into_iter().chain([own]).collect()
}

/// Files of every host.
const FILES: [(&str, &str); 11] = [
    ("etc/hostname", "testbed\n"),
    ("etc/hosts", "127.0.0.1 localhost testbed\n"),
    ("etc/resolv.conf", "# the testbed has no name server\n"),
    // The serials are those that the machine gives its disks.
    (
        "etc/fstab",
        "LABEL=testbed-root / ext4 defaults 0 0\n\
         LABEL=testbed-data /var/lib/hearth ext4 defaults 0 0\n\
         LABEL=testbed-seed /seed ext4 ro 0 0\n",
    ),
    // QEMU's user network, without the two seconds of its DHCP.
    (
        "etc/systemd/network/10-testbed.network",
        "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n\
         LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    ),
    (
        "etc/ssh/sshd_config.d/testbed.conf",
        "HostKey /seed/ssh_host_ed25519_key\nAuthorizedKeysFile /seed/authorized_keys\n\
         PermitRootLogin prohibit-password\nUsePAM no\nUseDNS no\nPrintMotd no\n\
         MaxSessions 100\nMaxStartups 100\n",
    ),
    (
        "etc/systemd/system/ssh.service.d/testbed.conf",
        "[Unit]\nRequiresMountsFor=/seed\n",
    ),
    // What a power cut interrupts is told by the journal of the boot before.
    (
        "etc/systemd/journald.conf.d/testbed.conf",
        "[Journal]\nStorage=persistent\nSystemMaxUse=200M\nRateLimitIntervalSec=0\nSyncIntervalSec=5s\n",
    ),
    // Emulated, on a machine that others use: loading modules alone may take over a minute.
    (
        "etc/systemd/system.conf.d/testbed.conf",
        "[Manager]\nDefaultTimeoutStartSec=15min\n",
    ),
    ("etc/sysctl.d/testbed.conf", "kernel.sysrq = 1\n"),
    // An initramfs with what this machine has: it is unpacked at each boot.
    (
        "etc/initramfs-tools/conf.d/testbed",
        "MODULES=list\nCOMPRESS=gzip\nRESUME=none\nFSTYPE=ext4\n",
    ),
];

/// Modules of the initramfs.
pub(super) const INITRAMFS_MODULES: &str = "virtio_pci\nvirtio_blk\n";

/// Kernel command line of the host.
pub(super) const CMDLINE: &str = "root=LABEL=testbed-root rw console=ttyS0 quiet loglevel=4 \
    net.ifnames=0 panic=1 mitigations=off systemd.show_status=error nowatchdog";
