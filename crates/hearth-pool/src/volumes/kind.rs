//! What a device is for, by the folder that its volume is in.

use camino::Utf8Path;
use hearth_types::thin::ThinKind;

/// What a volume of this path is for; `otherwise` where its folder does not say.
///
/// ```text
/// vms/ID/root.img             vm-root        snapshots/ID/…          snapshot
/// vms/ID/volume-NAME.img      vm-data        volumes/ID/disk-N.img   volume
/// vms/ID/restored-ROOT.new    as the disk that it becomes
/// ```
#[must_use]
pub fn kind_of(path: &Utf8Path, otherwise: ThinKind) -> ThinKind {
    let folders = path.parent().and_then(Utf8Path::parent);
    match folders.and_then(Utf8Path::file_name) {
        Some("vms") => of_a_vm(path),
        Some("snapshots") => ThinKind::Snapshot,
        Some("volumes") => ThinKind::Volume,
        _ => otherwise,
    }
}

fn of_a_vm(path: &Utf8Path) -> ThinKind {
    let stem = path.file_stem().unwrap_or_default();
    match stem.strip_prefix("restored-").unwrap_or(stem) {
        "root" => ThinKind::VmRoot,
        _ => ThinKind::VmData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_says_what_a_device_is_for() {
        let known = [
            ("/d/vms/1/root.img", ThinKind::VmRoot),
            ("/d/vms/1/restored-root.new", ThinKind::VmRoot),
            ("/d/vms/1/volume-root.img", ThinKind::VmData),
            ("/d/vms/1/restored-volume-data.new", ThinKind::VmData),
            ("/d/snapshots/1/root.img", ThinKind::Snapshot),
            ("/d/snapshots/1/volume-data.img", ThinKind::Snapshot),
            ("/d/volumes/1/disk-2.img", ThinKind::Volume),
        ];
        for (path, kind) in known {
            assert_eq!(kind_of(path.into(), ThinKind::Data), kind, "{path}");
        }
        for path in ["/d/elsewhere/1/root.img", "root.img", "/"] {
            assert_eq!(kind_of(path.into(), ThinKind::Image), ThinKind::Image);
        }
    }
}
