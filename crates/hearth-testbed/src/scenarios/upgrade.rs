//! The package's life on a host with a VM: upgrade, downgrade, removal and purge, with the
//! VM running through all of them, and what is left when it has gone as well.
//!
//! The newer package holds the same programs under another version. That the daemon that
//! runs is the new file's is seen by its process. With `HEARTH_TESTBED_OLDER_PACKAGE` the
//! story begins with that one, a real older version, and its VM.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};

use crate::hearth::VM_UP;
use crate::host::Host;
use crate::line::Line;
use crate::machine::PUBLISHED_FIRST;
use crate::package::Package;
use crate::witness::Witness;

/// Where the two packages are on the host.
const OLD: &str = "/seed/hearth.deb";
const NEW: &str = "/root/newer.deb";
/// A package of an older version, if there is one, and where it is on the host.
const OLDER_FROM: &str = "HEARTH_TESTBED_OLDER_PACKAGE";
const OLDER: &str = "/root/older.deb";
/// As `docs/operations.md` has it, without questions.
const APT: &str = "DEBIAN_FRONTEND=noninteractive apt-get -q -y";
/// A line that the operator has added to the configuration.
const OPERATORS: &str = "ORPHAN_CAP=21";
/// Lists files by name and place, but for the testbed's own and for what systemd makes for each
/// unit in memory and never removes: empty folders, and the unit's fields for the journal, whose
/// file it looks for under another name when the unit has gone.
const NAMED: &str = "{ find / /run -xdev -name '*hearth*' ! -path '/run/systemd/propagate/*' \
     ! -path '/run/systemd/units/log-extra-fields:*' ! -name '*hearth-testbed*'; \
     find /var/lib/hearth -mindepth 1; } | sort";

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let old = host.package()?;
    let new = old.renamed(&format!("{}+next1", old.version), host.folder())?;
    host.put(&new.path, NEW)?;
    std::fs::remove_file(&new.path)?;
    let untouched = host.audit()?;
    let named = files(host)?;

    let first = match std::env::var_os(OLDER_FROM) {
        Some(file) => {
            let older = Package::read(file.as_ref())?;
            host.put(&older.path, OLDER)?;
            host.install_package(OLDER)?;
            older
        }
        None => {
            host.install()?;
            old.clone()
        }
    };
    host.check(&format!("echo {OPERATORS} >>/etc/hearth/config"))?;
    host.check("systemctl restart hearthd")?;
    host.wait_daemon()?;
    host.evidence.event(&format!("installed {}", first.version));
    through_everything(host, &first, &old, &new)?;
    purged_to_the_ground(host, &named)?;
    host.expect_as(&untouched)?;
    ensure!(
        host.run("getent group hearth")?.success(),
        "the group hearth is gone: files may belong to it"
    );
    host.promise(
        "purge without VMs leaves the host as it was before the installation, but for the group",
    );
    Ok(())
}

fn through_everything(
    host: &Host,
    first: &Package,
    old: &Package,
    new: &Package,
) -> anyhow::Result<()> {
    let port = format!("{PUBLISHED_FIRST}:7");
    let keeper = host.start_vm(
        "keeper",
        &["--restart", "always", "-m", "128MiB", "-p", &port],
        "exec nc -ll -p 7 -e cat",
    )?;
    keeper.wait_healthy()?;
    let line = host.line(0)?;
    let mut story = Story {
        host,
        witness: Witness::new(host, keeper)?,
        line,
    };
    if first.path != old.path {
        let what = format!("upgrade from {}", first.version);
        let command = format!("{APT} install --allow-downgrades {OLD}");
        story.changes(&what, &command, old)?;
    }
    story.changes("upgrade", &format!("{APT} install {NEW}"), new)?;
    story.changes(
        "downgrade",
        &format!("{APT} install --allow-downgrades {OLD}"),
        old,
    )?;
    story.stopped_stays_stopped(new)?;
    story.removed()?;
    story.comes_back("remove", &format!("{APT} install {OLD}"), old)?;
    story.purged()?;
    story.comes_back("purge", &format!("dpkg -i {NEW}"), new)
}

/// A VM that runs through it all, and a connection to it.
struct Story<'a> {
    host: &'a Host,
    witness: Witness<'a>,
    line: Line,
}

