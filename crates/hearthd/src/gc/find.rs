//! Finding garbage. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_plan::gc::Graph;
use hearth_pool::volume_name;
use hearth_store::VmRow;
use hearth_types::gc::{GcItem, GcKind, GcOutcome};
use hearth_types::ids::{ImageId, SnapshotId, VmId, VolumeId};
use hearth_types::image::ImageRecord;
use hearth_types::orphan::{Orphan, OrphanKind, OrphanState};
use hearth_types::pool::PoolState;
use hearth_types::snapshot::Snapshot;
use hearth_types::survey::chain;
use hearth_types::thin::{PoolVolume, ThinKind, ThinState};
use jiff::{SignedDuration, Timestamp};

use super::downloads::age;
use super::{Ground, Order, skip};
use crate::engine::Engine;
use crate::engine::paths::{Paths, ROOT_DISK};
use crate::pool::whose;

/// An image that is younger is removed by hand alone.
const NEW_IMAGE: Duration = Duration::from_secs(24 * 3600);
/// A layer that is younger may be one of an image that is being pulled.
const YOUNG_LAYER: SignedDuration = SignedDuration::from_hours(24);

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Vm(VmId),
    Snapshot(SnapshotId),
    Volume(VolumeId),
    Image(ImageId),
    Device(u32),
}

/// How a piece is cleaned.
#[derive(Debug)]
pub(super) enum What {
    /// A device of the pool; that of an image that nothing refers to, by its name.
    Device { id: u32, image: Option<String> },
    /// An image.
    Image(ImageId),
    /// A download, by its file's name.
    Download(String),
    /// The record of a pull or import.
    Job(String),
    /// A file, as long as nobody has written to it since.
    File {
        path: Utf8PathBuf,
        changed: SystemTime,
    },
    /// An orphan of the host.
    Leftover,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) items: Vec<(GcItem, What)>,
    pub(super) devices: usize,
    pub(super) unknown: Vec<String>,
}

/// Finds all garbage of these kinds.
///
/// # Errors
/// When the database cannot be read.
pub(super) async fn find(ground: &Ground, order: &Order<'_>) -> anyhow::Result<Found> {
    let engine = &ground.engine;
    let mut found = Found::default();
    let rows = engine.parts.store.vms().await;
    tracing::info!("Step 1: Querying devicemapper for thin devices");
    let mut volumes = found.volumes(ground).await;
    engine.whose().await.tell(&mut volumes);
    let volumes = volumes;
    tracing::info!(count = found.devices, "Found thin devices in devicemapper");
    tracing::info!("Step 2: Querying database for device records");
    let images = match engine.parts.images.list().await {
        Ok(images) => Ok(images),
        Err(error) => Err(format!("images: {}", chain(&error))),
    };
    tracing::info!("Step 3: Identifying orphaned devices");
    let folder = |image: &ImageId| engine.parts.images.volume_path(image).into_string();
    let mut graph = graph(&engine.paths, &rows, images.as_deref(), &volumes, folder);
    let devices = folders(&volumes);
    match engine.parts.store.snapshots().await {
        Ok(snapshots) => refer_snapshots(&mut graph, &snapshots, &devices),
        Err(error) => graph.cannot_tell(format!("snapshots: {}", chain(&error))),
    }
    match engine.parts.store.templates().await {
        // A template is there to be used: so is its image.
        Ok(templates) => templates
            .into_iter()
            .for_each(|one| graph.root(Node::Image(one.image_id))),
        Err(error) => graph.cannot_tell(format!("templates: {}", chain(&error))),
    }
    refer_volumes(engine, &mut graph, &devices).await;
    found.unknown.extend(graph.unknown().iter().cloned());
    let garbage = graph.garbage();
    found.images(images.as_deref().unwrap_or_default(), &garbage, order);
    // What an image has goes with it, and stays with it.
    for image in images.iter().flatten() {
        graph.root(Node::Image(image.id.clone()));
    }
    found.thin_devices(&volumes, &graph.garbage(), engine.now());
    found.orphans(engine).await?;
    found.downloads(ground, order).await;
    found.dumps(engine, &rows).await;
    found.backups(ground).await;
    found.aside(ground, order).await;
    found.items.retain(|(item, _)| {
        // What goes only by name is shown to those who ask for nothing in particular, and left alone.
        order.means(item.kind) || order.kinds.is_empty()
    });
    found.items.sort_by_key(|(item, _)| item.kind);
    for (item, _) in &found.items {
        tracing::warn!(device_id = item.id, device_name = item.object, kind = %item.kind, mounted = false, "Found orphaned device");
    }
    Ok(found)
}

