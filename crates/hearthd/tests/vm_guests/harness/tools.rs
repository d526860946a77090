//! What must be installed, and where our own programs are.

use std::path::Path;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};

/// The daemon as cargo built it for this test.
const BUILT: &str = env!("CARGO_BIN_EXE_hearthd");

/// The daemon under test: `HEARTH_TEST_DAEMON`, else the one that was built for this test.
pub(crate) fn hearthd() -> String {
    std::env::var("HEARTH_TEST_DAEMON").unwrap_or(BUILT.to_owned())
}

/// Programs of the host that a test cannot do without.
const NEEDED: [&str; 7] = [
    "qemu-system-x86_64",
    "ip",
    "nft",
    "mkfs.ext4",
    "busybox",
    "tar",
    "dnsmasq",
];

/// Where the programs and the kernel package are.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) guest: Utf8PathBuf,
    pub(crate) shim: Utf8PathBuf,
    pub(crate) kernel: Utf8PathBuf,
    pub(crate) busybox: Utf8PathBuf,
}

impl Tools {
    /// Finds them.
    ///
    /// # Errors
    /// With the reason to skip the test.
    pub(crate) fn find() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("real guests need root".to_owned());
        }
        for name in NEEDED {
            on_path(name).ok_or_else(|| format!("{name} is not installed"))?;
        }
        let busybox = on_path("busybox").unwrap_or_default();
        if !is_static(&busybox) {
            return Err("busybox is not static: install busybox-static".to_owned());
        }
        Ok(Self {
            kernel: kernel_package()?,
            guest: guest()?,
            shim: built_beside("hearth-shim", "hearth-shim")?,
            busybox,
        })
    }
}

pub(super) fn on_path(name: &str) -> Option<Utf8PathBuf> {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .iter()
    .map(|folder| Utf8Path::new(folder).join(name))
    .find(|path| path.is_file())
}

/// A dynamic program names its loader.
fn is_static(program: &Utf8Path) -> bool {
    std::fs::read(program)
        .is_ok_and(|bytes| !bytes.windows(12).any(|window| window == b"/ld-linux-x8"))
}

fn kernel_package() -> Result<Utf8PathBuf, String> {
    let cache = std::env::var("HEARTH_TEST_CACHE").unwrap_or("/var/cache/hearth-test".to_owned());
    let mut packages: Vec<_> = Utf8Path::new(&cache)
        .read_dir_utf8()
        .into_iter()
        .flatten()
        .flatten()
        .map(camino::Utf8DirEntry::into_path)
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.starts_with("linux-image-")
                && name.contains("-cloud-amd64_")
                && name.ends_with(".deb")
        })
        .collect();
    packages.sort();
    packages.pop().ok_or_else(|| {
        format!("no linux-image-*-cloud-amd64_*.deb in {cache}: scripts/kernel.sh fetches one")
    })
}

fn guest() -> Result<Utf8PathBuf, String> {
    if let Ok(path) = std::env::var("HEARTH_TEST_GUEST") {
        return Ok(path.into());
    }
    let path = debug_folder()
        .parent()
        .map(|target| target.join("hearth-guest"))
        .unwrap_or_default();
    if !path.is_file() {
        build(&["xtask", "guest"])?;
    }
    Ok(path)
}

fn built_beside(package: &str, name: &str) -> Result<Utf8PathBuf, String> {
    let path = debug_folder().join(name);
    if !path.is_file() {
        build(&["build", "--package", package, "--bin", name])?;
    }
    Ok(path)
}

/// A program of ours that was built with this test, or else is built now.
///
/// # Panics
/// When it cannot be built.
pub(crate) fn our_program(package: &str, name: &str) -> Utf8PathBuf {
    built_beside(package, name).unwrap_or_else(|reason| panic!("{reason}"))
}

/// Whether these programs of the host are installed; says so when not.
pub(crate) fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|name| on_path(name).is_none());
    if let Some(name) = missing {
        println!("SKIP: {name} is not installed");
    }
    missing.is_none()
}

fn debug_folder() -> &'static Utf8Path {
    Utf8Path::new(BUILT).parent().unwrap_or(Utf8Path::new(""))
}

fn build(arguments: &[&str]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root)
        .status()
        .is_ok_and(|status| status.success());
    built
        .then_some(())
        .ok_or_else(|| format!("cargo {} failed", arguments.join(" ")))
}

/// Runs a program of the host.
///
/// # Panics
/// When it fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}
