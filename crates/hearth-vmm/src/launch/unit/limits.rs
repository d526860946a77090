//! The limits of a VMM's control group: what they were when it was started, and what has become
//! of them.
//!
//! ```text
//!  start ──► limits.json: what was asked of systemd, and what the kernel made of it
//!                 │
//!  survey ────────┴─ compared with the files of the control group ──► changed
//!                                                                        │
//!  ensure: compared again, asked of systemd again (SetUnitProperties) ◄──┘
//! ```
//! Files are compared as the kernel shows them, so nothing here has to know how systemd rounds a
//! number or finds a device. A record is one of a control group by its inode: that of another run
//! says nothing.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::aside::aside;
use hearth_systemd::Manager;
use hearth_systemd::property::{Property, Setting};
use hearth_types::ids::VmId;
use hearth_types::names::unit_name;
use hearth_types::observe::ChangedLimit;
use hearth_types::process::ProcessIdentity;
use hearth_types::survey::{Survey, chain};
use serde::{Deserialize, Serialize};

use super::properties::SLICE;
use crate::VmmError;

/// The record within the VM's folder.
pub(crate) const FILE: &str = "limits.json";
/// Where cgroup v2 is mounted: systemd's own choice (`file-hierarchy(7)`).
const CGROUPS: &str = "/sys/fs/cgroup";
/// The limit that may not be put back under a VMM that uses more: the kernel would kill it.
const MEMORY: &str = "memory.max";

/// Files of a control group, and the properties of a unit that are behind each
/// (systemd.resource-control(5)).
const LIMITS: [(&str, &[&str]); 8] = [
    (MEMORY, &["MemoryMax"]),
    ("memory.high", &["MemoryHigh"]),
    ("memory.swap.max", &["MemorySwapMax"]),
    ("pids.max", &["TasksMax"]),
    ("cpu.max", &["CPUQuotaPerSecUSec"]),
    ("cpu.weight", &["CPUWeight"]),
    ("io.weight", &["IOWeight"]),
    ("io.max", &PER_DEVICE),
];
/// Those whose value is a list of devices with a number each.
const PER_DEVICE: [&str; 4] = [
    "IOReadBandwidthMax",
    "IOWriteBandwidthMax",
    "IOReadIOPSMax",
    "IOWriteIOPSMax",
];
/// systemd's number for a limit that is not set.
const NOT_SET: u64 = u64::MAX;

/// What is kept of a start.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The inode of the control group's folder.
    cgroup: u64,
    /// What the kernel made of it, by file.
    files: BTreeMap<String, String>,
    /// What was asked for, by property; what is missing was left unset.
    numbers: BTreeMap<String, u64>,
    /// The same for each device.
    devices: BTreeMap<String, Vec<(String, u64)>>,
}

impl Kept {
    fn of(cgroup: &Utf8Path, asked: &[Property]) -> io::Result<Self> {
        let (mut numbers, mut devices) = (BTreeMap::new(), BTreeMap::new());
        for property in asked {
            let name = property.name;
            if !LIMITS.iter().any(|(_, names)| names.contains(&name)) {
                continue;
            }
            match &property.value {
                Setting::Number(number) => drop(numbers.insert(name.to_owned(), *number)),
                Setting::Limits(limits) => drop(devices.insert(name.to_owned(), limits.clone())),
                _ => {}
            }
        }
        Ok(Self {
            cgroup: cgroup.metadata()?.ino(),
            files: read_files(cgroup)?,
            numbers,
            devices,
        })
    }

