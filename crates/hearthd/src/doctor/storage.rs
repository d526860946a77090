//! Does what is to outlive a reboot lie where it does?

use camino::Utf8Path;
use hearth_types::api::{DoctorCheck, DoctorStatus};

use super::check;

/// File systems that are in memory, by the kernel's numbers for them (`linux/magic.h`).
const IN_MEMORY: [(u32, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Which file system in memory a folder is on, if it is on one.
pub(crate) fn in_memory(folder: &Utf8Path) -> rustix::io::Result<Option<&'static str>> {
    let found = rustix::fs::statfs(folder.as_str())?;
    // The kernel's numbers have 32 bits, whatever the field has.
    let found = found.f_type.cast_unsigned() & u64::from(u32::MAX);
    let known = IN_MEMORY.iter();
    let known = known.filter(|(number, _)| u64::from(*number) == found);
    Ok(known.map(|(_, name)| *name).next())
}

pub(super) fn storage(data: &Utf8Path) -> DoctorCheck {
    match in_memory(data) {
        Ok(None) => check(
            "storage",
            DoctorStatus::Ok,
            format!("{data} outlives a reboot"),
            None,
        ),
        Ok(Some(kind)) => check(
            "storage",
            DoctorStatus::Warning,
            format!(
                "{data} is in memory ({kind}): a reboot takes the database, images and all disks with it"
            ),
            Some("set DATA_DIR to a folder on a disk, unless nothing is to outlive a reboot"),
        ),
        Err(error) => check(
            "storage",
            DoctorStatus::Failed,
            format!("{data} cannot be looked at: {error}"),
            None,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_memory_is_told_of() {
        // Another kind of file system, and one that every Linux has in memory.
        assert_eq!(in_memory("/proc".into()).unwrap(), None);
        if in_memory("/dev/shm".into()) != Ok(Some("tmpfs")) {
            println!("SKIP: /dev/shm is no tmpfs here");
            return;
        }
        let told = storage("/dev/shm".into());
        assert_eq!(told.status, DoctorStatus::Warning);
        assert!(told.detail.contains("tmpfs"), "{}", told.detail);
        assert_eq!(storage("/proc".into()).status, DoctorStatus::Ok);
        assert_eq!(storage("/nonexistent".into()).status, DoctorStatus::Failed);
    }
}
