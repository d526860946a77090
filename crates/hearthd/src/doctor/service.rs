//! Is the daemon installed as a service, and who may talk to it?

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use camino::Utf8Path;
use hearth_types::api::{ConfigView, DoctorCheck, DoctorStatus};

use super::check;
use crate::listen::GROUP;

/// The daemon's unit.
const UNIT: &str = "hearthd.service";
/// How long systemd may take to say whether the unit is enabled.
const DEADLINE: Duration = Duration::from_secs(10);

/// systemd is the init of this host.
pub(super) fn systemd() -> bool {
    Utf8Path::new("/run/systemd/system").is_dir()
}

/// Whether the daemon is systemd's service and comes back after a reboot.
pub(super) async fn service() -> Option<DoctorCheck> {
    if !systemd() {
        return None;
    }
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if !in_unit(&cgroup) {
        return Some(check(
            "service",
            DoctorStatus::Warning,
            format!("the daemon was started by hand, not as {UNIT}"),
            Some(
                "as a service it comes back after a crash and a reboot: systemctl enable --now hearthd",
            ),
        ));
    }
    // It ends with an error when the answer is no.
    let enabled =
        hearth_host::command::run("systemctl", &["is-enabled", UNIT], b"", DEADLINE).await;
    let watchdog = sd_notify::watchdog_enabled().map_or_else(
        || "without a watchdog".to_owned(),
        |time| format!("watchdog {} s", time.as_secs()),
    );
    Some(match enabled {
        Ok(_) => check(
            "service",
            DoctorStatus::Ok,
            format!("{UNIT}, enabled, {watchdog}"),
            None,
        ),
        Err(_) => check(
            "service",
            DoctorStatus::Warning,
            format!("{UNIT}, not enabled, {watchdog}"),
            Some("after a reboot nobody would start the VMs: systemctl enable hearthd"),
        ),
    })
}

/// A line of /proc/self/cgroup that ends in our unit, in the unified hierarchy or systemd's own.
fn in_unit(cgroup: &str) -> bool {
    cgroup
        .lines()
        .filter_map(|line| line.rsplit_once(':'))
        .any(|(_, path)| path.split('/').any(|part| part == UNIT))
}

/// Who may open the API's socket.
pub(super) fn socket(config: &ConfigView) -> DoctorCheck {
    let entry = config.entries.iter().find(|entry| entry.key == "SOCKET");
    let path = entry.map_or("", |entry| entry.value.as_str());
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) => {
            return check(
                "socket",
                DoctorStatus::Warning,
                format!("{path} cannot be looked at: {error}"),
                Some("is SOCKET the path in hearthd.socket? see the daemon's log"),
            );
        }
    };
    let (mode, gid) = (meta.mode() & 0o777, meta.gid());
    let group = crate::listen::group_name(gid);
    let may = match (mode & 0o006, gid, mode & 0o060) {
        (1.., ..) => "everybody may use it, which is as good as being root".to_owned(),
        (_, 0, _) | (_, _, 0) => "root alone may use it".to_owned(),
        _ => format!("members of {group} may use it"),
    };
    let status = if mode & 0o006 == 0 {
        DoctorStatus::Ok
    } else {
        DoctorStatus::Warning
    };
    check(
        "socket",
        status,
        format!("{path} (mode {mode:03o}, group {group}): {may}"),
        Some(&format!("give it to the group {GROUP} with mode 660")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_told_from_others() {
        assert!(in_unit("0::/system.slice/hearthd.service\n"));
        assert!(in_unit(
            "9:name=systemd:/system.slice/hearthd.service\n0::/\n"
        ));
        for other in [
            "0::/",
            "0::/user.slice/user-0.slice/session-3.scope",
            "0::/system.slice/not-hearthd.service",
            "",
        ] {
            assert!(!in_unit(other), "{other}");
        }
    }
}
