//! The name server as a transient service of systemd.
//!
//! ```text
//!          StartTransientUnit            dnsmasq has bound its sockets
//!  (none) ───────────────────► starting ───────────────────────────────► running
//!     ▲                           │ it fails                                │ SIGTERM to the
//!     └───────────────────────────┴─────────────────────────────────────────┘ process
//! ```
//!
//! Where systemd is the init the server would otherwise lie in the daemon's own control
//! group: in its limits, and in what ends when that group is ended. A server that an older
//! version left there serves on; it moves when its names change.

use std::io;
use std::time::Duration;

use camino::Utf8Path;
use hearth_host::command;
use hearth_systemd::property::{Property, Setting};
use hearth_systemd::{Manager, State, SystemdError};
use hearth_types::mark::OWNER_ENV;
use hearth_types::names::names_unit;
use hearth_types::observe::{ProcessRole, ROLE_ENV};

use crate::NetworkConfig;
use crate::host::TOOL_DEADLINE;

/// How often a unit that starts or goes is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long dnsmasq may take to end, in microseconds.
const STOP_DEADLINE_MICROS: u64 = 5_000_000;
/// 80,000 names take some 20 MB, the cache and twenty processes for TCP little more.
const MEMORY_MAX: u64 = 256 << 20;
/// dnsmasq answers each client over TCP by a process, twenty at most (`MAX_PROCS`).
const TASKS_MAX: u64 = 32;
/// `EPERM`: what a system call that is not allowed returns.
const EPERM: i32 = 1;

/// Capabilities, by their numbers in linux/capability.h: all that dnsmasq needs to bind
/// port 53 and to become nobody. It has none after that.
mod capability {
    pub(super) const SETGID: u64 = 1 << 6;
    pub(super) const SETUID: u64 = 1 << 7;
    pub(super) const NET_BIND_SERVICE: u64 = 1 << 10;
}

/// How the unit could not be made to run.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnitError {
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("the unit {unit} ended: {result} (status {status}); `journalctl -u {unit}` says why")]
    Ended {
        unit: String,
        result: String,
        status: i32,
    },
    #[error("the unit {unit} {what}; look at `systemctl status {unit}`")]
    Late {
        unit: String,
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Whether the server gets a unit: systemd is the init, this process may make units, and
/// it is in the network that systemd's services are in.
pub(super) fn applies() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    hearth_systemd::is_init()
        && rustix::process::geteuid().is_root()
        && namespace("1").is_some_and(|theirs| namespace("thread-self") == Some(theirs))
}

/// Whether a process lives in this installation's unit.
pub(super) fn holds(config: &NetworkConfig, pid: i32) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let end = format!("/{}", names_unit(config.mark.installation));
    groups.lines().any(|line| line.ends_with(&end))
}

/// Starts dnsmasq in its unit and returns when it has bound its sockets. `hosts` is the file
/// it reads.
pub(super) async fn start(
    config: &NetworkConfig,
    args: &[String],
    hosts: &Utf8Path,
) -> Result<(), UnitError> {
    let unit = names_unit(config.mark.installation);
    let program = command::find("dnsmasq").unwrap_or_else(|| "/usr/sbin/dnsmasq".into());
    let properties = properties(config, &program.to_string_lossy(), args, hosts);
    let manager = Manager::connect().await?;
    let up = async {
        make(&manager, &unit, &properties).await?;
        came_up(&manager, &unit).await
    };
    let late = |_| UnitError::Late {
        unit: unit.clone(),
        what: "does not start in time, or one of an earlier server does not go",
        source: io::ErrorKind::TimedOut.into(),
    };
    tokio::time::timeout(TOOL_DEADLINE, up)
        .await
        .map_err(late)?
}

