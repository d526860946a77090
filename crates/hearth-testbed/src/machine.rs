//! The machine: QEMU and the server of its data disk, and what can happen to them.
//!
//! ```text
//!             power_on                    guest reboots, panics, powers off
//!   Off ────────────────► On ─────────────────────────────────────────────► Off
//!                          └── cut_power: SIGKILL of QEMU and of the disk ─► Off
//! ```
//!
//! Disks
//! - `root`: a qcow2 layer of the run's own over the shared image. What QEMU was given is
//!   not lost by a power cut, flushed or not.
//! - `data` (`/var/lib/hearth`): a raw file behind `nbdkit --filter=cache`, whose cache is
//!   the memory of that process: until the guest flushes, a write is there only. Killing
//!   the process loses it, as a disk's own cache is lost. The scenario `powercut-is-honest`
//!   proves both halves.
//! - `seed`: programs and keys, read-only.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::image::Image;
use crate::process::{self, Background, companion};
use crate::wait;

/// Size of the data disk, in bytes. The file is sparse.
const DATA_BYTES: u64 = 12 << 30;
/// Inodes of the data disk: enough for 200 VMs, and few enough to be used up by a scenario.
const DATA_INODES: &str = "32768";
/// How long preparing a disk may take.
const STEP_DEADLINE: Duration = Duration::from_mins(2);
/// How long a killed process may take to be gone; freeing 4 GiB takes a moment.
const DEATH_DEADLINE: Duration = Duration::from_mins(1);
/// The first of the host's TCP ports that are reachable from outside.
pub const PUBLISHED_FIRST: u16 = 18_000;
/// How many there are.
const PUBLISHED_COUNT: u16 = 4;

/// A machine with its disks. Dropping it ends its processes.
#[derive(Debug)]
pub struct Machine {
    image: Image,
    /// Disks, console and logs of the run.
    folder: PathBuf,
    /// Sockets: a short path of its own, for the sake of the length of their names.
    sockets: PathBuf,
    ssh_port: u16,
    published: Vec<u16>,
    memory_mib: u32,
    disk: Option<Background>,
    qemu: Option<Background>,
}

impl Machine {
    /// Makes the disks of a machine; it stays off.
    ///
    /// # Errors
    /// When a disk cannot be made.
    pub fn new(image: Image, folder: &Path, sockets: &Path) -> anyhow::Result<Self> {
        let layer = folder.join("root.qcow2");
        process::check(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                .arg(image.root())
                .arg(&layer),
            STEP_DEADLINE,
        )?;
        let data = folder.join("data.raw");
        fs::File::create(&data)?.set_len(DATA_BYTES)?;
        process::check(
            Command::new("mkfs.ext4")
                .args([
                    "-q",
                    "-F",
                    "-m",
                    "0",
                    "-L",
                    "testbed-data",
                    "-N",
                    DATA_INODES,
                ])
                .arg(&data),
            STEP_DEADLINE,
        )?;
        let mut ports = free_ports(1 + PUBLISHED_COUNT)?;
        let ssh_port = ports.pop().context("no port")?;
        Ok(Self {
            image,
            folder: folder.to_owned(),
            sockets: sockets.to_owned(),
            ssh_port,
            published: ports,
            memory_mib: 4096,
            disk: None,
            qemu: None,
        })
    }

    /// The loopback port that leads to the host's SSH server.
    #[must_use]
    pub fn ssh_port(&self) -> u16 {
        self.ssh_port
    }

    /// The loopback port that leads to port `PUBLISHED_FIRST + index` of the host.
    #[must_use]
    pub fn published(&self, index: usize) -> Option<u16> {
        self.published.get(index).copied()
    }

