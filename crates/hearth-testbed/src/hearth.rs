//! Hearth on a host: how it is installed, asked and cleaned up after.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::host::Host;

/// How long a VM may take to be up. 10 s under nested KVM, more beside others.
pub const VM_UP: Duration = Duration::from_mins(8);
/// How long the daemon may take to answer.
pub const DAEMON_UP: Duration = Duration::from_mins(4);

/// As the package has it, for as long as there is none.
const UNIT: &str = "[Unit]
Description=Hearth
Wants=network-online.target
After=network-online.target systemd-networkd.service
StartLimitIntervalSec=0
RequiresMountsFor=/var/lib/hearth
[Service]
ExecStart=/usr/lib/hearth/hearthd
Restart=always
RestartSec=1
KillMode=process
[Install]
WantedBy=multi-user.target
";

impl Host {
    /// Installs Hearth from the seed disk and starts it: the package if there is one, else
    /// single files. Imports the kernel and the image `busybox`.
    ///
    /// # Errors
    /// When a step fails.
    pub fn install(&self) -> anyhow::Result<()> {
        if self.run("test -e /seed/hearth.deb")?.success() {
            return self.install_package("/seed/hearth.deb");
        }
        self.check(
            "mkdir -p /usr/lib/hearth && cd /seed/bin && \
             cp hearthd hearth-shim hearth-guest /usr/lib/hearth/ && cp hearth /usr/bin/",
        )?;
        self.write("/etc/systemd/system/hearthd.service", UNIT)?;
        self.check("systemctl daemon-reload && systemctl enable --now hearthd")?;
        self.furnish()
    }

    /// As [`Host::install`], from a package of the host's.
    ///
    /// # Errors
    /// When a step fails.
    pub fn install_package(&self, file: &str) -> anyhow::Result<()> {
        self.check(&format!("dpkg -i {}", quoted(file)))?;
        self.furnish()
    }

    /// What VMs are made of.
    fn furnish(&self) -> anyhow::Result<()> {
        self.wait_daemon()?;
        self.check("hearth kernel import /usr/share/hearth-testbed/kernel.deb")?;
        self.check("hearth image import /usr/share/hearth-testbed/busybox.tar busybox:1")?;
        Ok(())
    }

    /// Writes `/etc/hearth/config` and restarts the daemon.
    ///
    /// # Errors
    /// When the daemon does not come up with it.
    pub fn configure(&self, lines: &[&str]) -> anyhow::Result<()> {
        self.check("mkdir -p /etc/hearth")?;
        self.write("/etc/hearth/config", &(lines.join("\n") + "\n"))?;
        self.check("systemctl restart hearthd")?;
        self.wait_daemon()
    }

    /// From now on VMMs are the stand-in, which starts at once and has no guest: for
    /// scenarios about everything else.
    ///
    /// # Errors
    /// As [`Host::configure`].
    pub fn use_standin(&self) -> anyhow::Result<()> {
        self.evidence.fact("vmm", "the stand-in of hearth-shim");
        self.configure(&["QEMU_PATH=/seed/bin/hearth-vmm-standin", "KVM=off"])
    }

    /// The database has no damage. A copy is checked, taken while the daemon is stopped by a
    /// signal: it holds the file's lock.
    ///
    /// # Errors
    /// When SQLite finds some.
    pub fn database_is_whole(&self) -> anyhow::Result<()> {
        let said = self.check(
            "set -e; rm -rf /tmp/database && mkdir /tmp/database; \
             pid=$(systemctl show -p MainPID --value hearthd); kill -STOP $pid; \
             cp /var/lib/hearth/hearth.db* /tmp/database/ || copied=no; kill -CONT $pid; \
             test -z \"$copied\"; sqlite3 /tmp/database/hearth.db 'PRAGMA integrity_check'",
        )?;
        if said != "ok" {
            bail!("the database is damaged: {said}");
        }
        Ok(())
    }

    /// No VM has two VMMs: one process marked as VMM for each owner.
    ///
    /// # Errors
    /// When one has; it is named.
    pub fn one_vmm_each(&self) -> anyhow::Result<()> {
        let doubles = self.check(
            // Two programs for all processes: one for each takes minutes on an emulated host.
            "grep -lzx HEARTH_ROLE=vmm /proc/[0-9]*/environ 2>/dev/null | \
             xargs -r grep -hz ^HEARTH_OWNER= 2>/dev/null | tr '\\0' '\\n' | sort | uniq -d",
        )?;
        if !doubles.is_empty() {
            bail!("VMs with two VMMs: {doubles}");
        }
        Ok(())
    }

    /// No address and no number is leased to two VMs.
    ///
    /// # Errors
    /// When one is.
    pub fn leases_are_unique(&self) -> anyhow::Result<()> {
        let doubles = self.check(
            "hearth -o json ps -a | jq -r '.[].leases | to_entries[] | \"\\(.key) \\(.value)\"' | \
             sort | uniq -d",
        )?;
        if !doubles.is_empty() {
            bail!("leased twice: {doubles}");
        }
        Ok(())
    }

