//! The scenarios. Each is a story in a file of its own; this is the table of them.

mod boot;
mod bootstrap;
mod firecracker;
mod foreign;
mod host_faults;
mod install;
mod pool;
mod pool_cuts;
mod pool_space;
mod pool_troubles;
mod power_cut;
mod powercut_is_honest;
mod reboot;
mod restart;
mod scale;
mod shutdown;
mod units;
mod upgrade;
mod vmm_deaths;

use crate::host::Host;

/// What is on the host before the scenario begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// A Debian with nothing of what Hearth needs, booted; it has a package source.
    Minimal,
    /// A Debian with all that Hearth needs, booted; without Hearth.
    Bare,
    /// Hearth too, with kernel, image and no VM; audited for leaks afterwards.
    Installed,
    /// As installed, and VMMs are the stand-in, which starts at once and has no guest: for
    /// scenarios about everything else.
    StandIn,
}

/// One scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub proves: &'static str,
    /// About how long it takes on two idle cores, in minutes.
    pub minutes: u32,
    /// What it begins with.
    pub prepared: Prepared,
    /// It is about the package, which is made if none is given.
    pub packaged: bool,
    /// The story.
    pub tell: fn(&mut Host) -> anyhow::Result<()>,
}

/// All scenarios, in the order in which `run all` takes them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "powercut-is-honest",
        proves: "of the testbed itself: a power cut loses what was not flushed and nothing that was",
        minutes: 3,
        prepared: Prepared::Bare,
        packaged: false,
        tell: powercut_is_honest::tell,
    },
    Scenario {
        name: "install",
        proves: "install on a bare Debian: the package brings what it needs, first VM up, clean service",
        minutes: 5,
        prepared: Prepared::Minimal,
        packaged: true,
        tell: install::tell,
    },
    Scenario {
        name: "boot",
        proves: "a host with Hearth comes up, and a first VM under KVM",
        minutes: 3,
        prepared: Prepared::Installed,
        packaged: false,
        tell: boot::tell,
    },
    Scenario {
        name: "firecracker",
        proves: "Firecracker VMs under KVM: vsock, cage, exit codes, kill -9 of the daemon",
        minutes: 5,
        prepared: Prepared::Installed,
        packaged: false,
        tell: firecracker::tell,
    },
    Scenario {
        name: "restart",
        proves: "restart, stop and start, kill -9, a crash loop, daemon-reexec: no guest notices",
        minutes: 6,
        prepared: Prepared::Installed,
        packaged: false,
        tell: restart::tell,
    },
    Scenario {
        name: "upgrade",
        proves: "upgrade, downgrade, remove, purge, installation again: no guest notices",
        minutes: 6,
        prepared: Prepared::Bare,
        packaged: true,
        tell: upgrade::tell,
    },
    Scenario {
        name: "reboot",
        proves: "after a clean reboot each VM runs or not, as its policy says",
        minutes: 3,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: reboot::clean,
    },
    Scenario {
        name: "panic",
        proves: "after a kernel panic each VM runs or not, as its policy says",
        minutes: 3,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: reboot::panic,
    },
    Scenario {
        name: "shutdown",
        proves: "guests go down in order with their host: what they had not synced is on their disks",
        minutes: 3,
        prepared: Prepared::Installed,
        packaged: false,
        tell: shutdown::tell,
    },
    Scenario {
        name: "bootstrap",
        proves: "after a reboot: who comes back by which policy, in which order, decided once",
        minutes: 4,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: bootstrap::tell,
    },
    Scenario {
        name: "power-cut",
        proves: "20 power cuts under load: whole database, acknowledged requests honoured, no leak",
        minutes: 30,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: power_cut::tell,
    },
    Scenario {
        name: "vmm-deaths",
        proves: "signals, OOM, a hang, the guest's panic, power off and reboot are told apart",
        minutes: 6,
        prepared: Prepared::Installed,
        packaged: false,
        tell: vmm_deaths::tell,
    },
    Scenario {
        name: "host-faults",
        proves: "full disk, no inodes, read-only remount, clock jumps: VMs run on, all recovers",
        minutes: 5,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: host_faults::tell,
    },
    Scenario {
        name: "foreign",
        proves: "nothing of others is touched, whatever its name or pid",
        minutes: 4,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: foreign::tell,
    },
    Scenario {
        name: "units",
        proves: "the workspace's tests that want a systemd: none is skipped, all pass",
        minutes: 3,
        prepared: Prepared::Bare,
        packaged: false,
        tell: units::tell,
    },
    Scenario {
        name: "pool",
        proves: "a thin pool on real device-mapper: its data is there after kill -9, reboot, panic and power cut",
        minutes: 9,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: pool::tell,
    },
    Scenario {
        name: "pool-space",
        proves: "a thin pool that fills up grows in time, waits when it may not, and damaged metadata is mended",
        minutes: 8,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: pool_space::tell,
    },
    Scenario {
        name: "pool-cuts",
        proves: "power cuts while volumes and snapshots are made, written and removed: nothing differs unnamed, all that was acknowledged is there",
        minutes: 25,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: pool_cuts::tell,
    },
    Scenario {
        name: "pool-troubles",
        proves: "a pool whose disk hangs or fails: the daemon answers, other VMs go on, it says what to do",
        minutes: 12,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: pool_troubles::tell,
    },
    Scenario {
        name: "scale",
        proves: "10 to 200 VMMs by the stand-in: start, adoption, stop, memory",
        minutes: 40,
        prepared: Prepared::StandIn,
        packaged: false,
        tell: scale::tell,
    },
];

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_file_name() {
        let mut names: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert!(names.iter().all(|name| {
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        }));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
