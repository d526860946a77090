//! Whose a device of the pool is, by the records of the database: a device's name begins with the name of
//! the folder that its volume is in, and that is the id of a VM, an image, a snapshot or a volume.

use std::collections::HashMap;

use hearth_types::survey::chain;
use hearth_types::thin::{PoolVolume, ThinKind};

use crate::engine::Engine;

/// How long the id of a VM, a snapshot or a volume is (RFC 9562).
const ID: usize = "01890a5d-ac96-774b-bcce-b302099a8057".len();
/// How long that of an image is, without its algorithm: SHA-256 in hexadecimal.
const DIGEST: usize = 64;

/// Who may have devices.
#[derive(Debug)]
enum Owner {
    Vm(String),
    Image(String),
    /// Its name, and that of its VM.
    Snapshot(String, String),
    /// Its name, and what it is a snapshot of.
    Volume(String, Option<String>),
}

/// All who may have devices, by the folders of their volumes.
#[derive(Debug, Default)]
pub(crate) struct Whose(HashMap<String, Owner>);

/// The id that a device's name begins with, and the rest of it.
pub(crate) fn parts(name: &str) -> Option<(&str, &str)> {
    split(name, ID)
}

fn split(name: &str, at: usize) -> Option<(&str, &str)> {
    let (folder, rest) = name.split_at_checked(at)?;
    Some((folder, rest.strip_prefix('-')?))
}

impl Whose {
    /// What a device of this name is for, and whose it is; `None` where no record says so.
    pub(crate) fn of(&self, name: &str) -> Option<(ThinKind, String)> {
        let found = [ID, DIGEST].into_iter().find_map(|length| {
            let (folder, rest) = split(name, length)?;
            Some((self.0.get(folder)?, rest))
        });
        let (owner, rest) = found?;
        Some(match owner {
            Owner::Vm(vm) => match disk(rest.strip_prefix("restored-").unwrap_or(rest)) {
                None => (ThinKind::VmRoot, format!("vm {vm}")),
                Some(volume) => (ThinKind::VmData, format!("vm {vm}: {volume}")),
            },
            Owner::Image(image) => (ThinKind::Image, format!("image {image}")),
            Owner::Snapshot(snapshot, vm) => {
                let disk = disk(rest).unwrap_or("root");
                let words = format!("snapshot {snapshot} of {vm}: {disk}");
                (ThinKind::Snapshot, words)
            }
            Owner::Volume(volume, None) => (ThinKind::Volume, format!("volume {volume}")),
            Owner::Volume(volume, Some(of)) => {
                let words = format!("snapshot {volume} of volume {of}");
                (ThinKind::Snapshot, words)
            }
        })
    }

    /// Puts it into what is shown.
    pub(crate) fn tell(&self, volumes: &mut [PoolVolume]) {
        for volume in volumes {
            if let Some((kind, whose)) = self.of(&volume.name) {
                (volume.kind, volume.whose) = (kind, Some(whose));
            }
        }
    }
}

/// The volume that a disk's file is of; `None` for the root disk.
fn disk(stem: &str) -> Option<&str> {
    let volume = stem.strip_prefix("volume-");
    volume.or_else(|| stem.strip_prefix("attached-"))
}

impl Engine {
    /// Who may have devices of the pool. What cannot be read has none.
    pub(crate) async fn whose(&self) -> Whose {
        let (store, mut all) = (&self.parts.store, HashMap::new());
        for row in store.vms().await {
            all.insert(row.id.to_string(), Owner::Vm(row.spec.name.to_string()));
        }
        match store.snapshots().await {
            Ok(snapshots) => all.extend(snapshots.into_iter().map(|one| {
                let owner = Owner::Snapshot(one.name.to_string(), one.vm_name.to_string());
                (one.id.to_string(), owner)
            })),
            Err(error) => not_told("snapshots", &error),
        }
        match store.volumes().await {
            Ok(volumes) => all.extend(volumes.into_iter().map(|one| {
                let of = one.snapshot_of.map(|of| of.to_string());
                (one.id.to_string(), Owner::Volume(one.name.to_string(), of))
            })),
            Err(error) => not_told("volumes", &error),
        }
        all.extend(self.images_and_templates().await);
        Whose(all)
    }

    async fn images_and_templates(&self) -> Vec<(String, Owner)> {
        let templates = self.parts.store.templates().await;
        let templates = templates.unwrap_or_else(|error| {
            not_told("templates", &error);
            Vec::new()
        });
        let images = match self.parts.images.list().await {
            Ok(images) => images,
            Err(error) => {
                not_told("images", &error);
                return Vec::new();
            }
        };
        let owners = images.into_iter().map(|image| {
            let of = templates.iter().filter(|it| it.image_id == image.id);
            let of: Vec<_> = of.map(|it| format!("template {}", it.name)).collect();
            let mut words = match image.references.first() {
                Some(reference) => reference.clone(),
                None => image.id.to_string(),
            };
            if !of.is_empty() {
                words = format!("{words} ({})", of.join(", "));
            }
            (image.id.hex().to_owned(), Owner::Image(words))
        });
        owners.collect()
    }
}

fn not_told(what: &str, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error = %chain(error), "whose devices of the pool are cannot be told: {what} cannot be read");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_of_whom_its_name_begins_with() {
        let [vm, snapshot, volume, kept] = ["a", "b", "c", "d"].map(|letter| letter.repeat(ID));
        let image = "5".repeat(DIGEST);
        let name = |text: &str| text.to_owned();
        let all = [
            (vm.clone(), Owner::Vm(name("web"))),
            (
                snapshot.clone(),
                Owner::Snapshot(name("before"), name("web")),
            ),
            (volume.clone(), Owner::Volume(name("pgdata"), None)),
            (
                kept.clone(),
                Owner::Volume(name("kept"), Some(name("pgdata"))),
            ),
            (image.clone(), Owner::Image(name("demo:1"))),
        ];
        let whose = Whose(all.into_iter().collect());
        for (device, kind, words) in [
            (format!("{vm}-root"), ThinKind::VmRoot, "vm web"),
            (format!("{vm}-restored-root"), ThinKind::VmRoot, "vm web"),
            (format!("{vm}-volume-db"), ThinKind::VmData, "vm web: db"),
            (
                format!("{snapshot}-root"),
                ThinKind::Snapshot,
                "snapshot before of web: root",
            ),
            (
                format!("{snapshot}-attached-pgdata"),
                ThinKind::Snapshot,
                "snapshot before of web: pgdata",
            ),
            (
                format!("{volume}-disk-2"),
                ThinKind::Volume,
                "volume pgdata",
            ),
            (
                format!("{kept}-disk-1"),
                ThinKind::Snapshot,
                "snapshot kept of volume pgdata",
            ),
            (format!("{image}-root"), ThinKind::Image, "image demo:1"),
        ] {
            assert_eq!(whose.of(&device), Some((kind, name(words))), "{device}");
        }
        for other in [
            format!("layer-{image}"),
            vm.clone(),
            format!("{vm}root"),
            format!("{}-root", "e".repeat(ID)),
            "unknown-7".to_owned(),
            "ä".repeat(40),
        ] {
            assert_eq!(whose.of(&other), None, "{other}");
        }
    }
}