/// Who refers to what, by the records of those who made it.
fn graph(
    paths: &Paths,
    rows: &[VmRow],
    images: Result<&[ImageRecord], &String>,
    volumes: &[PoolVolume],
    image_volume: impl Fn(&ImageId) -> String,
) -> Graph<Node> {
    let mut graph = Graph::default();
    let named: BTreeMap<&str, u32> = volumes
        .iter()
        .filter(|volume| volume.state.is_named())
        .map(|volume| (volume.name.as_str(), volume.id))
        .collect();
    for row in rows {
        let vm = Node::Vm(row.id);
        graph.root(vm.clone());
        graph.refer(vm.clone(), Node::Image(row.image.clone()));
        let data = row.spec.volumes.iter();
        let files = data.map(|volume| Paths::volume_file(volume.name.as_str()));
        for file in files.chain([ROOT_DISK.to_owned()]) {
            if let Some(id) = named.get(volume_name(&paths.vm(row.id).join(file)).as_str()) {
                graph.refer(vm.clone(), Node::Device(*id));
            }
        }
    }
    match images {
        Ok(images) => {
            for image in images {
                let node = Node::Image(image.id.clone());
                graph.add(node.clone());
                let path = image_volume(&image.id);
                if let Some(id) = named.get(volume_name(Utf8Path::new(&path)).as_str()) {
                    graph.refer(node, Node::Device(*id));
                }
            }
        }
        Err(why) => graph.cannot_tell(why),
    }
    for volume in volumes {
        let node = Node::Device(volume.id);
        graph.add(node.clone());
        // What nobody knows anything of may be somebody's; and what is being made has its user already.
        let wanted = volume.kind == ThinKind::Data;
        if wanted || !matches!(volume.state, ThinState::Ready | ThinState::Orphaned) {
            graph.root(node.clone());
        }
        if let Some(origin) = volume.origin {
            graph.refer(node, Node::Device(origin));
        }
    }
    graph
}

/// The devices that have names, by the folders that their volumes are in.
type Folders<'a> = BTreeMap<&'a str, Vec<u32>>;

fn folders(volumes: &[PoolVolume]) -> Folders<'_> {
    let mut folders = Folders::new();
    for volume in volumes.iter().filter(|volume| volume.state.is_named()) {
        if let Some((folder, _)) = whose::parts(&volume.name) {
            folders.entry(folder).or_default().push(volume.id);
        }
    }
    folders
}

fn in_folder<'a>(folders: &'a Folders<'_>, folder: &str) -> &'a [u32] {
    folders.get(folder).map(Vec::as_slice).unwrap_or_default()
}

/// A snapshot needs its VM's image, and the devices of its own folder.
fn refer_snapshots(graph: &mut Graph<Node>, snapshots: &[Snapshot], devices: &Folders<'_>) {
    for snapshot in snapshots {
        let node = Node::Snapshot(snapshot.id);
        graph.root(node.clone());
        graph.refer(node.clone(), Node::Image(snapshot.image.clone()));
        for device in in_folder(devices, &snapshot.id.to_string()) {
            graph.refer(node.clone(), Node::Device(*device));
        }
    }
}

/// A volume of its own needs the devices of its own folder, and a VM the volumes that it has.
async fn refer_volumes(engine: &Engine, graph: &mut Graph<Node>, devices: &Folders<'_>) {
    let all = match engine.volume_views().await {
        Ok(all) => all,
        Err(error) => return graph.cannot_tell(format!("volumes: {error:#}")),
    };
    for view in all {
        let id = view.volume.id;
        // Somebody asked for it, also where no VM has it.
        graph.root(Node::Volume(id));
        for attached in &view.attached {
            graph.refer(Node::Vm(attached.vm), Node::Volume(id));
        }
        for device in in_folder(devices, &id.to_string()) {
            graph.refer(Node::Volume(id), Node::Device(*device));
        }
    }
}

