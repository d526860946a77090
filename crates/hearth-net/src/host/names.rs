//! The name server of the bridge: dnsmasq, detached, owned by its environment.
//!
//! ```text
//!             start (marked, hosts file)                  hosts file replaced, SIGHUP
//!   absent ───────────────────────────────► running ◄──────────────────────────────┐
//!      ▲                                       │ other arguments than wanted:       │
//!      └──────── ended (proved first) ◄────────┴─ end, start again         same ────┘
//! ```
//!
//! dnsmasq puts itself in the background in a session of its own, so it is nobody's child
//! and no daemon's death touches it; it serves on while Hearth is away. Where systemd is the
//! init it does so in a unit of its own (`unit`), and is found and ended in the same way. It gives up root
//! for `nobody` before it reads the hosts file, so that file's folder must let everybody
//! pass; where the configured folder's parents do not, a folder under `/run` takes its place.

mod unit;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::command;
use hearth_host::process::ProcessError;
use hearth_types::mark::OWNER_ENV;
use hearth_types::observe::{ObservedNames, ProcessRole, ROLE_ENV};

use super::TOOL_DEADLINE;
use super::proc::{self, Server};
use crate::{NetError, NetworkConfig};

/// The account that dnsmasq runs as.
const USER: &str = "nobody";
/// The hosts file's name in its folder.
const HOSTS_FILE: &str = "hosts";
/// Beside it while the server may not have read it yet: a crash between the file's change
/// and the signal must not look like names that are served.
const PENDING_EXTENSION: &str = "pending";
/// How long dnsmasq may take to end before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// Largest hosts file that is read, in bytes: some 80,000 names.
const HOSTS_LIMIT: u64 = 8 << 20;

/// What is wrong with the names.
#[derive(Debug, thiserror::Error)]
enum NamesError {
    #[error("{0:?} is not a host name in small letters")]
    BadName(String),
    #[error("the hosts file {0} is too large")]
    TooLarge(Utf8PathBuf),
}

/// Whether it is a name of labels of small letters, digits and '-', joined by dots.
pub(super) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// The name server if it lives, and the names that it reads.
pub(super) async fn observe(config: &NetworkConfig) -> Result<ObservedNames, NetError> {
    let found = find(config).map_err(|e| failed("survey", e))?;
    let wanted = arguments(config, &hosts_path(config));
    let Some(server) = found.first().filter(|server| server.args == wanted) else {
        // One with arguments of an older configuration serves no names of this one.
        return Ok(ObservedNames {
            running: !found.is_empty(),
            hosts: BTreeMap::new(),
        });
    };
    let path = hosts_of(server);
    let hosts = if path.with_extension(PENDING_EXTENSION).exists() {
        BTreeMap::new()
    } else {
        read_hosts(&path).map_err(|e| failed("survey", e))?
    };
    Ok(ObservedNames {
        running: true,
        hosts,
    })
}

pub(super) async fn ensure(
    config: &NetworkConfig,
    hosts: &BTreeMap<String, Ipv4Addr>,
) -> Result<(), NetError> {
    if let Some(bad) = hosts.keys().find(|name| !is_host_name(name)) {
        return Err(failed("write", NamesError::BadName(bad.clone())));
    }
    let path = hosts_path(config);
    let wanted = arguments(config, &path);
    let mut running = None;
    for server in find(config).map_err(|e| failed("survey", e))? {
        if server.args == wanted && running.is_none() {
            running = Some(server);
        } else {
            let ended = proc::end(&server, END_PATIENCE).await;
            ended.map_err(|e| failed("end the older", e))?;
        }
    }
    let pending = path.with_extension(PENDING_EXTENSION);
    let same =
        path.exists() && !pending.exists() && read_hosts(&path).is_ok_and(|now| now == *hosts);
    if same && running.is_some() {
        return Ok(());
    }
    write_hosts(&path, hosts).map_err(|e| failed("write the file of", e))?;
    let in_unit = unit::applies();
    if let Some(server) = running.take_if(|server| in_unit && !unit::holds(config, server.pid())) {
        // An older version started it in the daemon's control group.
        let ended = proc::end(&server, END_PATIENCE).await;
        ended.map_err(|e| failed("move", e))?;
    }
    let reloaded = match running {
        Some(server) => proc::reload(&server).map_err(|e| failed("reload", e))?,
        None => false,
    };
    if !reloaded && in_unit {
        installed()?;
        let started = unit::start(config, &wanted, &path).await;
        started.map_err(|e| failed("start", e))?;
    } else if !reloaded {
        start(config, &wanted).await?;
    }
    unless_absent(std::fs::remove_file(&pending)).map_err(|e| failed("write the file of", e))
}

