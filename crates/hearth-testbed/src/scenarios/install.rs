//! Install on a bare Debian, as `docs/operations.md` has it: apt brings what the package
//! needs, the service runs, the host's own kernel becomes the guests', the first VM is up.
//!
//! The host has its init, a kernel and an SSH server, and reaches no mirror. Its package
//! source is a folder of its own disk (`image/offer.sh`), made with the image: the index
//! lists all that the package wants, also what is only recommended by something it wants;
//! the files are there of what it cannot do without. So apt resolves both ways of
//! installing, and goes the documented one to its end.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{boot, upgrade};
use crate::hearth::VM_UP;
use crate::host::Host;
use crate::machine::PUBLISHED_FIRST;

/// What the package has to bring, by a file of each.
const BROUGHT: [&str; 6] = [
    "/usr/sbin/nft",
    "/usr/sbin/dnsmasq",
    "/usr/sbin/conntrack",
    "/usr/bin/qemu-system-x86_64",
    "/usr/bin/dbus-daemon",
    "/etc/ssl/certs/ca-certificates.crt",
];
/// What the package has for people and their shells.
const FOR_PEOPLE: [&str; 5] = [
    "/usr/share/man/man1/hearth.1.gz",
    "/usr/share/man/man8/hearthd.8.gz",
    "/usr/share/bash-completion/completions/hearth",
    "/usr/share/zsh/vendor-completions/_hearth",
    "/usr/share/fish/vendor_completions.d/hearth.fish",
];
/// Unpacking and configuring packages on an emulated CPU.
const APT: Duration = Duration::from_mins(20);

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    nothing_is_there(host)?;
    let files = upgrade::files(host)?;
    let begun = Instant::now();
    apt(host)?;
    service(host)?;
    host.check("hearth kernel import")?;
    host.check("hearth image import /usr/share/hearth-testbed/busybox.tar busybox:1")?;
    boot::doctor(host)?;
    boot::first_vm(host)?;
    host.measure(
        "apt-get install to a first healthy VM",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    second_vm(host)?;
    what_an_operator_sees(host)?;
    upgrade::purged_to_the_ground(host, &files)?;
    host.promise("a purge leaves no file, no daemon and no slice of Hearth");
    Ok(())
}

fn nothing_is_there(host: &Host) -> anyhow::Result<()> {
    let there = host.check(&format!("ls {} 2>/dev/null || true", BROUGHT.join(" ")))?;
    ensure!(there.is_empty(), "the host is not bare, it has {there}");
    let state = host.check("systemctl is-system-running")?;
    ensure!(state == "running", "systemd says the host is {state}");
    let packages = host.check("dpkg-query -W | wc -l")?;
    host.evidence.fact("packages before", &packages);
    Ok(())
}

fn apt(host: &Host) -> anyhow::Result<()> {
    host.check("apt-get -q update")?;
    let resolved = |options: &str| -> anyhow::Result<f64> {
        let line = format!("apt-get -s install {options} | grep -c ^Inst");
        Ok(host.check(&line)?.parse()?)
    };
    let all = resolved("/seed/hearth.deb")?;
    host.measure("with everything recommended", all, "packages");
    let lean = "--no-install-recommends /seed/hearth.deb qemu-system-x86";
    host.measure("for a server", resolved(lean)?, "packages");
    host.promise("apt resolves the package on a bare Debian, with and without what is recommended");

    let begun = Instant::now();
    let line = format!("DEBIAN_FRONTEND=noninteractive apt-get -q -y install {lean} 2>&1");
    let output = host.run_for(&line, APT)?;
    ensure!(output.success(), "apt-get install: {}", output.said());
    host.measure("apt-get install", begun.elapsed().as_secs_f64(), "s");
    host.check(&format!(
        "ls {} {}",
        BROUGHT.join(" "),
        FOR_PEOPLE.join(" ")
    ))?;
    ensure!(
        host.check("dpkg --audit")?.is_empty(),
        "dpkg has found something half done"
    );
    host.promise("one apt-get install brings Hearth, a VMM and all that both need, man pages and completions");
    Ok(())
}

/// Nothing had to be started by hand.
fn service(host: &Host) -> anyhow::Result<()> {
    host.wait_daemon()?;
    for unit in ["hearthd.service", "hearthd.socket"] {
        host.check(&format!("systemctl is-active {unit}"))?;
        host.check(&format!("systemctl is-enabled {unit}"))?;
    }
    let socket = host.check("stat -c '%U:%G %a' /run/hearth/hearthd.sock")?;
    ensure!(socket == "root:hearth 660", "the socket is {socket}");
    let config = host.check("stat -c '%U:%G %a' /etc/hearth/config")?;
    ensure!(config == "root:root 600", "the configuration is {config}");
    host.promise("the service runs, is enabled, and the group hearth may use its socket");
    Ok(())
}

/// One that others reach through a published port, which has its name from the name server.
fn second_vm(host: &Host) -> anyhow::Result<()> {
    let port = format!("{PUBLISHED_FIRST}:7");
    let echo = host.start_vm(
        "echo",
        &["-m", "128MiB", "-p", &port],
        "exec nc -ll -p 7 -e cat",
    )?;
    echo.wait_healthy()?;
    host.line(0)?;
    host.vm("web").exec("nslookup echo.hearth.internal")?;
    host.promise(
        "a published port is reached from another machine, and guests find each other by name",
    );
    Ok(())
}

/// Status, journal and failed units after the first VMs.
fn what_an_operator_sees(host: &Host) -> anyhow::Result<()> {
    host.wait("the status line", VM_UP, || {
        let line = host.check("systemctl show -p StatusText --value hearthd")?;
        ensure!(line == "2 of 2 VMs run", "it says {line:?}");
        Ok(Some(()))
    })?;
    let status = host.check("systemctl status --no-pager hearthd")?;
    ensure!(status.contains("active (running)"), "{status}");
    host.check("hearth logs --daemon -n 20 | grep -q .")?;
    // The guests' name server says truly that this host has none to ask.
    let complaints = host.check(
        "journalctl -q -b --no-pager -p warning -o short -u hearthd -u hearthd.socket -u 'hearth-vm-*' | \
         grep -v 'no servers found in /etc/resolv.conf' || true",
    )?;
    ensure!(complaints.is_empty(), "the journal has: {complaints}");
    let failed = host.check("systemctl list-units --failed --plain --no-legend")?;
    ensure!(failed.is_empty(), "units failed: {failed}");
    let vm = host.vm("web").inspect()?;
    let id = vm["id"].as_str().context("a VM without an id")?;
    host.check(&format!("systemctl is-active hearth-vm-{id}.service"))?;
    host.promise("status, journal and units are clean: no warning, nothing failed, each VM in a unit of its own");
    Ok(())
}
