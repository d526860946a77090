//! Runs a scenario: makes the host, prepares it, audits it before and after, writes the
//! evidence, and collects what explains a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::evidence::say;
use crate::hearth::VM_UP;
use crate::host::Host;
use crate::image::{self, Kind};
use crate::package::Package;
use crate::paths;
use crate::programs::Programs;
use crate::scenarios::{Prepared, Scenario};

/// What is asked of a host whose scenario has failed.
const EXPLAIN: [(&str, &str); 8] = [
    ("journal.txt", "journalctl -b --no-pager -o short-precise"),
    (
        "journal-before.txt",
        "journalctl -b -1 --no-pager -o short-precise | tail -n 3000",
    ),
    ("doctor.txt", "timeout 60 hearth doctor"),
    (
        "vms.json",
        "timeout 60 hearth ps -a -q | xargs -r timeout 60 hearth inspect",
    ),
    (
        "plan.txt",
        "timeout 60 hearth plan; timeout 60 hearth events | tail -n 300",
    ),
    (
        "systemd.txt",
        "systemctl status --no-pager -l hearthd 'hearth*'; systemctl list-units --failed; systemd-cgls --no-pager",
    ),
    (
        "host.txt",
        "ps axfo pid,ppid,stat,etime,args; ip addr; nft list ruleset; df -h; dmesg | tail -n 200",
    ),
    (
        "consoles.txt",
        "tail -n 200 /var/lib/hearth/vms/*/console.log /var/lib/hearth/vms/*/vmm.log",
    ),
];
/// How long one of these may take.
const EXPLAIN_DEADLINE: Duration = Duration::from_mins(2);

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The scenario.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: Option<anyhow::Error>,
}

/// What all runs of one call share.
#[derive(Debug)]
pub struct Runner {
    /// What is under test.
    pub programs: Programs,
    /// Whether the disks of a run stay when it has ended.
    pub keep: bool,
}

impl Runner {
    /// Runs one scenario.
    ///
    /// # Errors
    /// When its folder or its evidence cannot be written. A scenario that fails is an
    /// outcome.
    pub fn run(&self, scenario: &'static Scenario) -> anyhow::Result<Outcome> {
        say(&format!("== {}: {}", scenario.name, scenario.proves));
        let folder = fresh_folder(scenario.name)?;
        let image = image::obtain(kind(scenario.prepared), &say)?;
        let programs = self.programs_for(scenario)?;
        let began = jiff::Timestamp::now();
        let begun = Instant::now();
        let mut host = Host::new(&image, &programs, &folder)?;
        let result = story(&mut host, scenario);
        if let Err(error) = &result {
            say(&format!("  ✗ {error:#}"));
            explain(&host, &folder);
        }
        let error = result.err();
        host.evidence.fact("image", &image.name());
        host.evidence.write(
            &paths::results().join(format!("{}.json", scenario.name)),
            (scenario.name, scenario.proves),
            began,
            error.as_ref(),
        )?;
        drop(host);
        if !self.keep {
            remove_disks(&folder);
        }
        Ok(Outcome {
            name: scenario.name,
            took: begun.elapsed(),
            error,
        })
    }

    /// A host in a folder of its own, booted and with Hearth installed, for people.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn shell_host(&self) -> anyhow::Result<(Host, PathBuf)> {
        let folder = fresh_folder("shell")?;
        let image = image::obtain(Kind::Equipped, &say)?;
        let mut host = Host::new(&image, &self.programs, &folder)?;
        host.boot()?;
        host.install()?;
        Ok((host, folder))
    }

    /// What is under test, with the package if the scenario is about that.
    fn programs_for(&self, scenario: &Scenario) -> anyhow::Result<Programs> {
        let mut programs = self.programs.clone();
        if scenario.packaged && programs.package.is_none() {
            say("building the package (debug)");
            programs.package = Some(Package::build()?.path);
        }
        Ok(programs)
    }
}

/// The image on which a scenario is told.
fn kind(prepared: Prepared) -> Kind {
    match prepared {
        Prepared::Minimal => Kind::Minimal,
        Prepared::Bare | Prepared::Installed | Prepared::StandIn => Kind::Equipped,
    }
}

fn story(host: &mut Host, scenario: &Scenario) -> anyhow::Result<()> {
    host.boot()?;
    facts(host)?;
    if matches!(scenario.prepared, Prepared::Bare | Prepared::Minimal) {
        return (scenario.tell)(host);
    }
    host.install()?;
    host.evidence.event("Hearth is installed");
    if scenario.prepared == Prepared::StandIn {
        host.use_standin()?;
    }
    first_vm(host, scenario.prepared)?;
    host.remove_all_vms()?;
    host.wait_settled()?;
    let before = host.audit()?;
    host.evidence.event(&format!(
        "audited: {} objects; now the scenario",
        before.len()
    ));
    (scenario.tell)(host)?;
    host.remove_all_vms()?;
    host.wait_settled()?;
    host.expect_as(&before)?;
    host.promise("nothing is left behind and nothing foreign is gone: processes, units, cgroups, links, rules, devices, mounts, namespaces, sockets, files");
    Ok(())
}

/// One VM, so that what all VMs share is there before the first audit.
fn first_vm(host: &Host, prepared: Prepared) -> anyhow::Result<()> {
    let vm = host.start_vm("first", &[], "exec sleep 1000000")?;
    let seen = if prepared == Prepared::Installed {
        vm.wait_healthy()?
    } else {
        vm.wait_running(VM_UP)?
    };
    for fact in ["accelerator", "driver"] {
        host.evidence.fact(fact, seen[fact].as_str().unwrap_or("?"));
    }
    Ok(())
}

fn facts(host: &Host) -> anyhow::Result<()> {
    for (name, line) in [
        ("kernel", "uname -r"),
        ("systemd", "systemctl --version | head -n 1"),
        ("qemu", "qemu-system-x86_64 --version | head -n 1"),
        ("hearth", "/seed/bin/hearthd --version"),
        (
            "cpu",
            "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c",
        ),
    ] {
        host.evidence.fact(name, &host.check(line)?);
    }
    Ok(())
}

/// Collects what explains a failure. What cannot be had is left out.
fn explain(host: &Host, folder: &Path) {
    for (name, line) in EXPLAIN {
        let text = match host.run_for(line, EXPLAIN_DEADLINE) {
            // SSH's own failure: the host does not answer, and will not for the next.
            Ok(output) if output.status.code() == Some(255) => {
                say(&format!("    the host does not answer: {}", output.said()));
                return;
            }
            Ok(output) => output.stdout + &output.stderr,
            Err(error) => format!("{error:#}\n"),
        };
        drop(fs::write(folder.join(name), text));
    }
    say(&format!("    what explains it is in {}", folder.display()));
}

fn fresh_folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = paths::results().join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove the last run's {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn remove_disks(folder: &Path) {
    for name in ["root.qcow2", "data.raw", "seed.ext4", "put"] {
        // Not all of them need be there.
        drop(fs::remove_file(folder.join(name)));
    }
    drop(fs::remove_dir_all(folder.join("keys")));
}