pub(super) async fn remove(config: &NetworkConfig) -> Result<(), NetError> {
    for server in find(config).map_err(|e| failed("survey", e))? {
        let ended = proc::end(&server, END_PATIENCE).await;
        ended.map_err(|e| failed("end", e))?;
    }
    let fallback = fallback_dir(config);
    for dir in [&config.dir, &fallback] {
        let path = dir.join(HOSTS_FILE);
        for path in [&path, &path.with_extension(PENDING_EXTENSION)] {
            let removed = std::fs::remove_file(path);
            unless_absent(removed).map_err(|e| failed("remove the file of", e))?;
        }
    }
    unless_absent(std::fs::remove_dir(&fallback)).map_err(|e| failed("remove the folder of", e))
}

fn find(config: &NetworkConfig) -> Result<Vec<Server>, ProcessError> {
    proc::find(config.mark)
}

/// Starts dnsmasq. It returns when the server has bound its sockets and is on its own.
async fn start(config: &NetworkConfig, wanted: &[String]) -> Result<(), NetError> {
    // `env` sets the mark: the runner clears the environment of what it runs.
    let owner = format!("{OWNER_ENV}={}", config.mark);
    let role = format!("{ROLE_ENV}={}", ProcessRole::Names.as_str());
    installed()?;
    let mut args = vec![owner.as_str(), role.as_str()];
    args.extend(wanted.iter().map(String::as_str));
    command::run("env", &args, b"", TOOL_DEADLINE)
        .await
        .map(drop)
        .map_err(|e| failed("start", e))
}

/// Says that dnsmasq is missing where nobody else would.
fn installed() -> Result<(), NetError> {
    if command::find("dnsmasq").is_some() {
        return Ok(());
    }
    let program = "dnsmasq".to_owned();
    Err(failed("start", command::CommandError::Missing { program }))
}

/// The whole configuration; the first is the program.
fn arguments(config: &NetworkConfig, hosts: &Utf8Path) -> Vec<String> {
    let domain = &config.domain;
    vec![
        "dnsmasq".to_owned(),
        // Nothing of the host's own dnsmasq.
        "--conf-file=/dev/null".to_owned(),
        "--pid-file=".to_owned(),
        format!("--user={USER}"),
        // The bridge's address and no other: not loopback, not the outside. It is bound when the
        // server starts, and said here, so that one of another subnet is seen to be another.
        format!("--interface={}", config.bridge),
        format!("--listen-address={}", config.gateway().addr()),
        "--except-interface=lo".to_owned(),
        "--bind-interfaces".to_owned(),
        "--no-hosts".to_owned(),
        format!("--addn-hosts={hosts}"),
        format!("--domain={domain}"),
        "--expand-hosts".to_owned(),
        // What is not in the file does not exist: nobody outside is asked for our names.
        format!("--local=/{domain}/"),
        "--domain-needed".to_owned(),
        "--bogus-priv".to_owned(),
        "--cache-size=1000".to_owned(),
    ]
}

/// Where dnsmasq reads its names.
fn hosts_of(server: &Server) -> Utf8PathBuf {
    let option = |arg: &String| arg.strip_prefix("--addn-hosts=").map(Utf8PathBuf::from);
    server.args.iter().find_map(option).unwrap_or_default()
}

fn hosts_path(config: &NetworkConfig) -> Utf8PathBuf {
    let dir = match config.dir.parent() {
        Some(parent) if everybody_passes(parent) => config.dir.clone(),
        _ => fallback_dir(config),
    };
    dir.join(HOSTS_FILE)
}

fn fallback_dir(config: &NetworkConfig) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("/run/hearth-names-{}", config.mark.installation))
}

/// Whether every folder on the way lets others pass. One that is not there yet will be made.
fn everybody_passes(dir: &Utf8Path) -> bool {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    // Links are followed first: the folders behind them count.
    let Ok(real) = there.canonicalize_utf8() else {
        return false;
    };
    real.ancestors()
        .filter_map(|dir| std::fs::metadata(dir).ok())
        .all(|meta| meta.permissions().mode() & 0o001 != 0)
}

fn read_hosts(path: &Utf8Path) -> io::Result<BTreeMap<String, Ipv4Addr>> {
    let text = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > HOSTS_LIMIT => {
            return Err(io::Error::other(NamesError::TooLarge(path.to_owned())));
        }
        Ok(_) => std::fs::read_to_string(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let entry = |line: &str| {
        let (ip, name) = line.split_once(' ')?;
        Some((name.to_owned(), ip.parse().ok()?))
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// Replaces the file as a whole: dnsmasq reads the old one or the new one.
fn write_hosts(path: &Utf8Path, hosts: &BTreeMap<String, Ipv4Addr>) -> io::Result<()> {
    let mut text = String::from("# Written by hearthd, replaced with every change.\n");
    for (name, ip) in hosts {
        writeln!(text, "{ip} {name}").expect("writing to a String cannot fail");
    }
    if let Some(dir) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(dir)?;
        // The mode above passes through the umask.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::write(path.with_extension(PENDING_EXTENSION), "")?;
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644))?;
    std::fs::rename(&new, path)
}

fn unless_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(
    operation: &'static str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> NetError {
    NetError::failed(operation, "the name server", error)
}
