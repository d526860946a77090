//! A host and what can happen to it: the words in which scenarios are told.
//!
//! ```text
//! host.boot()?;                      host.run("systemctl restart hearthd")?;
//! host.reboot()?;                    host.hearth(&["run", "-d", "--name", "web", "busybox"])?;
//! host.panic()?;                     host.vm("web").wait_healthy()?;
//! host.power_cut()?;                 host.measure("time to adopt", 12.0, "ms");
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::evidence::Evidence;
use crate::image::Image;
use crate::machine::Machine;
use crate::package::Package;
use crate::process::Output;
use crate::programs::Programs;
use crate::ssh::{Connection, Ssh};
use crate::wait;

/// A command on the host. Generous: emulation on a machine that others use.
pub const COMMAND: Duration = Duration::from_mins(5);
/// From power-on to a system that is up. 18 s alone, minutes beside others.
const BOOT: Duration = Duration::from_mins(12);
/// From the word to the end of QEMU.
const SHUTDOWN: Duration = Duration::from_mins(8);

/// A host in a VM.
#[derive(Debug)]
pub struct Host {
    machine: Machine,
    ssh: Ssh,
    connection: Option<Connection>,
    boot_id: Option<String>,
    folder: PathBuf,
    package: Option<PathBuf>,
    /// What the run shows in the end.
    pub evidence: Evidence,
    // The last field: its folder goes when all that uses it has gone.
    sockets: tempfile::TempDir,
}

impl Host {
    /// Makes a host that is off, with all its files in `folder`.
    ///
    /// # Errors
    /// When a disk or a key cannot be made.
    pub fn new(image: &Image, programs: &Programs, folder: &Path) -> anyhow::Result<Self> {
        let keys = folder.join("keys");
        Ssh::make_keys(&keys)?;
        programs.seed(&keys, folder, &folder.join("seed.ext4"))?;
        let sockets = tempfile::Builder::new().prefix("testbed-").tempdir()?;
        let machine = Machine::new(image.clone(), folder, sockets.path())?;
        let ssh = Ssh::new(&keys, sockets.path(), machine.ssh_port());
        Ok(Self {
            machine,
            ssh,
            connection: None,
            boot_id: None,
            folder: folder.to_owned(),
            package: programs.package.clone(),
            evidence: Evidence::default(),
            sockets,
        })
    }

    /// Switches the host on and waits until systemd says that it is up.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boot(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.machine.power_on()?;
        self.wait_up(begun)
    }

    /// Reboots it cleanly.
    ///
    /// # Errors
    /// When it does not go down, or does not come up again.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        // The connection may be cut before the answer.
        drop(self.ssh.run("systemctl reboot", COMMAND));
        self.down_and_up("reboot")
    }

    /// Lets its kernel panic. Nothing is written before that.
    ///
    /// # Errors
    /// As [`Host::reboot`].
    pub fn panic(&mut self) -> anyhow::Result<()> {
        // The command never ends by itself.
        let mut command = self.ssh.command(&["-f"]);
        command.arg("echo c > /proc/sysrq-trigger");
        drop(crate::process::run(&mut command, Duration::from_secs(20)));
        self.down_and_up("panic")
    }

    /// Pulls the plug, puts it back and waits until the host is up.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn power_cut(&mut self) -> anyhow::Result<()> {
        self.machine.cut_power()?;
        self.connection = None;
        self.evidence.event("power cut");
        self.boot()
    }

    fn down_and_up(&mut self, what: &str) -> anyhow::Result<()> {
        self.machine
            .wait_off(SHUTDOWN)
            .with_context(|| format!("after a {what}"))?;
        self.connection = None;
        self.evidence.event(what);
        self.boot()
    }

    fn wait_up(&mut self, begun: Instant) -> anyhow::Result<()> {
        let log = self.folder.join("ssh.log");
        let machine = &mut self.machine;
        let connection = self.ssh.connect(&log, BOOT, || machine.still_on())?;
        self.connection = Some(connection);
        let boot_id = self.check("cat /proc/sys/kernel/random/boot_id")?;
        if self.boot_id.as_ref() == Some(&boot_id) {
            bail!("the host answers from the boot before");
        }
        self.boot_id = Some(boot_id);
        // Ends when all jobs of the boot are done; "degraded" is told by the failed units.
        let state = self.run_for("systemctl is-system-running --wait", BOOT)?;
        let failed = self.check("systemctl list-units --failed --plain --no-legend")?;
        if !failed.is_empty() {
            bail!("units failed during boot ({}): {failed}", state.text());
        }
        self.evidence
            .event(&format!("up after {:.1} s", begun.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Runs a line of shell on the host, whatever its status.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn run(&self, line: &str) -> anyhow::Result<Output> {
        self.run_for(line, COMMAND)
    }

    /// As [`Host::run`], with a deadline of its own.
    ///
    /// # Errors
    /// See there.
    pub fn run_for(&self, line: &str, deadline: Duration) -> anyhow::Result<Output> {
        self.ssh.run(line, deadline)
    }

    /// Runs a line of shell that must succeed, and returns what it printed, trimmed.
    ///
    /// # Errors
    /// When it fails; the error holds what it said.
    pub fn check(&self, line: &str) -> anyhow::Result<String> {
        let output = self.run(line)?;
        if !output.success() {
            bail!("on the host: {line} ({}): {}", output.status, output.said());
        }
        Ok(output.text().to_owned())
    }

    /// Copies a file to the host.
    ///
    /// # Errors
    /// When that fails.
    pub fn put(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        self.ssh.copy(from, to, COMMAND)
    }

    /// Writes a file of the host.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, to: &str, content: &str) -> anyhow::Result<()> {
        let local = self.folder.join("put");
        fs::write(&local, content)?;
        self.put(&local, to)
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// When the deadline passes; the error ends with what the condition said last.
    pub fn wait<T>(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        wait::until(what, deadline, condition)
    }

    /// Commands for another thread.
    #[must_use]
    pub fn shell(&self) -> Ssh {
        self.ssh.clone()
    }

    /// Where port `PUBLISHED_FIRST + index` of the host is reached from here.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn published(&self, index: usize) -> anyhow::Result<std::net::SocketAddr> {
        let port = self
            .machine
            .published(index)
            .context("no such published port")?;
        Ok(std::net::SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Writes down what has just been shown.
    pub fn promise(&self, text: &str) {
        self.evidence.promise(text);
    }

    /// Writes down a figure.
    pub fn measure(&self, name: &str, value: f64, unit: &str) {
        self.evidence.measure(name, value, unit);
    }

    /// Cuts the power at this moment and leaves the host off; [`Host::boot`] goes on.
    ///
    /// # Errors
    /// When a killed process does not go away.
    pub fn pull_plug(&mut self) -> anyhow::Result<()> {
        self.machine.cut_power()?;
        self.connection = None;
        self.evidence.event("power cut");
        Ok(())
    }

    /// The package under test; on the host it is `/seed/hearth.deb`.
    ///
    /// # Errors
    /// When single programs are under test.
    pub fn package(&self) -> anyhow::Result<Package> {
        let path = self.package.as_deref();
        Package::read(path.context("there is no package under test")?)
    }

    /// The folder of the run.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the run's sockets are.
    #[must_use]
    pub fn sockets(&self) -> &Path {
        self.sockets.path()
    }
}
