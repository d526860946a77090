//! From the request to create and start a VM to its VMM running: what `hearth run -d` waits
//! for. Beside it QEMU's own time with the same arguments, from fork to its answer on QMP.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use anyhow::{Context as _, ensure};

use super::rig::{Rig, Shared, Vmm};
use super::{Case, Context, tool};

const NAME: &str = "start";
const TARGET: &str = "QEMU alone + 30 ms";

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    let rig = Rig::new(context, &context.folder.join("rig"), Vmm::Qemu)?;
    let alone = [("none", "QEMU alone"), ("bridge", "QEMU alone, on a TAP")]
        .map(|(network, name)| alone(context, &rig, network, name));
    let [plain, on_tap] = alone;
    let (plain, on_tap) = (plain?, on_tap?);
    let rig: Shared = Rc::new(RefCell::new(rig));
    let beside = Rc::new(RefCell::new(with_neighbour(context)?));
    let standin = Rig::new(context, &context.folder.join("standin"), Vmm::Standin)?;
    let mut cases = vec![
        through(&rig, "hearth, no network", "none").target(TARGET),
        plain,
        through(&beside, "hearth, on the bridge", "bridge").target(TARGET),
        through(&rig, "hearth, the bridge's first", "bridge").target(TARGET),
        on_tap,
        through(
            &Rc::new(RefCell::new(standin)),
            "hearth, stand-in VMM",
            "none",
        )
        .target("30 ms"),
    ];
    cases.push(match Xfs::mount(context) {
        Err(error) => Case::not_here("hearth, image shared on XFS", format!("{error:#}")),
        Ok(xfs) => {
            let rig = Rig::new(context, &xfs.mount.join("rig"), Vmm::Qemu)?;
            let rig = Rc::new(RefCell::new(rig));
            let case = through(&rig, "hearth, image shared on XFS", "none").target(TARGET);
            case.keep(xfs)
        }
    });
    Ok(cases)
}

/// A daemon with a VM that keeps bridge, filters and name server there; paused, it takes no time.
fn with_neighbour(context: &Context) -> anyhow::Result<Rig> {
    let rig = Rig::new(context, &context.folder.join("beside"), Vmm::Qemu)?;
    rig.create("neighbour", "bridge", true)?;
    rig.wait_running("neighbour")?;
    rig.post("/v1/vms/neighbour/pause", &serde_json::json!({}))?;
    Ok(rig)
}

/// Creates and starts a VM by the API, as a client would.
pub(crate) fn through(rig: &Shared, name: &str, network: &'static str) -> Case {
    let (work, after) = (Rc::clone(rig), Rc::clone(rig));
    // The first start of a daemon asks QEMU for its version and makes the bridge.
    let mut warm = false;
    let before = Rc::clone(rig);
    Case::new(name, move || {
        let rig = work.borrow();
        rig.create(NAME, network, true)?;
        rig.wait_running(NAME)
    })
    .before(move || {
        if !std::mem::replace(&mut warm, true) {
            let rig = before.borrow();
            rig.create(NAME, network, true)?;
            rig.wait_running(NAME)?;
            rig.remove(NAME)?;
        }
        rustix::fs::sync();
        Ok(())
    })
    .after(move || after.borrow().remove(NAME))
}

