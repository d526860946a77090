//! The same steps through `virsh` and through hearthd, in one run. libvirtd is the bench's
//! own: its state lies in a mount namespace of its own, its socket in the bench's folder.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, WaitOptions};
use serde_json::json;

use super::rig::{Rig, Vmm, until};
use super::{Case, Context, Unit, detect, ps, start, tool};

/// Domains that live while a daemon is restarted.
const DOMAINS: usize = 40;
/// Domains that are defined for a list.
const DEFINED: usize = 1000;
/// Where libvirt keeps what it must not share with the host's own.
const FOLDERS: &str =
    "/run/libvirt /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt";
const NAME: &str = "bench";

/// A request to a VM that runs.
pub(crate) fn create(context: &Context) -> anyhow::Result<Vec<Case>> {
    let rig = Rc::new(RefCell::new(qemu_rig(context)?));
    let ours = start::through(&rig, "hearth", "none");
    let theirs = beside(context, "virsh create", |libvirt| {
        // The first one asks QEMU for what it can.
        libvirt.create(NAME, false)?;
        libvirt.virsh(["destroy", NAME])?;
        let after = Rc::clone(&libvirt);
        let case = Case::new("virsh create", move || libvirt.create(NAME, false));
        Ok(case.after(move || after.virsh(["destroy", NAME]).map(drop)))
    });
    Ok(vec![ours, theirs])
}

/// A killed VMM that is noticed.
pub(crate) fn killed(context: &Context) -> anyhow::Result<Vec<Case>> {
    let rig = Rc::new(RefCell::new(qemu_rig(context)?));
    let ours = detect::told(&rig, "hearth, event stream", detect::Since::Kill);
    let theirs = beside(context, "virsh event", |libvirt| {
        let before = Rc::clone(&libvirt);
        let case = Case::measured("virsh event", Unit::Seconds, move || libvirt.notice());
        Ok(case.before(move || before.create(NAME, false)))
    });
    Ok(vec![ours, theirs])
}

/// A daemon that comes back to VMs that live.
pub(crate) fn restart(context: &Context) -> anyhow::Result<Vec<Case>> {
    let mut rig = qemu_rig(context)?;
    for number in 0..DOMAINS {
        let name = format!("{NAME}-{number}");
        rig.create(&name, "none", true)?;
        rig.wait_running(&name)?;
        // A guest that boots would take the processor from what is measured.
        rig.post(&format!("/v1/vms/{name}/pause?wait=true"), &json!({}))?;
    }
    let ours = Case::measured("hearth", Unit::Seconds, move || {
        rig.stop()?;
        let took = rig.spawn()?;
        let vms = rig.get("/v1/vms")?;
        let vms = vms["items"].as_array().into_iter().flatten();
        let living = vms.filter(|vm| vm["phase"] == "paused").count();
        ensure!(
            living == DOMAINS,
            "{living} VMs are there after the restart"
        );
        Ok(took.as_secs_f64())
    });
    let theirs = beside(context, "libvirtd", |libvirt| {
        (0..DOMAINS).try_for_each(|number| libvirt.create(&format!("{NAME}-{number}"), true))?;
        Ok(Case::measured("libvirtd", Unit::Seconds, move || {
            libvirt.stop()?;
            let begun = Instant::now();
            libvirt.spawn()?;
            libvirt.answers(DOMAINS)?;
            Ok(begun.elapsed().as_secs_f64())
        }))
    });
    Ok(vec![ours, theirs])
}

/// A list of VMs that are defined.
pub(crate) fn list(context: &Context) -> anyhow::Result<Vec<Case>> {
    let rig = Rig::new(context, &context.folder.join("rig"), Vmm::Standin)?;
    ps::define(&rig)?;
    let ours = ps::listing(rig);
    let theirs = beside(context, "virsh list --all", |libvirt| {
        for number in 0..DEFINED {
            let file = libvirt.description(&format!("{NAME}-{number}"))?;
            libvirt.virsh(["define", &file])?;
        }
        Ok(Case::new("virsh list --all", move || {
            let lines = libvirt.virsh(["list", "--all"])?.lines().count();
            ensure!(lines > DEFINED, "virsh shows {lines} lines");
            Ok(())
        }))
    });
    Ok(vec![ours, theirs])
}

fn qemu_rig(context: &Context) -> anyhow::Result<Rig> {
    Rig::new(context, &context.folder.join("rig"), Vmm::Qemu)
}

/// libvirt's case; without libvirt, a case that says why not.
fn beside(
    context: &Context,
    name: &str,
    case: impl FnOnce(Rc<Libvirt>) -> anyhow::Result<Case>,
) -> Case {
    Libvirt::new(&context.folder)
        .and_then(|libvirt| case(Rc::new(libvirt)))
        .unwrap_or_else(|error| Case::not_here(name, format!("{error:#}")))
}

struct Libvirt {
    folder: PathBuf,
    /// Keeps the mount namespace.
    holder: RefCell<Child>,
    daemon: RefCell<Option<Child>>,
}

