//! A real guest for tests: QEMU (emulated), Debian's cloud kernel, busybox as the image.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use hearth_guest_proto::client::{AgentClient, ExpectedGuest};
use hearth_guest_proto::config::GuestConfig;
use hearth_guest_proto::message::GuestReport;
use tokio::net::UnixStream;

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the guest needs, each after what it depends on.
const MODULES: [&str; 14] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_console",
    "virtio-rng",
    "button",
    "evdev",
];

/// What all guests of a test run share.
#[derive(Debug)]
pub(crate) struct Parts {
    kernel: PathBuf,
    modules: Vec<PathBuf>,
    guest: PathBuf,
}

/// The parts, or why there are none.
pub(crate) fn parts() -> Result<&'static Parts, String> {
    static PARTS: OnceLock<Result<Parts, String>> = OnceLock::new();
    PARTS.get_or_init(find_parts).as_ref().map_err(Clone::clone)
}

fn find_parts() -> Result<Parts, String> {
    for tool in [
        "qemu-system-x86_64",
        "mke2fs",
        "cpio",
        "dpkg-deb",
        "busybox",
    ] {
        if !on_path(tool) {
            return Err(format!("{tool} is not installed"));
        }
    }
    let unpacked = unpack_kernel()?;
    let listed = run(Command::new("find").arg(&unpacked).args([
        "-name",
        "*.ko",
        "-o",
        "-name",
        "vmlinuz-*",
    ]))?;
    let files: Vec<PathBuf> = listed.lines().map(PathBuf::from).collect();
    let named = |name: &str| {
        files
            .iter()
            .find(|file| file.file_stem().is_some_and(|stem| stem == name))
            .cloned()
    };
    let kernel = files
        .iter()
        .find(|file| file.extension().is_none_or(|extension| extension != "ko"));
    Ok(Parts {
        kernel: kernel.cloned().ok_or("the kernel package has no vmlinuz")?,
        modules: MODULES.into_iter().filter_map(named).collect(),
        guest: build_guest()?,
    })
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).exists())
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn find_package(cache: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(cache)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with("linux-image-6.")
                && name.contains("-cloud-amd64_")
                && name.ends_with(".deb")
        })
        .collect();
    found.sort();
    found.pop()
}

fn unpack_kernel() -> Result<PathBuf, String> {
    let cache = std::env::var_os("HEARTH_TEST_CACHE")
        .map_or("/var/cache/hearth-test".into(), PathBuf::from);
    fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    if find_package(&cache).is_none() {
        let depends = run(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        let name = depends
            .split_whitespace()
            .find(|word| word.starts_with("linux-image-6."));
        run(Command::new("apt-get")
            .arg("download")
            .arg(name.ok_or("no kernel package is known")?)
            .current_dir(&cache))?;
    }
    let package = find_package(&cache).ok_or("no kernel package could be had")?;
    let name = package.file_stem().unwrap_or_default();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !target.exists() {
        // Another test process may do the same: the first rename wins.
        let staging =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(&package)
            .arg(staging.path()))?;
        let _raced = fs::rename(staging.keep(), &target);
    }
    Ok(target)
}

/// The static binary, as it is shipped: `HEARTH_TEST_GUEST`, or built here.
fn build_guest() -> Result<PathBuf, String> {
    if let Some(built) = std::env::var_os("HEARTH_TEST_GUEST") {
        return Ok(built.into());
    }
    let target = "x86_64-unknown-linux-gnu";
    let flags = format!("target.{target}.rustflags=[\"-C\",\"target-feature=+crt-static\"]");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    run(Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--profile",
            "guest",
            "-p",
            "hearth-guest",
            "--target",
            target,
        ])
        .args(["--config", &flags])
        .current_dir(&root))?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    Ok(folder.join(target).join("guest/hearth-guest"))
}

/// A running guest; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Vm {
    qemu: Child,
    folder: tempfile::TempDir,
    boot_nonce: String,
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _killed = self.qemu.kill();
        let _reaped = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.console());
        }
    }
}

