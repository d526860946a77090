//! What `/sys` and `/proc` tell of block devices, without waiting for any of them.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_dm::Device;
use hearth_dm::thin::SECTOR;

use crate::base::Unfit;

/// Links that udev makes of what a device is, the most lasting ones first. Those of what is written on it
/// (`lvm-pv-uuid-`) are no names of it.
const LASTING: [&str; 5] = ["dm-uuid-", "md-uuid-", "wwn-", "nvme-eui.", "nvme-uuid."];
const OF_CONTENT: &str = "lvm-pv-uuid-";
/// How uuids of LVM's devices begin, and those of Hearth's.
const LVM: &str = "LVM-";
const OURS: &str = "HEARTH-";

/// Why a device is out of the question whatever is on it, and what it is.
pub(super) fn speaks_against(number: Device) -> Option<(Unfit, String)> {
    let place = place(number);
    let name = place.file_name()?;
    if name.starts_with("ram") || name.starts_with("zram") {
        let what = "is in memory, and gone after a reboot".to_owned();
        return Some((Unfit::NoDevice, what));
    }
    if let Some(at) = mounted(number) {
        return Some((Unfit::InUse, format!("is mounted at {at}")));
    }
    if let Some(name) = swapped_to(number) {
        return Some((Unfit::InUse, format!("is used as swap ({name})")));
    }
    if read(&place.join("dm/uuid")).is_some_and(|uuid| uuid.starts_with(OURS)) {
        return Some((Unfit::InUse, "is a device of Hearth's own".to_owned()));
    }
    let holders = entries(&place.join("holders"));
    if !holders.is_empty() {
        let holders: Vec<String> = holders.iter().map(|name| called(name)).collect();
        let what = format!("is in use: {} stands on it", holders.join(", "));
        return Some((Unfit::InUse, what));
    }
    let parts: Vec<String> = entries(&place)
        .into_iter()
        .filter(|name| place.join(name).join("partition").exists())
        .collect();
    if !parts.is_empty() {
        let what = format!("has partitions: {}", parts.join(", "));
        return Some((Unfit::InUse, what));
    }
    if read(&place.join("ro")).as_deref() == Some("1") {
        return Some((Unfit::ReadOnly, "is read-only".to_owned()));
    }
    None
}

/// A name below /dev that is the same after a reboot.
pub(super) fn lasting_name(node: &Utf8Path) -> Option<Utf8PathBuf> {
    let is_it = |link: &Utf8PathBuf| link.canonicalize_utf8().is_ok_and(|of| of == node);
    let links = |folder: &'static str| {
        let folder = Utf8Path::new(folder);
        let mut names = entries(folder);
        names.retain(|name| !name.starts_with(OF_CONTENT));
        names.sort_by_key(|name| {
            let rank = LASTING.iter().position(|begin| name.starts_with(begin));
            (rank.unwrap_or(LASTING.len()), name.clone())
        });
        names.into_iter().map(move |name| folder.join(name))
    };
    links("/dev/disk/by-id")
        .chain(links("/dev/disk/by-path"))
        .find(is_it)
}

/// LVM's name of a device: `group/volume`.
pub(super) fn logical_volume(number: Device) -> Option<String> {
    let place = place(number);
    read(&place.join("dm/uuid"))?.strip_prefix(LVM)?;
    group_and_volume(&read(&place.join("dm/name"))?)
}

/// In a name of LVM's a single hyphen stands between group and volume, and two for each of their own.
fn group_and_volume(name: &str) -> Option<String> {
    let plain = name.replace("--", "\0");
    let (group, volume) = plain.split_once('-')?;
    Some(format!("{group}/{volume}").replace('\0', "-"))
}

/// Devices that nobody uses, of any name.
pub(super) fn others() -> impl Iterator<Item = (Utf8PathBuf, Device)> {
    let all = Utf8Path::new("/sys/class/block");
    entries(all).into_iter().filter_map(|name| {
        let place = all.join(&name);
        let in_memory = name.starts_with("ram") || name.starts_with("zram");
        let ours = read(&place.join("dm/uuid")).is_some_and(|uuid| uuid.starts_with(OURS));
        let held = !entries(&place.join("holders")).is_empty();
        if in_memory || ours || held || size(&place) == 0 {
            return None;
        }
        let number = parse(&read(&place.join("dev"))?)?;
        Some((node_of(&name), number))
    })
}

/// The bytes of the device below the one of ours with this uuid.
pub(super) fn below(uuid: &str) -> Option<u64> {
    let all = Utf8Path::new("/sys/class/block");
    let ours = entries(all)
        .into_iter()
        .find(|name| read(&all.join(name).join("dm/uuid")).as_deref() == Some(uuid))?;
    let slave = entries(&all.join(ours).join("slaves")).into_iter().next()?;
    Some(size(&all.join(slave)))
}

/// Its node.
pub(super) fn node(number: Device) -> Option<Utf8PathBuf> {
    Some(node_of(place(number).file_name()?))
}

/// How large it is.
pub(super) fn bytes(number: Device) -> u64 {
    size(&place(number))
}

/// Its folder, whose name is the kernel's for it.
fn place(number: Device) -> Utf8PathBuf {
    let link = Utf8PathBuf::from(format!("/sys/dev/block/{number}"));
    link.canonicalize_utf8().unwrap_or(link)
}

/// A slash in a name is an exclamation mark in `/sys`.
fn node_of(name: &str) -> Utf8PathBuf {
    Utf8Path::new("/dev").join(name.replace('!', "/"))
}

fn called(name: &str) -> String {
    let path = format!("/sys/class/block/{name}/dm/name");
    read(Utf8Path::new(&path)).unwrap_or_else(|| name.to_owned())
}

fn size(place: &Utf8Path) -> u64 {
    let sectors = read(&place.join("size")).and_then(|text| text.parse::<u64>().ok());
    sectors.unwrap_or(0).saturating_mul(SECTOR)
}

fn parse(text: &str) -> Option<Device> {
    let (major, minor) = text.split_once(':')?;
    Some(Device {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// Where it is mounted, in this process's view.
fn mounted(number: Device) -> Option<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let wanted = number.to_string();
    all.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.nth(2)? == wanted).then(|| words.nth(1).map(str::to_owned))?
    })
}

fn swapped_to(number: Device) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let all = fs::read_to_string("/proc/swaps").ok()?;
    let mut names = all
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().next());
    let is_it =
        |name: &&str| fs::metadata(name).is_ok_and(|meta| super::number(meta.rdev()) == number);
    names.find(is_it).map(str::to_owned)
}

fn entries(folder: &Utf8Path) -> Vec<String> {
    let Ok(entries) = folder.read_dir_utf8() else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_owned());
    names.collect()
}

fn read(path: &Utf8Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lvms_names_are_taken_apart() {
        for (name, said) in [
            ("vg0-pool", Some("vg0/pool")),
            ("my--group-the--pool", Some("my-group/the-pool")),
            ("a----b-c", Some("a--b/c")),
            ("nothing", None),
        ] {
            assert_eq!(group_and_volume(name).as_deref(), said, "{name}");
        }
    }
}