pub(super) fn item(kind: GcKind, id: String, object: String, reason: String) -> GcItem {
    GcItem {
        id,
        kind,
        object,
        reason,
        bytes: None,
        since: None,
        outcome: GcOutcome::Found,
        why: None,
    }
}

/// Why a device stays that no record names.
const fn lost(kind: ThinKind) -> &'static str {
    match kind {
        ThinKind::Snapshot => {
            "it may be of a snapshot whose record is lost: see hearth snapshot ls, hearth volume ls"
        }
        ThinKind::Volume => "it may be of a volume whose record is lost: see hearth volume ls",
        _ => "it may be the disk of a VM whose record is lost: see hearth orphans",
    }
}

impl Found {
    async fn volumes(&mut self, ground: &Ground) -> Vec<PoolVolume> {
        let volumes = match ground.thins.volumes().await {
            Ok(volumes) => {
                // Where there is no pool, and never was anything in one, nothing is missed.
                let state = ground.thins.pool().view().await.state;
                let none = matches!(state, PoolState::Absent | PoolState::Unavailable);
                if !(none && volumes.volumes.is_empty()) {
                    self.unknown.extend(volumes.unknown);
                }
                volumes.volumes
            }
            Err(error) => {
                let why = format!("the pool's devices: {}", chain(&error));
                self.unknown.push(why);
                Vec::new()
            }
        };
        self.devices = volumes.len();
        volumes
    }

    fn thin_devices(&mut self, volumes: &[PoolVolume], garbage: &BTreeSet<Node>, now: Timestamp) {
        for volume in volumes {
            let image = match (volume.state, volume.kind) {
                (ThinState::Orphaned, _) => None,
                (ThinState::Ready, _) if garbage.contains(&Node::Device(volume.id)) => {
                    Some(volume.name.clone())
                }
                _ => continue,
            };
            let reason = match &image {
                None => volume
                    .cause
                    .clone()
                    .unwrap_or_else(|| "its making failed".to_owned()),
                Some(_) => "nothing in the database refers to it".to_owned(),
            };
            let mut item = item(
                GcKind::ThinDevice,
                format!("thin-{}", volume.id),
                volume.name.clone(),
                reason,
            );
            item.bytes = volume.mapped;
            item.since = Some(volume.created_at);
            if image.is_some() && volume.kind == ThinKind::Layer {
                // Images are made of them that are not there yet.
                if now.duration_since(volume.created_at) < YOUNG_LAYER {
                    continue;
                }
            } else if image.is_some() && volume.kind != ThinKind::Image {
                skip(&mut item, lost(volume.kind));
            }
            let id = volume.id;
            self.items.push((item, What::Device { id, image }));
        }
    }

    fn images(&mut self, images: &[ImageRecord], garbage: &BTreeSet<Node>, order: &Order<'_>) {
        for image in images {
            if !garbage.contains(&Node::Image(image.id.clone())) {
                continue;
            }
            let object = image.references.join(", ");
            let reason = "no VM and no snapshot uses it".to_owned();
            let mut item = item(GcKind::Image, image.id.to_string(), object, reason);
            item.bytes = Some(image.disk_bytes);
            item.since = Some(image.imported_at);
            if !order.means(GcKind::Image) {
                skip(
                    &mut item,
                    "images go only when they are asked for: --kind image",
                );
            } else if !order.by_hand && age(image.imported_at, order.now) < NEW_IMAGE {
                skip(
                    &mut item,
                    "it is new, and who pulled it may be about to use it",
                );
            }
            self.items.push((item, What::Image(image.id.clone())));
        }
    }

    /// What is ours and of no VM, and may be removed by hand. A VMM that runs is no garbage.
    async fn orphans(&mut self, engine: &Engine) -> anyhow::Result<()> {
        let list = engine.orphans().await?;
        self.unknown.extend(list.unknown);
        for orphan in list.items {
            if orphan.state != OrphanState::Unwanted {
                continue;
            }
            match orphan.kind {
                OrphanKind::Log | OrphanKind::File => self.file_of_vm(orphan, engine.now()),
                OrphanKind::Vmm => {}
                _ if orphan.removable => self.leftover(orphan),
                _ => {}
            }
        }
        Ok(())
    }