impl Vm {
    /// Boots a guest; `prepare` may add to the image's tree.
    pub(crate) fn boot(parts: &Parts, config: &GuestConfig, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        image(folder.path(), prepare);
        initrd(folder.path(), parts, config);
        let khz = host_khz();
        let append = format!("console=ttyS0 quiet panic=-1 tsc_early_khz={khz}");
        let qemu = Command::new("qemu-system-x86_64")
            .args([
                "-M",
                "q35,usb=off,sata=off,smbus=off",
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-m",
                "256",
            ])
            .args(["-nodefaults", "-display", "none", "-no-reboot", "-kernel"])
            .arg(&parts.kernel)
            .args(["-initrd", "initrd", "-append", &append])
            .args(["-serial", "file:console.log"])
            .args([
                "-drive",
                "file=root.img,format=raw,if=none,id=root",
                "-device",
                "virtio-blk-pci,drive=root,serial=root",
            ])
            .args([
                "-drive",
                "file=data.img,format=raw,if=none,id=data",
                "-device",
                "virtio-blk-pci,drive=data,serial=data",
            ])
            .args([
                "-netdev",
                "user,id=net,restrict=on",
                "-device",
                "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56",
            ])
            .args(["-device", "virtio-serial-pci"])
            .args([
                "-chardev",
                "socket,id=agent,path=agent.sock,server=on,wait=off",
            ])
            .args([
                "-device",
                "virtserialport,chardev=agent,name=org.hearth.agent",
            ])
            .args(["-chardev", "file,id=report,path=report.json"])
            .args([
                "-device",
                "virtserialport,chardev=report,name=org.hearth.report",
            ])
            .args(["-monitor", "unix:monitor.sock,server=on,wait=off"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            qemu,
            folder,
            boot_nonce: config.boot_nonce.clone(),
        }
    }

    pub(crate) async fn client(&self) -> AgentClient {
        let connect = async {
            loop {
                match UnixStream::connect(self.folder.path().join("agent.sock")).await {
                    Ok(stream) => return stream,
                    Err(_) => pause().await,
                }
            }
        };
        let stream = tokio::time::timeout(PATIENCE, connect).await.unwrap();
        let expected = ExpectedGuest {
            vm_id: "vm".into(),
            boot_nonce: self.boot_nonce.clone(),
        };
        AgentClient::connect(stream, expected, PATIENCE)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Presses the power button.
    pub(crate) async fn power_button(&self) {
        use tokio::io::AsyncWriteExt;
        let mut monitor = UnixStream::connect(self.folder.path().join("monitor.sock"))
            .await
            .unwrap();
        monitor.write_all(b"system_powerdown\n").await.unwrap();
        // A connection that closes too early takes the command with it: the second prompt
        // says that it was obeyed.
        let (mut seen, mut buffer) = (String::new(), [0; 512]);
        while seen.matches("(qemu)").count() < 2 {
            let count = tokio::io::AsyncReadExt::read(&mut monitor, &mut buffer)
                .await
                .unwrap();
            assert!(count > 0, "the monitor hung up: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    /// Waits until the machine is off, and says what it reported.
    pub(crate) async fn ended(&mut self) -> GuestReport {
        let wait = async {
            while self.qemu.try_wait().unwrap().is_none() {
                pause().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the machine does not power off");
        let text = fs::read_to_string(self.folder.path().join("report.json")).unwrap();
        let line = text.lines().last().expect("no report");
        serde_json::from_str(line).unwrap()
    }

    /// Waits until the console has shown `text`.
    pub(crate) async fn says(&self, text: &str) {
        let wait = async {
            while !self.console().contains(text) {
                pause().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the console never says it");
    }

    pub(crate) fn console(&self) -> String {
        let bytes = fs::read(self.folder.path().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// The root file system as it was left, by debugfs.
    pub(crate) fn root_is_clean(&self) -> bool {
        let dump = run(Command::new("dumpe2fs")
            .arg("-h")
            .arg(self.folder.path().join("root.img")));
        dump.unwrap()
            .lines()
            .any(|line| line.starts_with("Filesystem state") && line.contains("clean"))
    }
}

pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn image(folder: &Path, prepare: impl FnOnce(&Path)) {
    let tree = folder.join("tree");
    for part in ["bin", "sbin", "etc", "root", "home/web", "tmp"] {
        fs::create_dir_all(tree.join(part)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "ls", "df", "hostname", "ip", "date", "dd", "head",
        "kill", "free", "sync", "ps",
    ] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n",
    )
    .unwrap();
    fs::write(tree.join("etc/group"), "root:x:0:\nlogs:x:50:web\n").unwrap();
    // As systemd-resolved leaves it: it leads nowhere before that runs.
    std::os::unix::fs::symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        tree.join("etc/resolv.conf"),
    )
    .unwrap();
    prepare(&tree);
    for (name, source) in [("root.img", Some(&tree)), ("data.img", None)] {
        let path = folder.join(name);
        File::create(&path).unwrap().set_len(32 << 20).unwrap();
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-t", "ext4", "-F"]);
        if let Some(source) = source {
            make.arg("-d").arg(source);
        }
        run(make.arg(&path)).unwrap();
        // The host makes it larger; the guest's task is to use it.
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(96 << 20)
            .unwrap();
    }
}

fn initrd(folder: &Path, parts: &Parts, config: &GuestConfig) {
    let tree = folder.join("initramfs");
    fs::create_dir_all(tree.join("hearth/modules.d")).unwrap();
    fs::copy(&parts.guest, tree.join("init")).unwrap();
    let mut list = String::new();
    for module in &parts.modules {
        let inside = Path::new("/hearth/modules.d").join(module.file_name().unwrap());
        fs::copy(module, tree.join(inside.strip_prefix("/").unwrap())).unwrap();
        list.push_str(&format!("{}\n", inside.display()));
    }
    fs::write(tree.join("hearth/modules"), list).unwrap();
    fs::write(
        tree.join("hearth/config.json"),
        serde_json::to_vec(config).unwrap(),
    )
    .unwrap();
    let script = "find . | cpio --quiet -o -H newc > ../initrd";
    run(Command::new("sh").arg("-c").arg(script).current_dir(&tree)).unwrap();
}

fn host_khz() -> u64 {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = cpuinfo
        .lines()
        .find(|line| line.starts_with("cpu MHz"))
        .and_then(|line| line.rsplit(' ').next());
    let whole = mhz.and_then(|mhz| mhz.split('.').next()?.parse::<u64>().ok());
    whole.unwrap_or(2000) * 1000
}