impl Libvirt {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("lv");
        std::fs::create_dir_all(folder.join("s"))?;
        tool("libvirtd", ["--version"]).context("libvirt is not installed")?;
        tool("virsh", ["--version"]).context("libvirt's clients are not installed")?;
        let config = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n",
            folder.join("s").display()
        );
        std::fs::write(folder.join("libvirtd.conf"), config)?;
        let script = format!(
            "set -e; for d in {FOLDERS}; do mkdir -p $d; mount -t tmpfs tmpfs $d; done; \
             mkdir -p /etc/libvirt/qemu /var/lib/libvirt/qemu; \
             printf 'stdio_handler = \"file\"\\nsecurity_driver = \"none\"\\nuser = \"root\"\\n\
             group = \"root\"\\ncgroup_controllers = []\\n' >/etc/libvirt/qemu.conf; \
             echo ready; exec cat"
        );
        // What libvirtd puts in the background becomes the bench's, to be reaped: see `reap`.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot become the reaper of libvirt's QEMUs")?;
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let mut line = String::new();
        let ready = holder.stdout.take().context("no output")?;
        BufReader::new(ready).read_line(&mut line)?;
        let libvirt = Self {
            folder,
            holder: RefCell::new(holder),
            daemon: RefCell::new(None),
        };
        ensure!(
            line.trim() == "ready",
            "libvirt's folders cannot be made private"
        );
        libvirt.spawn()?;
        libvirt.answers(0)?;
        Ok(libvirt)
    }

    fn spawn(&self) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.folder.join("log"))?;
        let child = Command::new("nsenter")
            .args([
                "--mount",
                "--target",
                &self.holder.borrow().id().to_string(),
            ])
            .args(["libvirtd", "-f"])
            .arg(self.folder.join("libvirtd.conf"))
            .arg("-p")
            .arg(self.folder.join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot run libvirtd")?;
        *self.daemon.borrow_mut() = Some(child);
        Ok(())
    }

    fn stop(&self) -> anyhow::Result<()> {
        if let Some(mut child) = self.daemon.borrow_mut().take() {
            let pid = Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            child.wait()?;
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let socket = self.folder.join("s/libvirt-sock");
        let mut command = Command::new(program);
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        command.env("LIBVIRT_DEFAULT_URI", uri);
        command
    }

    fn virsh<const N: usize>(&self, args: [&str; N]) -> anyhow::Result<String> {
        let output = self.command("virsh").args(args).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "virsh failed: {}", error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns when it lists that many domains.
    fn answers(&self, domains: usize) -> anyhow::Result<()> {
        until("libvirtd answers", || {
            let listed = self
                .virsh(["list", "--name"])
                .map(|text| text.lines().filter(|line| !line.is_empty()).count());
            Ok(listed.is_ok_and(|listed| listed == domains))
        })
    }

    /// A small machine, as a file.
    fn description(&self, name: &str) -> anyhow::Result<String> {
        let path = self.folder.join("domain.xml");
        let text = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
             <devices><serial type='null'/><memballoon model='none'/></devices></domain>"
        );
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    fn create(&self, name: &str, paused: bool) -> anyhow::Result<()> {
        let file = self.description(name)?;
        if paused {
            self.virsh(["create", "--paused", &file]).map(drop)
        } else {
            self.virsh(["create", &file]).map(drop)
        }
    }

    /// Kills the domain's QEMU; how long until a client that listens is told.
    fn notice(&self) -> anyhow::Result<f64> {
        let mut listener = self
            .command("stdbuf")
            .args(["-oL", "virsh", "event", "--loop", "--domain", NAME])
            .args(["--event", "lifecycle"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = listener.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        let told = self.told(&lines);
        listener.kill()?;
        listener.wait()?;
        told
    }

    fn told(&self, lines: &mpsc::Receiver<(Instant, String)>) -> anyhow::Result<f64> {
        // It listens when an event of ours arrives.
        until("virsh listens", || {
            self.virsh(["suspend", NAME])?;
            self.virsh(["resume", NAME])?;
            Ok(lines.recv_timeout(Duration::from_millis(200)).is_ok())
        })?;
        let pid = self.qemu_pid()?;
        let reaper = reap(pid)?;
        let begun = Instant::now();
        detect::kill(pid)?;
        reaper
            .join()
            .map_err(|_| anyhow::anyhow!("the reaper of pid {pid} ended early"))??;
        loop {
            let (at, line) = lines
                .recv_timeout(Duration::from_secs(60))
                .context("virsh says nothing of the death")?;
            if line.contains("Stopped") || line.contains("Crashed") {
                return Ok(at.duration_since(begun).as_secs_f64());
            }
        }
    }

    /// The QEMU of the domain, as libvirt's own pid file says in its mount namespace.
    fn qemu_pid(&self) -> anyhow::Result<i32> {
        let holder = self.holder.borrow().id();
        let path = format!("/proc/{holder}/root/run/libvirt/qemu/{NAME}.pid");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        text.trim().parse().context("a strange pid file")
    }
}

/// Reaps a QEMU that libvirtd has put in the background, as an init does at once: libvirt
/// takes a zombie for a living process and asks it to end for another second or two.
fn reap(pid: i32) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<()>>> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    Ok(std::thread::spawn(move || {
        rustix::process::waitpid(Some(pid), WaitOptions::empty())
            .with_context(|| format!("QEMU {pid:?} is not this bench's to reap"))?;
        Ok(())
    }))
}

impl Drop for Libvirt {
    #[expect(clippy::print_stderr, reason = "a drop can only tell people")]
    fn drop(&mut self) {
        let names = self.virsh(["list", "--name"]).unwrap_or_default();
        let mut result = Ok(());
        for name in names.lines().filter(|line| !line.is_empty()) {
            result = result.and(self.virsh(["destroy", name]).map(drop));
        }
        result = result.and(self.stop());
        let mut holder = self.holder.borrow_mut();
        result = result.and(holder.kill().map_err(Into::into));
        if let Err(error) = result.and(holder.wait().map(drop).map_err(Into::into)) {
            eprintln!("the bench's libvirtd could not be cleaned up: {error:#}");
        }
    }
}