    /// The file with all that the serial console said.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// Switches the machine on.
    ///
    /// # Errors
    /// When it is on, or QEMU or the disk's server cannot be started.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        if self.qemu.is_some() {
            bail!("the machine is on");
        }
        if self.disk.is_none() {
            self.disk = Some(self.serve_disk()?);
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("qemu.log"))?;
        let mut command = self.qemu();
        command.stdout(log.try_clone()?).stderr(log);
        self.qemu = Some(Background::start(&mut command, "QEMU")?);
        Ok(())
    }

    /// Fails if QEMU has ended, with what it said.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn still_on(&mut self) -> anyhow::Result<()> {
        let ended = match &mut self.qemu {
            Some(qemu) => qemu.ended()?,
            None => bail!("the machine is off"),
        };
        if let Some(status) = ended {
            self.qemu = None;
            let log = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
            bail!(
                "QEMU ended ({status}): {}; the console is {}",
                log.lines().last().unwrap_or("it said nothing"),
                self.console().display()
            );
        }
        Ok(())
    }

    /// Waits until the guest has ended QEMU, by a reboot, a panic or a power off. The disk
    /// keeps its power.
    ///
    /// # Errors
    /// When that does not happen within the deadline.
    pub fn wait_off(&mut self, deadline: Duration) -> anyhow::Result<()> {
        if let Some(qemu) = &mut self.qemu {
            qemu.wait(deadline)?;
        }
        self.qemu = None;
        Ok(())
    }

    /// Pulls the plug: QEMU and the disk's server are killed, the latter with its cache.
    ///
    /// # Errors
    /// When a killed process does not go away.
    pub fn cut_power(&mut self) -> anyhow::Result<()> {
        // QEMU first: the disk must not answer its guest with errors, which no disk does.
        for mut process in [self.qemu.take(), self.disk.take()].into_iter().flatten() {
            process.kill();
            process.wait(DEATH_DEADLINE)?;
        }
        Ok(())
    }

    fn disk_socket(&self) -> PathBuf {
        self.sockets.join("data.nbd")
    }

    fn serve_disk(&self) -> anyhow::Result<Background> {
        let socket = self.disk_socket();
        // Of the server that was killed.
        drop(fs::remove_file(&socket));
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("nbdkit.log"))?;
        let mut command = companion("nbdkit");
        command
            .args(["--foreground", "--unix"])
            .arg(&socket)
            .args(["--filter=cache", "file"])
            .arg(format!("file={}", self.folder.join("data.raw").display()))
            .arg("cache=writeback")
            // The cache's file is unlinked as soon as it is made: it dies with the server.
            .env("TMPDIR", &self.folder)
            .stdout(Stdio::null())
            .stderr(log);
        let mut server = Background::start(&mut command, "nbdkit")?;
        wait::until("the disk's server", STEP_DEADLINE, || {
            if let Some(status) = server.ended()? {
                bail!("nbdkit ended ({status})");
            }
            Ok(socket.exists().then_some(()))
        })?;
        Ok(server)
    }

    fn qemu(&self) -> Command {
        let mut command = companion("qemu-system-x86_64");
        let console = self.console();
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", "2", "-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(self.image.kernel())
            .arg("-initrd")
            .arg(self.image.initrd())
            .args(["-append", self.image.cmdline()])
            .arg("-chardev")
            .arg(format!(
                "file,id=console,append=on,path={}",
                escaped(&console)
            ))
            .args(["-serial", "chardev:console"])
            .args(["-device", "virtio-rng-pci"])
            .args(["-device", "virtio-net-pci,netdev=net", "-netdev"])
            .arg(self.network());
        for (serial, backend) in self.disks() {
            command
                .arg("-blockdev")
                .arg(backend.to_string())
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive={serial},serial={serial}"));
        }
        command
    }

    /// A network that leads nowhere but to the forwarded ports.
    fn network(&self) -> String {
        let mut text = format!(
            "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22",
            self.ssh_port
        );
        for (port, inside) in self.published.iter().zip(PUBLISHED_FIRST..) {
            text.push_str(&format!(",hostfwd=tcp:127.0.0.1:{port}-:{inside}"));
        }
        text
    }

    fn disks(&self) -> [(&'static str, serde_json::Value); 3] {
        let file = |name: &str| {
            serde_json::json!({
                "driver": "file",
                "filename": self.folder.join(name).display().to_string(),
            })
        };
        let root = serde_json::json!({
            "driver": "qcow2", "node-name": "root", "file": file("root.qcow2"),
            "backing": {
                "driver": "raw", "read-only": true,
                "file": {
                    "driver": "file", "read-only": true,
                    "filename": self.image.root().display().to_string(),
                },
            },
        });
        let data = serde_json::json!({
            "driver": "nbd", "node-name": "data",
            "server": { "type": "unix", "path": self.disk_socket().display().to_string() },
        });
        let seed = serde_json::json!({
            "driver": "raw", "node-name": "seed", "read-only": true,
            "file": { "driver": "file", "read-only": true,
                "filename": self.folder.join("seed.ext4").display().to_string() },
        });
        [("root", root), ("data", data), ("seed", seed)]
    }
}

/// QEMU's options are separated by commas; a comma in a value is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Ports of loopback that nobody listens on. They are only free at this moment; QEMU says
/// so if one is taken before it starts.
fn free_ports(count: u16) -> anyhow::Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()
        .context("no free port on loopback")?;
    held.iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}
