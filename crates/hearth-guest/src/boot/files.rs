//! The few files of the image that say who and where the guest is.
//!
//! They are written beneath the new root: a link in the image cannot lead out of it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};

use hearth_guest_proto::config::GuestConfig;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use super::NEW_ROOT;
use crate::error::{Context, Failure, tell};

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

fn new_root() -> Result<OwnedFd, Failure> {
    rustix::fs::open(
        NEW_ROOT,
        OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH,
        Mode::empty(),
    )
    .context("open", NEW_ROOT)
}

fn open_folder(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    openat2(
        root,
        path,
        OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH,
        Mode::empty(),
        IN_ROOT,
    )
}

/// Opens a folder of the image, made as far as it is missing; links resolve as they will after
/// the switch of the root.
fn make_folder(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let mut so_far = String::from(".");
    let mut folder = open_folder(root, ".")?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let _written = write!(so_far, "/{part}");
        folder = match open_folder(root, &so_far) {
            Err(Errno::NOENT) => {
                mkdirat(&folder, part, Mode::from_raw_mode(0o755))?;
                open_folder(root, &so_far)?
            }
            opened => opened?,
        };
    }
    Ok(folder)
}

/// The path that a mount point of the image has now.
pub(super) fn resolve_folder(path: &str) -> Result<String, Failure> {
    let folder = make_folder(&new_root()?, path).context("make the mount point", path)?;
    let target = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
        .context("resolve the mount point", path)?;
    target
        .into_os_string()
        .into_string()
        .map_err(|_| Failure::new("resolve", path, "its name is not text"))
}

/// `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`. An image without a writable /etc is told of.
pub(super) fn write_names(config: &GuestConfig) {
    tell(replace("hostname", &format!("{}\n", config.hostname)));
    tell(replace("hosts", &hosts(config)));
    if let Some(text) = resolv_conf(config) {
        tell(replace("resolv.conf", &text));
    }
}

fn hosts(config: &GuestConfig) -> String {
    let names = match config.domain.as_deref().filter(|domain| !domain.is_empty()) {
        Some(domain) => format!("{0}.{domain} {0}", config.hostname),
        None => config.hostname.clone(),
    };
    let own = match &config.network {
        Some(network) => network.address.to_string(),
        None => "127.0.1.1".to_owned(),
    };
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{own} {names}\n")
}

fn resolv_conf(config: &GuestConfig) -> Option<String> {
    let network = config.network.as_ref()?;
    let mut text = String::new();
    for server in &network.dns {
        let _written = writeln!(text, "nameserver {server}");
    }
    if !network.search.is_empty() {
        let _written = writeln!(text, "search {}", network.search.join(" "));
    }
    Some(text)
}

/// Writes a file of /etc. A link that leads nowhere (systemd-resolved's, before it runs) is
/// replaced; one that leads to a file is followed, inside the image.
fn replace(name: &str, text: &str) -> Result<(), Failure> {
    let etc = make_folder(&new_root()?, "etc").context("open", "/etc")?;
    let shown = format!("/etc/{name}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let link = statat(&etc, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink);
    let opened = if link {
        let existing = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
        openat2(
            new_root()?,
            format!("etc/{name}"),
            existing,
            Mode::empty(),
            IN_ROOT,
        )
        .or_else(|_| {
            unlinkat(&etc, name, AtFlags::empty())?;
            rustix::fs::openat(&etc, name, flags | OFlags::NOFOLLOW, mode)
        })
    } else {
        rustix::fs::openat(&etc, name, flags | OFlags::NOFOLLOW, mode)
    };
    let file = opened.context("open", &shown)?;
    File::from(file)
        .write_all(text.as_bytes())
        .context("write", &shown)
}

#[cfg(test)]
mod tests {
    use hearth_guest_proto::config::NetworkConfig;

    use super::*;

    #[test]
    fn names_of_a_guest_with_a_network() {
        let mut config = GuestConfig {
            hostname: "web".into(),
            domain: Some("lan".into()),
            ..GuestConfig::default()
        };
        assert!(hosts(&config).ends_with("127.0.1.1 web.lan web\n"));
        assert_eq!(resolv_conf(&config), None);
        config.network = Some(NetworkConfig {
            mac: "52:54:00:00:00:01".into(),
            address: [10, 0, 0, 2].into(),
            prefix: 24,
            gateway: [10, 0, 0, 1].into(),
            dns: vec![[10, 0, 0, 1].into(), [9, 9, 9, 9].into()],
            search: vec!["lan".into()],
        });
        assert!(hosts(&config).ends_with("10.0.0.2 web.lan web\n"));
        let text = "nameserver 10.0.0.1\nnameserver 9.9.9.9\nsearch lan\n";
        assert_eq!(resolv_conf(&config).as_deref(), Some(text));
    }
}