    fn leftover(&mut self, orphan: Orphan) {
        let mut item = item(GcKind::Leftover, orphan.id, orphan.object, orphan.reason);
        item.bytes = orphan.bytes;
        item.since = orphan.since;
        if orphan.adoptable {
            let why = "a VM can be made of it again: hearth orphans adopt, or remove";
            skip(&mut item, why);
        }
        self.items.push((item, What::Leftover));
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::InstallationId;

    use super::*;

    fn volume(id: u32, name: &str, kind: ThinKind, state: ThinState) -> PoolVolume {
        PoolVolume {
            id,
            name: name.to_owned(),
            kind,
            whose: None,
            state,
            bytes: 1,
            mapped: Some(7),
            origin: None,
            device: None,
            cause: None,
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_a_vm_an_image_or_a_person_wants_is_no_garbage() {
        let paths = Paths::new("/data".into());
        let images = [];
        let volumes = [
            volume(1, "gone-volume", ThinKind::Image, ThinState::Ready),
            volume(2, "snap", ThinKind::Snapshot, ThinState::Ready),
            volume(3, "new-volume", ThinKind::Image, ThinState::Filling),
            volume(4, "half", ThinKind::VmRoot, ThinState::Orphaned),
            volume(5, "lost-root", ThinKind::VmRoot, ThinState::Ready),
        ];
        let path = |_: &ImageId| InstallationId::new().to_string();
        let whole = graph(&paths, &[], Ok(&images), &volumes, path);
        let devices = |ids: &[u32]| ids.iter().map(|id| Node::Device(*id)).collect();
        let garbage = whole.garbage();
        assert_eq!(garbage, devices(&[1, 2, 4, 5]));
        let mut found = Found::default();
        found.thin_devices(&volumes, &garbage, Timestamp::UNIX_EPOCH);
        let told: Vec<_> = found
            .items
            .iter()
            .map(|(item, _)| (item.id.as_str(), item.outcome))
            .collect();
        assert_eq!(
            told,
            [
                ("thin-1", GcOutcome::Found),
                ("thin-2", GcOutcome::Skipped),
                ("thin-4", GcOutcome::Found),
                ("thin-5", GcOutcome::Skipped),
            ]
        );
        // Images that cannot be listed may refer to any of them; an orphan is one all the same.
        let blind = graph(&paths, &[], Err(&"the disk".to_owned()), &volumes, path);
        let mut found = Found::default();
        found.thin_devices(&volumes, &blind.garbage(), Timestamp::UNIX_EPOCH);
        assert_eq!(found.items.len(), 1);
        assert_eq!(found.items[0].0.id, "thin-4");
    }

    #[test]
    fn layers_stay_as_long_as_an_image_stands_on_them() {
        let paths = Paths::new("/data".into());
        let layer = |id, origin| PoolVolume {
            origin,
            ..volume(id, "layer", ThinKind::Layer, ThinState::Ready)
        };
        let mut volumes = vec![
            layer(1, None),
            layer(2, Some(1)),
            layer(3, Some(1)),
            PoolVolume {
                origin: Some(2),
                ..volume(4, "new-root", ThinKind::Image, ThinState::Filling)
            },
        ];
        let path = |_: &ImageId| InstallationId::new().to_string();
        let told = |volumes: &[PoolVolume], hours: i64| {
            let whole = graph(&paths, &[], Ok(&[]), volumes, path);
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
            let mut found = Found::default();
            found.thin_devices(volumes, &whole.garbage(), now);
            let items = found.items.into_iter().map(|(item, _)| item);
            let found = items.filter(|item| item.outcome == GcOutcome::Found);
            found.map(|item| item.id).collect::<Vec<_>>()
        };
        // The one beside it goes, when it is old enough to be in nobody's hands.
        assert_eq!(told(&volumes, 25), ["thin-3"]);
        assert_eq!(told(&volumes, 23), [""; 0]);
        volumes.remove(3);
        assert_eq!(told(&volumes, 25), ["thin-1", "thin-2", "thin-3"]);
    }
}