/// Makes the unit as soon as that of an earlier server, which has ended, is forgotten.
async fn make(manager: &Manager, unit: &str, properties: &[Property]) -> Result<(), UnitError> {
    loop {
        match manager.start_alone(unit, properties).await {
            Ok(()) => return Ok(()),
            Err(SystemdError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match manager.state(unit).await? {
            Some(State::Failed | State::Inactive) => manager.reset_failed(unit).await?,
            // No living server was found, so what is left in it is none of ours to keep.
            Some(State::Active) => manager.stop(unit).await?,
            Some(State::Deactivating) | None => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until dnsmasq has put itself in the background, which is when its sockets are bound.
async fn came_up(manager: &Manager, unit: &str) -> Result<(), UnitError> {
    loop {
        let listed = manager.look(unit).await?;
        let state = listed.as_ref().map(|listed| listed.state);
        match state {
            Some(State::Active) if listed.is_some_and(|listed| listed.sub == "running") => {
                return Ok(());
            }
            // It was just asked for.
            Some(State::Active | State::Deactivating) => {}
            Some(State::Failed | State::Inactive) | None => {
                // A unit whose start is still queued is inactive and has no failure yet.
                let outcome = manager.outcome(unit).await?;
                let queued = outcome.is_some_and(|outcome| outcome.result == "success");
                if state != Some(State::Inactive) || !queued {
                    return Err(ended(manager, unit).await);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn ended(manager: &Manager, unit: &str) -> UnitError {
    let outcome = manager.outcome(unit).await.ok().flatten();
    let (result, status) = outcome.map_or_else(
        || ("unknown".to_owned(), 0),
        |outcome| (outcome.result, outcome.status),
    );
    UnitError::Ended {
        unit: unit.to_owned(),
        result,
        status,
    }
}

/// Everything that stands in the unit.
fn properties(
    config: &NetworkConfig,
    program: &str,
    args: &[String],
    hosts: &Utf8Path,
) -> Vec<Property> {
    let mut all = vec![
        Property::text("Description", format!("Hearth names on {}", config.bridge)),
        Property::texts("Documentation", ["man:hearthd(8)", "man:dnsmasq(8)"]),
        Property::text("Slice", "hearth.slice"),
        // Started before the daemon is stopped after it, and VMs come after this one: a guest
        // that goes down with the host can still look up names.
        Property::texts("Before", ["hearthd.service"]),
        Property::texts("After", ["network.target"]),
        Property::text("CollectMode", "inactive-or-failed"),
        // … but not before its maker has hung up, who asks how it ended.
        Property::flag("AddRef", true),
        Property::text("Type", "forking"),
        // The loop starts it again, with the names of that time.
        Property::text("Restart", "no"),
        Property::text("KillMode", "control-group"),
        Property::number("TimeoutStopUSec", STOP_DEADLINE_MICROS),
        Property::new(
            "ExecStart",
            Setting::Command(program.to_owned(), args.to_vec()),
        ),
        Property::texts(
            "Environment",
            [
                format!("{OWNER_ENV}={}", config.mark),
                format!("{ROLE_ENV}={}", ProcessRole::Names.as_str()),
            ],
        ),
        Property::text("SyslogIdentifier", "hearth-names"),
        Property::flag("MemoryAccounting", true),
        Property::number("MemoryMax", MEMORY_MAX),
        Property::flag("TasksAccounting", true),
        Property::number("TasksMax", TASKS_MAX),
        Property::number("LimitCORE", 0),
    ];
    all.extend(sandbox(hosts));
    all
}

/// What it may touch: its port, the resolvers, and one folder to read.
fn sandbox(hosts: &Utf8Path) -> Vec<Property> {
    use capability::{NET_BIND_SERVICE, SETGID, SETUID};
    let list =
        |values: &[&str]| Setting::List(true, values.iter().map(|v| (*v).to_owned()).collect());
    let below = |folders: &[&str]| folders.iter().any(|folder| hosts.starts_with(folder));
    let home = below(&["/home", "/root", "/run/user"]);
    // Sockets that ask for no permission, or for one that a mistake may give.
    let hidden = ["/run/dbus", "/run/hearth"];
    let hidden = hidden.iter().filter(|folder| !below(&[folder]));
    let mut all = vec![
        Property::flag("NoNewPrivileges", true),
        Property::number("CapabilityBoundingSet", NET_BIND_SERVICE | SETGID | SETUID),
        Property::text("ProtectSystem", "strict"),
        // An installation in a home folder or below /tmp is somebody's experiment.
        Property::text("ProtectHome", if home { "read-only" } else { "yes" }),
        Property::flag("PrivateTmp", !below(&["/tmp", "/var/tmp"])),
        Property::texts(
            "InaccessiblePaths",
            hidden.map(|folder| format!("-{folder}")),
        ),
        Property::number("RestrictNamespaces", 0),
        Property::new(
            "RestrictAddressFamilies",
            list(&["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]),
        ),
        Property::texts("SystemCallArchitectures", ["native"]),
        Property::new("SystemCallFilter", list(&["@system-service"])),
        Property::new("SystemCallErrorNumber", Setting::Signed(EPERM)),
        Property::text("DevicePolicy", "closed"),
        Property::text("KeyringMode", "private"),
    ];
    all.extend(
        [
            "PrivateDevices",
            "PrivateMounts",
            "MemoryDenyWriteExecute",
            "LockPersonality",
            "RestrictRealtime",
            "RestrictSUIDSGID",
            "ProtectKernelTunables",
            "ProtectKernelModules",
            "ProtectKernelLogs",
            "ProtectControlGroups",
            "ProtectClock",
            "ProtectHostname",
        ]
        .map(|name| Property::flag(name, true)),
    );
    all
}

#[cfg(test)]
mod tests {
    use hearth_types::OwnerMark;
    use hearth_types::ids::InstallationId;

    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig {
            bridge: "hearth0".to_owned(),
            table: "hearth".to_owned(),
            subnet: "10.213.0.0/24".parse().unwrap(),
            domain: "hearth.internal".to_owned(),
            mark: OwnerMark::shared(InstallationId::new()),
            dir: "/var/lib/hearth/network".into(),
        }
    }

    fn value<'a>(all: &'a [Property], name: &str) -> &'a Setting {
        let found: Vec<_> = all.iter().filter(|p| p.name == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        &found[0].value
    }

    #[test]
    fn the_unit_carries_the_mark_and_the_arguments_of_the_server() {
        let config = config();
        let args = ["dnsmasq", "--conf-file=/dev/null"].map(str::to_owned);
        let hosts = Utf8Path::new("/var/lib/hearth/network/hosts");
        let all = properties(&config, "/usr/sbin/dnsmasq", &args, hosts);
        let owner = format!("HEARTH_OWNER={}", config.mark);
        assert_eq!(
            *value(&all, "Environment"),
            Setting::Texts(vec![owner, "HEARTH_ROLE=names".to_owned()])
        );
        // The server is found again by these arguments, in a unit or not.
        assert_eq!(
            *value(&all, "ExecStart"),
            Setting::Command("/usr/sbin/dnsmasq".to_owned(), args.to_vec())
        );
        assert_eq!(
            *value(&all, "Slice"),
            Setting::Text("hearth.slice".to_owned())
        );
        let mut names: Vec<_> = all.iter().map(|property| property.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len(), "a property stands there twice");
    }

    #[test]
    fn it_has_three_capabilities_and_sees_no_home_but_its_own() {
        let private = sandbox(Utf8Path::new("/var/lib/hearth/network/hosts"));
        // 2^6 + 2^7 + 2^10
        assert_eq!(
            *value(&private, "CapabilityBoundingSet"),
            Setting::Number(1216)
        );
        assert_eq!(*value(&private, "PrivateTmp"), Setting::Flag(true));
        assert_eq!(
            *value(&private, "ProtectHome"),
            Setting::Text("yes".to_owned())
        );
        let experiment = sandbox(Utf8Path::new("/tmp/try/network/hosts"));
        assert_eq!(*value(&experiment, "PrivateTmp"), Setting::Flag(false));
    }

    #[test]
    fn a_process_elsewhere_is_not_in_the_unit() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!holds(&config(), own));
    }
}