/// QEMU with the arguments that the daemon gives it, and with a TAP that is there already.
fn alone(context: &Context, rig: &Rig, network: &str, name: &str) -> anyhow::Result<Case> {
    rig.create(NAME, network, true)?;
    rig.wait_running(NAME)?;
    let folder = context.folder.join(format!("alone-{network}"));
    std::fs::create_dir(&folder)?;
    let qemu = Qemu::like(rig.vmm(NAME)?, &rig.vm_folder(NAME)?, folder)?;
    rig.remove(NAME)?;
    let tap = Tap::add()?;
    let running = Rc::new(RefCell::new(None));
    let after = Rc::clone(&running);
    let case = Case::new(name, move || {
        *running.borrow_mut() = Some(qemu.start()?);
        Ok(())
    })
    .after(move || {
        if let Some(mut child) = after.borrow_mut().take() {
            let child: &mut std::process::Child = &mut child;
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    });
    Ok(case.keep(tap))
}

/// An interface of the bench's own, which QEMU finds made.
struct Tap;

impl Tap {
    fn name() -> String {
        format!("hbt{}", std::process::id() % 100_000)
    }

    fn add() -> anyhow::Result<Self> {
        // The same one serves both QEMUs: they never run at once.
        if !Path::new("/sys/class/net").join(Self::name()).exists() {
            tool("ip", ["tuntap", "add", "dev", &Self::name(), "mode", "tap"])?;
        }
        Ok(Self)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The first of the two takes it away.
        drop(tool("ip", ["link", "delete", "dev", &Self::name()]));
    }
}

struct Qemu {
    folder: PathBuf,
    args: Vec<String>,
}

impl Qemu {
    /// Takes the command line of a VMM that runs; what the shim passed it by descriptor is
    /// a file of the same content or a socket in `folder`.
    fn like(pid: i32, vm: &Path, folder: PathBuf) -> anyhow::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let line = std::fs::read(proc.join("cmdline"))?;
        let line = String::from_utf8(line).context("QEMU's command line is not UTF-8")?;
        std::fs::copy(vm.join("initrd"), folder.join("initrd"))?;
        std::fs::copy(vm.join("root.img"), folder.join("root.img"))?;
        let mut args: Vec<String> = Vec::new();
        let mut words = line.split_terminator('\0');
        while let Some(word) = words.next() {
            match args.last().map(String::as_str) {
                Some("-kernel") => {
                    let number = word.rsplit('/').next().unwrap_or_default();
                    let kernel = std::fs::read_link(proc.join("fd").join(number))?;
                    args.push(kernel.display().to_string());
                }
                Some("-initrd") => args.push("initrd".to_owned()),
                Some("-chardev") if word.starts_with("socket,id=agent") => {
                    args.push("null,id=agent".to_owned());
                }
                Some("-chardev") if word.starts_with("file,id=report") => {
                    args.push("file,id=report,path=report".to_owned());
                }
                Some("-chardev") if word.starts_with("socket,id=qmp") => {
                    args.push("socket,id=qmp,fd={qmp},server=on,wait=off".to_owned());
                }
                Some("-netdev") => {
                    let tap = Tap::name();
                    args.push(format!(
                        "tap,id=net0,ifname={tap},script=no,downscript=no,vhost=off"
                    ));
                }
                _ if word == "-add-fd" => drop(words.next()),
                _ => args.push(word.to_owned()),
            }
        }
        Ok(Self { folder, args })
    }

    /// From fork to its answer: the machine is made and its vCPUs run.
    fn start(&self) -> anyhow::Result<std::process::Child> {
        let socket = self.folder.join("qmp");
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket)?;
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())?;
        let number = listener.as_raw_fd().to_string();
        let mut args = self.args.iter().map(|arg| arg.replace("{qmp}", &number));
        let program = args.next().context("QEMU's command line is empty")?;
        let child = Command::new(program)
            .args(args)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run QEMU")?;
        // QEMU's end alone keeps the socket open: an end of QEMU is an end of the stream.
        drop(listener);
        query_status(&socket)?;
        Ok(child)
    }
}

fn query_status(socket: &Path) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    let commands = ["qmp_capabilities", "query-status"];
    for command in std::iter::once(None).chain(commands.map(Some)) {
        if let Some(command) = command {
            writeln!(stream, r#"{{"execute": "{command}"}}"#)?;
        }
        line.clear();
        // Events come between the answers.
        while !line.contains(r#""QMP""#) && !line.contains(r#""return""#) {
            line.clear();
            ensure!(reader.read_line(&mut line)? > 0, "QEMU ended");
        }
    }
    Ok(())
}

/// A file system that shares blocks, on a loop device.
struct Xfs {
    mount: PathBuf,
}

impl Xfs {
    fn mount(context: &Context) -> anyhow::Result<Self> {
        let image = context.folder.join("xfs");
        std::fs::File::create(&image)?.set_len(4 << 30)?;
        let mount = context.folder.join("x");
        std::fs::create_dir(&mount)?;
        let (from, to) = (image.display().to_string(), mount.display().to_string());
        tool("mkfs.xfs", ["-q", "-m", "reflink=1", &from])?;
        tool("mount", ["-o", "loop", &from, &to])?;
        Ok(Self { mount })
    }
}

impl Drop for Xfs {
    #[expect(clippy::print_stderr, reason = "a drop can only tell people")]
    fn drop(&mut self) {
        if let Err(error) = tool("umount", [&self.mount.display().to_string()]) {
            eprintln!("the bench's file system is still mounted: {error:#}");
        }
    }
}