impl Story<'_> {
    /// Another version takes the place of the one that is there.
    fn changes(&mut self, what: &str, command: &str, to: &Package) -> anyhow::Result<()> {
        let before = daemon(self.host)?;
        self.line.send()?;
        let seconds = self.witness.until_adopted(&asked_meanwhile(command))?;
        self.adopted(what, seconds)?;
        self.is_installed(to)?;
        self.all_were_answered(what)?;
        let after = daemon(self.host)?;
        ensure!(after != before, "{what}: daemon {before} runs on");
        self.host
            .check(&format!("grep -qx {OPERATORS} /etc/hearth/config"))?;
        self.host.promise(&format!(
            "{what}: the new package's daemon runs with the operator's configuration; same VMM, same guest, and its TCP connection keeps its data"
        ));
        Ok(())
    }

    /// Whoever asked meanwhile had to wait at most: the socket stays.
    fn all_were_answered(&self, what: &str) -> anyhow::Result<()> {
        let answers = self.host.check("grep -cx answered /run/asked")?;
        let others = self.host.check("grep -vx answered /run/asked || true")?;
        ensure!(others.is_empty(), "{what}: somebody was told: {others}");
        self.host.measure(
            &format!("{what}: asked meanwhile"),
            answers.parse()?,
            "times",
        );
        self.host.promise(&format!(
            "{what}: every request that came meanwhile was answered"
        ));
        Ok(())
    }

    /// As after an installation: the VM is known, and its connection has lost nothing.
    fn adopted(&mut self, what: &str, seconds: f64) -> anyhow::Result<()> {
        // Of this the package manager's own time is the most.
        let name = format!("{what}: command to VM known again");
        self.host.measure(&name, seconds, "s");
        self.host.measure(
            &format!("{what}: daemon's start to all VMs adopted"),
            self.host.daemon_start_seconds()?,
            "s",
        );
        self.line.receive()?;
        self.line.echo()?;
        self.witness.unchanged()
    }

    fn is_installed(&self, package: &Package) -> anyhow::Result<()> {
        let there = self
            .host
            .check("dpkg-query -W -f '${Version} ${db:Status-Abbrev}' hearth")?;
        ensure!(
            there == format!("{} ii", package.version),
            "dpkg says {there}, not {}",
            package.version
        );
        ensure!(
            self.host.check("dpkg --audit")?.is_empty(),
            "dpkg has found something half done"
        );
        Ok(())
    }

    /// An upgrade starts and enables no daemon that the operator has stopped and disabled.
    fn stopped_stays_stopped(&mut self, new: &Package) -> anyhow::Result<()> {
        self.host
            .check("systemctl disable --now hearthd.socket hearthd.service")?;
        self.line.send()?;
        self.host.check(&format!("{APT} install {NEW}"))?;
        self.is_installed(new)?;
        no_daemon(self.host)?;
        enabled(self.host, "disabled")?;
        self.witness.lives()?;
        self.line.receive()?;
        self.host.promise(
            "an upgrade starts no daemon that was stopped, and enables none that was disabled",
        );
        self.line.send()?;
        let start = "systemctl enable --now hearthd.socket hearthd.service";
        let seconds = self.witness.until_adopted(start)?;
        self.adopted("start after an upgrade", seconds)
    }

    /// Programs go, data and VM stay.
    fn removed(&mut self) -> anyhow::Result<()> {
        self.line.send()?;
        let said = self.host.check(&format!("{APT} remove hearth 2>&1"))?;
        self.without_package(&said)?;
        self.host
            .check("test -s /var/lib/hearth/hearth.db && test -s /etc/hearth/config")?;
        self.host.promise("remove: the daemon is stopped and says who lives on; data, configuration, VM and its connection stay");
        Ok(())
    }

    /// So does a purge while the VM lives, but for the configuration.
    fn purged(&mut self) -> anyhow::Result<()> {
        self.line.send()?;
        let said = self.host.check(&format!("{APT} purge hearth 2>&1"))?;
        self.without_package(&said)?;
        ensure!(
            said.contains("nothing in it is removed"),
            "purge does not say that data stays: {said}"
        );
        self.host
            .check("test -s /var/lib/hearth/hearth.db && ! test -e /etc/hearth")?;
        self.host.promise("purge with a living VM: its data stays and that is said; the VM and its connection go on");
        Ok(())
    }

    /// No program of Hearth is there, and the VM does not care.
    fn without_package(&mut self, said: &str) -> anyhow::Result<()> {
        ensure!(
            said.contains("go on running"),
            "nobody says that VMs go on: {said}"
        );
        no_daemon(self.host)?;
        let left = self
            .host
            .check("ls -d /usr/bin/hearth /usr/sbin/hearthd /usr/lib/hearth 2>/dev/null || true")?;
        ensure!(left.is_empty(), "programs that stay: {left}");
        self.witness.lives()?;
        self.line.receive()?;
        self.line.echo()?;
        let mut second = Line::open(self.host.published(0)?)?;
        second.echo()
    }

    /// An installation finds the VM again.
    fn comes_back(&mut self, after: &str, command: &str, package: &Package) -> anyhow::Result<()> {
        self.line.send()?;
        let seconds = self.witness.until_adopted(command)?;
        self.adopted(&format!("installation after {after}"), seconds)?;
        self.is_installed(package)?;
        enabled(self.host, "enabled")?;
        self.host.promise(&format!(
            "an installation after {after} starts the daemon, which adopts the VM that ran on"
        ));
        Ok(())
    }
}

