//! A `hearthd` of the bench's own, in release mode: its folders, socket, bridge, table and VMs
//! are nobody else's, and go with it.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::{Context, http, made_once, tool};
use crate::workspace::{root, target};

/// The image of the VMs: busybox that sleeps.
pub(crate) const IMAGE: &str = "tiny:latest";
/// The most that a condition is waited for.
const DEADLINE: Duration = Duration::from_secs(600);
/// Between two looks at a condition whose time is not measured.
const LOOK: Duration = Duration::from_millis(5);
/// VMs that are being started at once when many are needed.
const AT_ONCE: usize = 25;

/// Which program is the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vmm {
    Qemu,
    /// A tiny process that answers as QEMU does.
    Standin,
    /// A tiny process that answers as Firecracker does.
    FirecrackerStandin,
}

impl Vmm {
    fn config(self) -> String {
        match self {
            Self::Qemu => String::new(),
            Self::Standin => {
                let standin = binary("hearth-vmm-standin");
                format!("QEMU_PATH={}\nKVM=off\n", standin.display())
            }
            // Whether KVM works is asked by starting one, and the stand-in starts.
            Self::FirecrackerStandin => {
                let standin = binary("hearth-firecracker-standin");
                format!(
                    "DRIVER=firecracker\nFIRECRACKER_PATH={}\n",
                    standin.display()
                )
            }
        }
    }
}

/// A daemon and what belongs to it.
pub(crate) struct Rig {
    folder: PathBuf,
    pub(crate) socket: PathBuf,
    bridge: String,
    child: Option<Child>,
}

/// A rig that several cases use in turns.
pub(crate) type Shared = Rc<RefCell<Rig>>;

impl Rig {
    /// Starts a daemon below `folder` and gives it a kernel and an image.
    pub(crate) fn new(context: &Context, folder: &Path, vmm: Vmm) -> anyhow::Result<Self> {
        Self::configured(context, folder, vmm, "")
    }

    /// The same with more lines in its configuration.
    pub(crate) fn configured(
        context: &Context,
        folder: &Path,
        vmm: Vmm,
        more: &str,
    ) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a daemon of the bench's own needs root"
        );
        build_once()?;
        std::fs::create_dir_all(folder)?;
        // Several processes may measure, and a process has several rigs: each its network.
        static RIGS: AtomicU32 = AtomicU32::new(0);
        let rig = RIGS.fetch_add(1, Ordering::Relaxed);
        let number = format!("{}_{rig}", std::process::id() % 100_000);
        let (bridge, subnet) = (format!("hb{number}"), 190 + rig % 60);
        let mut rig = Self {
            folder: folder.to_owned(),
            socket: folder.join("s"),
            bridge: bridge.clone(),
            child: None,
        };
        ensure!(
            rig.socket.as_os_str().len() < 100,
            "the build folder's path is too long for a unix socket"
        );
        let mut config = format!(
            "DATA_DIR={0}/data\nRUN_DIR={0}/run\nSOCKET={0}/s\nBRIDGE={bridge}\n\
             NFT_TABLE=hearth_bench_{number}\nSUBNET=10.{subnet}.0.0/16\nGUEST_PATH={1}\n",
            folder.display(),
            guest().display()
        );
        config += &vmm.config();
        config += more;
        std::fs::write(folder.join("config"), config)?;
        rig.spawn()?;
        rig.post("/v1/kernels", &json!({ "path": kernel(context)? }))?;
        let layout = tiny_layout(context)?;
        rig.post(
            "/v1/images/import",
            &json!({ "path": layout, "reference": IMAGE }),
        )?;
        Ok(rig)
    }

    /// Executes the daemon; returns when it answers, and how long that took.
    pub(crate) fn spawn(&mut self) -> anyhow::Result<Duration> {
        let log = File::options().append(true).create(true).open(self.log())?;
        let begun = Instant::now();
        let child = Command::new(binary("hearthd"))
            .arg("--config")
            .arg(self.folder.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot run hearthd")?;
        let child = self.child.insert(child);
        loop {
            if http::ask(&self.socket, "GET", "/health", None).is_ok() {
                return Ok(begun.elapsed());
            }
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!(
                    "hearthd ended with {status}: {}",
                    log.lines().last().unwrap_or_default()
                );
            }
            ensure!(begun.elapsed() < DEADLINE, "hearthd does not answer");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Ends the daemon; the VMs go on.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            child.wait()?;
        }
        Ok(())
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.child.as_ref().context("the daemon does not run")?.id())
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        let text = http::ask(&self.socket, "GET", path, None)?;
        serde_json::from_str(&text).with_context(|| format!("{path} answers {text:?}"))
    }

    /// A request whose answer may be lines of progress.
    pub(crate) fn post(&self, path: &str, body: &Value) -> anyhow::Result<String> {
        let text = http::ask(&self.socket, "POST", path, Some(body))?;
        let last = text.lines().last().unwrap_or_default();
        ensure!(!last.contains(r#""type":"failed""#), "{path}: {last}");
        Ok(text)
    }

    /// Creates a VM without a network, and starts it when asked.
    pub(crate) fn create(&self, name: &str, network: &str, start: bool) -> anyhow::Result<()> {
        let spec = json!({ "name": name, "image": IMAGE, "network": { "mode": network } });
        self.post("/v1/vms", &json!({ "spec": spec, "start": start }))
            .map(drop)
    }

    /// Returns when the VMM runs.
    pub(crate) fn wait_running(&self, name: &str) -> anyhow::Result<()> {
        self.get(&format!("/v1/vms/{name}/wait?condition=running"))
            .map(drop)
    }

    /// Starts `count` VMs without a network, some at a time.
    pub(crate) fn start_many(&self, count: usize) -> anyhow::Result<()> {
        let names: Vec<String> = (0..count).map(|number| format!("many-{number}")).collect();
        for some in names.chunks(AT_ONCE) {
            for name in some {
                self.create(name, "none", true)?;
            }
            for name in some {
                self.wait_running(name)?;
            }
        }
        Ok(())
    }

    /// The process of a VM's VMM.
    pub(crate) fn vmm(&self, name: &str) -> anyhow::Result<i32> {
        let vm = self.get(&format!("/v1/vms/{name}"))?;
        let pid = vm["pid"].as_i64().context("the VM has no VMM")?;
        Ok(i32::try_from(pid)?)
    }

    /// The folder of a VM.
    pub(crate) fn vm_folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let vm = self.get(&format!("/v1/vms/{name}"))?;
        let id = vm["id"].as_str().context("the VM has no id")?;
        Ok(self.folder.join("data/vms").join(id))
    }

    /// Removes a VM with its VMM.
    pub(crate) fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = format!("/v1/vms/{name}?force=true&wait=true");
        http::ask(&self.socket, "DELETE", &path, None).map(drop)
    }

    /// Removes every VM; returns when the host holds nothing of this rig's any more.
    fn remove_all(&self) -> anyhow::Result<()> {
        let bridge = Path::new("/sys/class/net").join(&self.bridge);
        let vms = self.get("/v1/vms")?;
        for vm in vms["items"].as_array().into_iter().flatten() {
            let id = vm["id"].as_str().context("a VM has no id")?;
            http::ask(
                &self.socket,
                "DELETE",
                &format!("/v1/vms/{id}?force=true"),
                None,
            )?;
        }
        until("the VMs are gone", || {
            let vms = self.get("/v1/vms")?;
            Ok(vms["items"].as_array().is_some_and(Vec::is_empty) && !bridge.exists())
        })
    }
}

