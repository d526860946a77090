//! Commands on the host, by SSH: keys of the run's own, one connection shared by all
//! commands, opened anew after each boot.
//!
//! The shared connection is a process of its own ([`Connection`]): a master that a command
//! leaves behind would hold that command's output open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::process::{self, Background, Output, companion};
use crate::wait;

const STEP_DEADLINE: Duration = Duration::from_mins(1);

/// The shared connection of one boot.
#[derive(Debug)]
pub struct Connection {
    _master: Background,
}

/// How to reach one host.
#[derive(Debug, Clone)]
pub struct Ssh {
    keys: PathBuf,
    socket: PathBuf,
    port: u16,
}

impl Ssh {
    /// Makes the run's keys in `keys`: one for us, one for the host.
    ///
    /// # Errors
    /// When ssh-keygen fails or is missing.
    pub fn make_keys(keys: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(keys)?;
        for name in ["id", "ssh_host_ed25519_key"] {
            process::check(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f"])
                    .arg(keys.join(name)),
                STEP_DEADLINE,
            )
            .context("ssh-keygen is part of the package openssh-client")?;
        }
        fs::copy(keys.join("id.pub"), keys.join("authorized_keys"))?;
        let host = fs::read_to_string(keys.join("ssh_host_ed25519_key.pub"))?;
        fs::write(keys.join("known_hosts"), format!("testbed {host}"))?;
        Ok(())
    }

    /// The way to the host behind a loopback port, with the keys in `keys`.
    #[must_use]
    pub fn new(keys: &Path, sockets: &Path, port: u16) -> Self {
        Self {
            keys: keys.to_owned(),
            socket: sockets.join("ssh"),
            port,
        }
    }

    /// Runs a line of shell on the host. Its status is the output's status; 255 means that
    /// SSH failed.
    ///
    /// # Errors
    /// When the deadline passes.
    pub fn run(&self, line: &str, deadline: Duration) -> anyhow::Result<Output> {
        process::run(self.command(&[]).arg(line), deadline)
    }

    /// The command that connects, without what to run.
    #[must_use]
    pub fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command
            .args(options)
            .args(self.options())
            .arg("root@testbed");
        command
    }

    /// Copies a file to the host.
    ///
    /// # Errors
    /// When that fails or takes longer than the deadline.
    pub fn copy(&self, from: &Path, to: &str, deadline: Duration) -> anyhow::Result<()> {
        process::check(
            Command::new("scp")
                .args(self.options())
                .arg(from)
                .arg(format!("root@testbed:{to}")),
            deadline,
        )
        .map(drop)
    }

    /// Opens the connection that all commands share, as soon as the host answers.
    /// `still_on` ends the wait when there is nothing left to wait for.
    ///
    /// # Errors
    /// When the host does not answer within the deadline.
    pub fn connect(
        &self,
        log: &Path,
        deadline: Duration,
        mut still_on: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Connection> {
        // Of the boot before.
        drop(fs::remove_file(&self.socket));
        let mut trial: Option<Background> = None;
        let mut off = None;
        let connected = wait::until("the host's SSH server", deadline, || {
            if let Err(error) = still_on() {
                off = Some(error);
                return Ok(Some(false));
            }
            let ended = match &mut trial {
                Some(master) => master.ended()?.is_some(),
                None => true,
            };
            if ended {
                trial = Some(self.master(log)?);
            }
            Ok(self.socket.exists().then_some(true))
        })?;
        match (connected, trial, off) {
            (true, Some(master), _) => Ok(Connection { _master: master }),
            (_, _, Some(error)) => Err(error),
            _ => bail!("the SSH connection was lost at once"),
        }
    }

    fn master(&self, log: &Path) -> anyhow::Result<Background> {
        let log = fs::File::options().create(true).append(true).open(log)?;
        let mut command = companion("ssh");
        command
            .args(["-N", "-o", "ControlMaster=yes"])
            .args(self.options())
            .arg("root@testbed")
            .stdout(log.try_clone()?)
            .stderr(log);
        Background::start(&mut command, "the SSH connection")
    }

    fn options(&self) -> Vec<String> {
        let keys = self.keys.display();
        let mut options = vec!["-F".to_owned(), "none".to_owned()];
        for option in [
            format!("Port={}", self.port),
            "HostName=127.0.0.1".to_owned(),
            "HostKeyAlias=testbed".to_owned(),
            format!("IdentityFile={keys}/id"),
            format!("UserKnownHostsFile={keys}/known_hosts"),
            "GlobalKnownHostsFile=none".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "BatchMode=yes".to_owned(),
            "LogLevel=ERROR".to_owned(),
            // Cheap for an emulated CPU.
            "KexAlgorithms=curve25519-sha256".to_owned(),
            "Ciphers=chacha20-poly1305@openssh.com".to_owned(),
            "ConnectTimeout=60".to_owned(),
            "ServerAliveInterval=20".to_owned(),
            "ServerAliveCountMax=6".to_owned(),
            format!("ControlPath={}", self.socket.display()),
        ] {
            options.push("-o".to_owned());
            options.push(option);
        }
        options
    }
}