/// A line of shell, and a client that asks the daemon again and again as long as it runs.
fn asked_meanwhile(command: &str) -> String {
    format!(
        "rm -f /run/asked; touch /run/asking; \
         while [ -e /run/asking ]; do hearth ps -q >/dev/null 2>>/run/asked; \
         [ $? = 0 ] && echo answered >>/run/asked || echo failed >>/run/asked; done & \
         {command}; status=$?; rm /run/asking; wait; [ $status = 0 ]"
    )
}

/// The process id of the daemon that runs, which is the installed program.
fn daemon(host: &Host) -> anyhow::Result<String> {
    let pid = host.check("systemctl show -p MainPID --value hearthd")?;
    let program = host.check(&format!("readlink /proc/{pid}/exe"))?;
    if program != "/usr/sbin/hearthd" {
        bail!("the daemon {pid} runs {program}");
    }
    Ok(pid)
}

/// What systemd says of the units' place in the boot.
fn enabled(host: &Host, state: &str) -> anyhow::Result<()> {
    for unit in ["hearthd.service", "hearthd.socket"] {
        let is = host.run(&format!("systemctl is-enabled {unit}"))?;
        ensure!(is.text() == state, "{unit} is {}, not {state}", is.text());
    }
    Ok(())
}

fn no_daemon(host: &Host) -> anyhow::Result<()> {
    for unit in ["hearthd.service", "hearthd.socket"] {
        let state = host.run(&format!("systemctl is-active {unit}"))?;
        ensure!(state.text() == "inactive", "{unit} is {}", state.text());
    }
    ensure!(
        !host.run("pgrep -x hearthd")?.success(),
        "a hearthd runs on"
    );
    Ok(())
}

/// Everything on the host that is called after Hearth or lies in its data folder.
pub(super) fn files(host: &Host) -> anyhow::Result<BTreeSet<String>> {
    Ok(host.check(NAMED)?.lines().map(str::to_owned).collect())
}

/// The last VM goes, the package is purged, and all is gone: data, name server, filters,
/// bridge, slice, and each file that was not there `before`.
pub(super) fn purged_to_the_ground(host: &Host, before: &BTreeSet<String>) -> anyhow::Result<()> {
    host.remove_all_vms()?;
    host.wait_settled()?;
    let said = host.run_for(&format!("{APT} purge hearth 2>&1"), VM_UP)?;
    ensure!(said.success(), "purge failed: {}", said.said());
    no_daemon(host)?;
    let slice = host.check("ls -d /sys/fs/cgroup/hearth.slice 2>/dev/null || true")?;
    ensure!(slice.is_empty(), "{slice} stays");
    let after = files(host)?;
    let came: Vec<_> = after.difference(before).map(String::as_str).collect();
    ensure!(came.is_empty(), "files that stay: {}", came.join(" "));
    Ok(())
}