    /// What is not as it was; nothing when the control group is another one or gone.
    fn changed(&self, cgroup: &Utf8Path) -> io::Result<Vec<ChangedLimit>> {
        match cgroup.metadata() {
            Ok(meta) if meta.ino() == self.cgroup => {}
            Ok(_) => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let now = read_files(cgroup)?;
        let differ = self.files.iter().filter_map(|(name, wanted)| {
            let found = now.get(name).filter(|found| *found != wanted)?;
            Some((name, wanted, found))
        });
        differ
            .map(|(name, wanted, found)| {
                Ok(ChangedLimit {
                    fits: name != MEMORY || fits(cgroup, wanted)?,
                    name: name.clone(),
                    wanted: wanted.clone(),
                    found: found.clone(),
                })
            })
            .collect()
    }

    /// What systemd is asked for to put these back. A list is emptied first: what somebody has
    /// added to it would stay.
    fn properties(&self, changed: &[ChangedLimit]) -> Vec<Property> {
        let mut all = Vec::new();
        for (file, names) in LIMITS {
            if !changed.iter().any(|limit| limit.name == file) {
                continue;
            }
            for name in names {
                if PER_DEVICE.contains(name) {
                    all.push(Property::new(name, Setting::Limits(Vec::new())));
                    let limits = self.devices.get(*name).cloned();
                    all.extend(limits.map(|limits| Property::new(name, Setting::Limits(limits))));
                } else {
                    let number = self.numbers.get(*name).copied().unwrap_or(NOT_SET);
                    all.push(Property::number(name, number));
                }
            }
        }
        all
    }
}

/// The files that there are; a controller that is off has none.
fn read_files(cgroup: &Utf8Path) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for (name, _) in LIMITS {
        match std::fs::read_to_string(cgroup.join(name)) {
            Ok(text) => {
                // Devices come in no order.
                let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
                lines.sort_unstable();
                files.insert(name.to_owned(), lines.join("\n"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Whether all that the kernel cannot take back at once is below a limit of memory.
fn fits(cgroup: &Utf8Path, limit: &str) -> io::Result<bool> {
    let Ok(limit) = limit.parse::<u64>() else {
        return Ok(true);
    };
    let current = std::fs::read_to_string(cgroup.join("memory.current"))?;
    let stat = std::fs::read_to_string(cgroup.join("memory.stat"))?;
    let of = |name: &str| {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(key, _)| *key == name);
        found.and_then(|(_, value)| value.parse::<u64>().ok())
    };
    let cache = of("inactive_file").unwrap_or(0) + of("active_file").unwrap_or(0);
    let current: u64 = current.trim().parse().map_err(io::Error::other)?;
    Ok(current.saturating_sub(cache) <= limit)
}

fn cgroup(vm: VmId) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{CGROUPS}/{SLICE}/{}", unit_name(vm)))
}

/// A start begins: what is kept is of another run.
pub(super) fn forget(dir: &Utf8Path) -> Result<(), VmmError> {
    let path = dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(VmmError::Io {
            operation: "remove",
            path,
            source,
        }),
        _ => Ok(()),
    }
}

/// A VMM was started with these: keeps what the kernel made of them. Without a record the
/// VM runs all the same, and nobody knows whether its limits are changed.
pub(super) fn keep(dir: &Utf8Path, vm: VmId, asked: &[Property]) {
    let cgroup = cgroup(vm);
    if !cgroup.exists() {
        // Not cgroup v2: limits are in another place for each controller.
        return;
    }
    let kept = Kept::of(&cgroup, asked).and_then(|kept| {
        // A record that a crash cuts is no record: it is written whole or not at all.
        let (path, new) = (dir.join(FILE), dir.join("limits.json.new"));
        std::fs::write(&new, serde_json::to_vec(&kept)?)?;
        std::fs::rename(&new, &path)
    });
    if let Err(error) = kept {
        tracing::warn!(%vm, error = %chain(&error), "the VM's limits are not recorded: changes of them will not be noticed");
    }
}

fn kept(dir: &Utf8Path) -> io::Result<Option<Kept>> {
    match std::fs::read(dir.join(FILE)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        // It was started by a version that kept none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn compare(vm: VmId, dir: &Utf8Path) -> io::Result<Option<(Kept, Vec<ChangedLimit>)>> {
    let Some(kept) = kept(dir)? else {
        return Ok(None);
    };
    let changed = kept.changed(&cgroup(vm))?;
    Ok(Some((kept, changed)))
}

/// Which limits of a VM of the database are not as they were at its start.
pub(super) async fn survey(vm: VmId, dir: &Utf8Path) -> Survey<Vec<ChangedLimit>> {
    let dir = dir.to_owned();
    let look = aside(move || compare(vm, &dir)).await;
    match look {
        Ok(Ok(found)) => Survey::Known(found.map(|(_, changed)| changed).unwrap_or_default()),
        Ok(Err(error)) => Survey::Unknown(chain(&error)),
        Err(error) => Survey::Unknown(chain(&error)),
    }
}

/// Puts back what is changed and fits, after the VMM was proved to live in its unit.
pub(crate) async fn ensure(identity: &ProcessIdentity, dir: &Utf8Path) -> Result<(), VmmError> {
    let Some(vm) = identity.mark.vm() else {
        return Ok(());
    };
    let unit = unit_name(vm);
    prove(identity, &unit)?;
    let failed = |detail: String| VmmError::Control {
        vm,
        command: "the change of its limits".to_owned(),
        detail,
    };
    let look = || compare(vm, dir).map_err(|error| failed(chain(&error)));
    let Some((kept, mut changed)) = look()? else {
        return Ok(());
    };
    changed.retain(|limit| limit.fits);
    if changed.is_empty() {
        return Ok(());
    }
    let properties = kept.properties(&changed);
    let manager = Manager::connect().await;
    let manager = manager.map_err(|error| failed(chain(&error)))?;
    let set = manager.set_properties(&unit, &properties).await;
    set.map_err(|error| failed(chain(&error)))?;
    let left = look()?.map(|(_, left)| left).unwrap_or_default();
    match left.iter().find(|limit| limit.fits) {
        None => Ok(()),
        Some(limit) => Err(failed(format!(
            "systemd has set it, and {} of {unit} still is {:?}",
            limit.name, limit.found
        ))),
    }
}

/// The process is the one that was meant, and is in the unit.
fn prove(identity: &ProcessIdentity, unit: &str) -> Result<(), VmmError> {
    let not_proven = |detail: String| VmmError::NotProven {
        identity: Box::new(identity.clone()),
        detail,
    };
    let proven = hearth_host::process::prove(identity);
    let _held = proven.map_err(|error| not_proven(chain(&error)))?;
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", identity.pid));
    let groups = groups.map_err(|error| not_proven(chain(&error)))?;
    let end = format!("/{unit}");
    if groups.lines().any(|line| line.ends_with(&end)) {
        return Ok(());
    }
    Err(not_proven(format!("it does not live in {unit}")))
}

#[cfg(test)]
mod tests;