    /// Waits until the daemon answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_daemon(&self) -> anyhow::Result<()> {
        self.wait("hearthd", DAEMON_UP, || {
            self.check("hearth version").map(Some)
        })
        .map(drop)
    }

    /// Runs the command line client and parses its JSON.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn hearth(&self, words: &[&str]) -> anyhow::Result<Value> {
        let line = std::iter::once("hearth -o json".to_owned())
            .chain(words.iter().map(|word| quoted(word)))
            .collect::<Vec<_>>()
            .join(" ");
        let text = self.check(&line)?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{line} printed no JSON: {text}"))
    }

    /// A VM by its name; it need not exist.
    #[must_use]
    pub fn vm<'a>(&'a self, name: &'a str) -> Vm<'a> {
        Vm { host: self, name }
    }

    /// Creates and starts a VM of the image `busybox:1` that runs `script`.
    ///
    /// # Errors
    /// When Hearth refuses.
    pub fn start_vm<'a>(
        &'a self,
        name: &'a str,
        options: &[&str],
        script: &str,
    ) -> anyhow::Result<Vm<'a>> {
        let mut words = vec!["run", "-d", "--name", name];
        words.extend_from_slice(options);
        words.extend_from_slice(&["busybox:1", "sh", "-c", script]);
        let line = words.iter().map(|word| quoted(word)).collect::<Vec<_>>();
        self.check(&format!("hearth {}", line.join(" ")))?;
        Ok(self.vm(name))
    }

    /// Removes all VMs and waits until nothing is left to do.
    ///
    /// # Errors
    /// When they do not go.
    pub fn remove_all_vms(&self) -> anyhow::Result<()> {
        self.check("hearth ps -a -q | xargs -r hearth rm -f")?;
        self.wait("the end of all VMs", VM_UP, || {
            let vms = self.hearth(&["ps", "-a"])?;
            match vms.as_array().map(Vec::len) {
                Some(0) => Ok(Some(())),
                left => bail!("{left:?} are left"),
            }
        })
    }

    /// Waits until the daemon's plan is empty: the host is as it should be.
    ///
    /// # Errors
    /// When steps are left; they are named.
    pub fn wait_settled(&self) -> anyhow::Result<()> {
        self.wait("an empty plan", VM_UP, || {
            let plan = self.hearth(&["plan"])?;
            let steps = plan["steps"].as_array().context("a plan without steps")?;
            if !steps.is_empty() {
                bail!("left to do: {steps:?}");
            }
            Ok(Some(()))
        })
    }
}

/// A VM on a host.
#[derive(Debug, Clone, Copy)]
pub struct Vm<'a> {
    host: &'a Host,
    name: &'a str,
}

impl Vm<'_> {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
    }

    /// All that Hearth knows of it.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn inspect(&self) -> anyhow::Result<Value> {
        let mut all = self.host.hearth(&["inspect", self.name])?;
        Ok(all.get_mut(0).map(Value::take).unwrap_or_default())
    }

    /// Its phase.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn phase(&self) -> anyhow::Result<String> {
        Ok(self.inspect()?["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// Waits for a phase.
    ///
    /// # Errors
    /// When it does not come; the error says the phase and its reason.
    pub fn wait_phase(&self, phase: &str, deadline: Duration) -> anyhow::Result<Value> {
        let what = format!("{} to be {phase}", self.name);
        self.host.wait(&what, deadline, || {
            let vm = self.inspect()?;
            if vm["phase"] != phase {
                bail!("it is {}: {}", vm["phase"], vm["reason"]);
            }
            Ok(Some(vm))
        })
    }

    /// Waits until its VMM runs.
    ///
    /// # Errors
    /// See [`Vm::wait_phase`].
    pub fn wait_running(&self, deadline: Duration) -> anyhow::Result<Value> {
        self.wait_phase("running", deadline)
    }

    /// Waits until its guest answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_healthy(&self) -> anyhow::Result<Value> {
        let what = format!("{} to be healthy", self.name);
        self.host.wait(&what, VM_UP, || {
            let vm = self.inspect()?;
            if vm["phase"] != "running" || vm["health"] != "healthy" {
                bail!(
                    "it is {} and {}: {}",
                    vm["phase"],
                    vm["health"],
                    vm["reason"]
                );
            }
            Ok(Some(vm))
        })
    }

    /// The process id of its VMM.
    ///
    /// # Errors
    /// When it has none.
    pub fn pid(&self) -> anyhow::Result<i64> {
        self.inspect()?["pid"].as_i64().context("the VM has no VMM")
    }

    /// Runs a program in the guest and returns what it printed, trimmed.
    ///
    /// # Errors
    /// When it fails.
    pub fn exec(&self, script: &str) -> anyhow::Result<String> {
        self.host.check(&format!(
            "hearth exec {} sh -c {}",
            quoted(self.name),
            quoted(script)
        ))
    }

    /// How long its guest has been up, in seconds.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn uptime(&self) -> anyhow::Result<f64> {
        let text = self.exec("cut -d' ' -f1 /proc/uptime")?;
        text.parse()
            .with_context(|| format!("an uptime of {text:?}"))
    }
}

/// A word as the host's shell takes it.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("web-1"), "web-1");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