impl Drop for Rig {
    #[expect(clippy::print_stderr, reason = "a drop can only tell people")]
    fn drop(&mut self) {
        let cleaned = match self.child {
            Some(_) => Ok(Duration::ZERO),
            None => self.spawn(),
        };
        let cleaned = cleaned
            .and_then(|_| self.remove_all())
            .and_then(|()| self.stop());
        if let Err(error) = cleaned {
            eprintln!("the bench's daemon could not be cleaned up: {error:#}");
        }
    }
}

/// Waits for a condition whose time is not measured.
pub(crate) fn until(
    what: &str,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < DEADLINE, "{what}: not after {DEADLINE:?}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// A folder of programs to measure as they are, instead of those that are built here.
const PROGRAMS: &str = "HEARTH_BENCH_PROGRAMS";

/// A program that is measured.
pub(crate) fn binary(name: &str) -> PathBuf {
    let built = || target().join("release").into();
    PathBuf::from(std::env::var_os(PROGRAMS).unwrap_or_else(built)).join(name)
}

/// The guest agent.
fn guest() -> PathBuf {
    if std::env::var_os(PROGRAMS).is_some() {
        return binary("hearth-guest");
    }
    target().join("hearth-guest")
}

/// Builds the programs that are measured: what is measured is what is checked out.
pub(crate) fn build_once() -> anyhow::Result<()> {
    static BUILT: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    if BUILT.get().is_some() || std::env::var_os(PROGRAMS).is_some() {
        return Ok(());
    }
    crate::guest::run()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--bins"])
        .args(["-p", "hearthd", "-p", "hearth", "-p", "hearth-shim"])
        .current_dir(root())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the programs do not build ({status})");
    BUILT.set(()).ok();
    Ok(())
}

/// A Debian kernel package.
pub(crate) fn kernel(context: &Context) -> anyhow::Result<PathBuf> {
    let folder = context.cache.join("kernel");
    let script = root().join("scripts/kernel.sh");
    let (script, text) = (script.display().to_string(), folder.display().to_string());
    tool("bash", [&script, &text])?;
    let packages = std::fs::read_dir(&folder)?.filter_map(Result::ok);
    packages
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .context("no kernel package could be downloaded")
}

/// An OCI layout with nothing but a busybox that sleeps.
fn tiny_layout(context: &Context) -> anyhow::Result<PathBuf> {
    let layout = context.cache.join("tiny");
    made_once(&layout, |fresh| {
        let tree = context.folder.join("tiny-tree");
        std::fs::create_dir_all(tree.join("bin"))?;
        std::fs::copy("/bin/busybox", tree.join("bin/busybox"))
            .context("a static busybox is needed at /bin/busybox (busybox-static)")?;
        std::os::unix::fs::symlink("busybox", tree.join("bin/sleep"))?;
        let tar = context.folder.join("tiny.tar").display().to_string();
        let tree = tree.display().to_string();
        tool(
            "tar",
            ["-C", &tree, "--owner=0", "--group=0", "-cf", &tar, "."],
        )?;
        let layout = fresh.display().to_string();
        let image = format!("{layout}:latest");
        tool("umoci", ["init", "--layout", &layout])?;
        tool("umoci", ["new", "--image", &image])?;
        tool("umoci", ["raw", "add-layer", "--image", &image, &tar])?;
        let [command, time] = ["--config.cmd=/bin/sleep", "--config.cmd=1000000"];
        tool("umoci", ["config", "--image", &image, command, time])
    })?;
    Ok(layout)
}
