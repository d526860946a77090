//! What `dpkg` is told: the control file, the list of configuration files, and the scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::stage::write;
use super::{packaging, read, tool};

/// Without these some function of Hearth does not work at all.
const DEPENDS: [&str; 8] = [
    "nftables",
    "dnsmasq-base",
    "conntrack",
    "e2fsprogs",
    // Registries are asked over TLS.
    "ca-certificates",
    // systemd makes the VMs' units when it is asked over the system bus, which a minimal
    // Debian does not have.
    "default-dbus-system-bus | dbus-system-bus",
    "systemd (>= 252)",
    "init-system-helpers (>= 1.62)",
];
/// The VMM that is packaged. Not a dependency: other VMMs come from elsewhere.
const RECOMMENDS: &str = "qemu-system-x86";
/// Only for hosts that are to have a thin pool.
const SUGGESTS: &str = "thin-provisioning-tools";
/// Scripts that have the shared functions put into them.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// Writes `DEBIAN/` and answers the architecture.
pub(super) fn write_all(stage: &Path, version: &str) -> anyhow::Result<String> {
    let architecture = tool(Command::new("dpkg").arg("--print-architecture"))?;
    let architecture = architecture.trim().to_owned();
    let libraries = libraries(stage)?;
    let size = tool(
        Command::new("du")
            .args(["-sk", "--apparent-size"])
            .arg(stage),
    )?;
    let size = size.split_whitespace().next().unwrap_or("0").to_owned();
    let folder = stage.join("DEBIAN");
    let depends = format!("{libraries}, {}", DEPENDS.join(", "));
    let control = format!(
        "Package: hearth\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: the Hearth authors <hearth@localhost>\n\
         Section: admin\nPriority: optional\nInstalled-Size: {size}\nDepends: {depends}\nRecommends: {RECOMMENDS}\nSuggests: {SUGGESTS}\n\
         Description: keeps microVMs alive\n \
         You say which VMs should exist, from which image and with which ports; the daemon\n \
         hearthd makes it so and keeps it so, through crashes, upgrades and reboots.\n"
    );
    write(&folder.join("control"), control.as_bytes())?;
    write(&folder.join("conffiles"), b"/etc/hearth/config\n")?;
    let shared = read(&packaging().join("debian/lib.sh"))?;
    for script in SCRIPTS {
        let text = read(&packaging().join("debian").join(script))?;
        let path = folder.join(script);
        write(&path, text.replace("#LIB#\n", &shared).as_bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(architecture)
}

/// The packages of the shared libraries that the programs were linked with, and their least
/// versions, as `dpkg-shlibdeps` finds them.
fn libraries(stage: &Path) -> anyhow::Result<String> {
    let folder = tempfolder(stage)?;
    // It wants to find itself in the folder of a source package.
    write(
        &folder.join("debian/control"),
        b"Source: hearth\n\nPackage: hearth\nArchitecture: any\n",
    )?;
    let said = tool(
        Command::new("dpkg-shlibdeps")
            .args(["-O", "--ignore-missing-info"])
            .args([stage.join("usr/bin/hearth"), stage.join("usr/sbin/hearthd")])
            .arg(stage.join("usr/lib/hearth/hearth-shim"))
            .current_dir(&folder),
    )
    .context("the package's dependencies cannot be found (dpkg-shlibdeps is in dpkg-dev)")?;
    fs::remove_dir_all(&folder)?;
    let found = said.trim().strip_prefix("shlibs:Depends=");
    Ok(found.context("dpkg-shlibdeps found no library")?.to_owned())
}

fn tempfolder(stage: &Path) -> anyhow::Result<std::path::PathBuf> {
    let folder = stage.with_file_name("shlibdeps");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
