//! Records that are kept in files, too, so that they can be made again when the database is lost.
//!
//! ```text
//! volumes/ID/volume.json       a volume, and who has it      written with each change, and by the next
//! snapshots/ID/snapshot.json   a snapshot that is whole      daemon if it is missing; removed before
//! templates/NAME.json          a template                    what it speaks of is
//! ```
//! Without secrets: of environments they have the names, not the values. Read only if it is a small regular file of
//! the daemon's own user. That one cannot be written is logged, and no reason not to do what was asked for.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::aside::aside;
use hearth_types::ids::{InstallationId, SnapshotId, VolumeId};
use hearth_types::mode::Mode;
use hearth_types::names::VmName;
use hearth_types::snapshot::{Snapshot, SnapshotState};
use hearth_types::survey::chain;
use hearth_types::template::Template;
use hearth_types::volume::{VolumeState, VolumeView};
use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::launch::place_file;
use crate::engine::paths::Paths;

/// The largest one that is written or read, in bytes.
const MOST: u64 = 256 << 10;
/// The version of their form.
const FORMAT: u32 = 1;

/// What is kept of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept<T> {
    /// The version of the form.
    format: u32,
    /// Whose it is.
    pub(crate) installation: InstallationId,
    /// The record, without the values of its environment.
    pub(crate) record: T,
    /// Names of the environment variables that were set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) environment: Vec<String>,
}

impl<T> Kept<T> {
    const fn new(installation: InstallationId, record: T) -> Self {
        Self {
            format: FORMAT,
            installation,
            record,
            environment: Vec::new(),
        }
    }
}

impl Kept<Snapshot> {
    /// What is to be kept of a snapshot.
    pub(crate) fn of_snapshot(installation: InstallationId, mut snapshot: Snapshot) -> Self {
        let values = std::mem::take(&mut snapshot.spec.env);
        Self {
            environment: names(values),
            ..Self::new(installation, snapshot)
        }
    }
}

impl Kept<Template> {
    /// What is to be kept of a template.
    pub(crate) fn of_template(installation: InstallationId, mut template: Template) -> Self {
        let values = std::mem::take(&mut template.defaults.env);
        Self {
            environment: names(values),
            ..Self::new(installation, template)
        }
    }
}

impl Kept<VolumeView> {
    /// What is to be kept of a volume.
    pub(crate) const fn of_volume(installation: InstallationId, view: VolumeView) -> Self {
        Self::new(installation, view)
    }
}

fn names(values: BTreeMap<String, String>) -> Vec<String> {
    values.into_keys().collect()
}

/// Where a volume's record is kept.
pub(crate) fn of_volume(paths: &Paths, id: VolumeId) -> Utf8PathBuf {
    paths.volume(id).join("volume.json")
}

/// Where a snapshot's record is kept.
pub(crate) fn of_snapshot(paths: &Paths, id: SnapshotId) -> Utf8PathBuf {
    paths.snapshots().join(id.to_string()).join("snapshot.json")
}

/// Where templates' records are kept.
pub(crate) fn templates(paths: &Paths) -> Utf8PathBuf {
    paths.data().join("templates")
}

fn of_template(paths: &Paths, name: &VmName) -> Utf8PathBuf {
    templates(paths).join(format!("{name}.json"))
}

/// Reads a small file of the daemon's own.
///
/// # Errors
/// When it is missing, is somebody else's or large, or cannot be understood.
pub(crate) fn read_own<T: DeserializeOwned>(path: &Utf8Path) -> anyhow::Result<T> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.as_std_path(), flags, rustix::fs::Mode::empty())
        .with_context(|| format!("cannot open {path}"))?;
    let file = std::fs::File::from(file);
    let meta = file
        .metadata()
        .with_context(|| format!("cannot look at {path}"))?;
    let own = rustix::process::geteuid().as_raw();
    anyhow::ensure!(
        meta.is_file() && meta.uid() == own && meta.len() <= MOST,
        "{path} is not the daemon's own"
    );
    let mut text = Vec::new();
    file.take(MOST)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {path}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{path} cannot be understood"))
}

/// Writes one, durable, unless it says this already.
///
/// # Errors
/// When it would be too large, or cannot be written.
pub(crate) fn write_own<T: Serialize + DeserializeOwned + PartialEq>(
    path: &Utf8Path,
    kept: &T,
) -> anyhow::Result<()> {
    if read_own::<T>(path).is_ok_and(|there| there == *kept) {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(kept)?;
    anyhow::ensure!(text.len() as u64 <= MOST, "it is too large");
    place_file(path, &text, true)
}

/// Reads what is kept of a record.
///
/// # Errors
/// As [`read_own`], and for one of another form.
pub(crate) fn read<T: DeserializeOwned>(path: &Utf8Path) -> anyhow::Result<Kept<T>> {
    let kept: Kept<T> = read_own(path)?;
    anyhow::ensure!(kept.format == FORMAT, "{path} has another form");
    Ok(kept)
}

impl Engine {
    /// Keeps a volume's record as it is now, if it is whole.
    pub(crate) async fn keep_volume(&self, id: VolumeId) {
        // One at a time: of two the later one has what holds.
        let _alone = self.keeping_volumes.lock().await;
        let views = match self.volume_views().await {
            Ok(views) => views,
            Err(error) => return failed("a volume", &error),
        };
        if let Some(view) = views.into_iter().find(|view| view.volume.id == id) {
            self.keep_view(view).await;
        }
    }

    async fn keep_view(&self, view: VolumeView) {
        if view.volume.state != VolumeState::Ready {
            return;
        }
        let path = of_volume(&self.paths, view.volume.id);
        let kept = Kept::of_volume(self.parts.store.installation(), view);
        keep("a volume", path, kept).await;
    }

    /// Keeps the record of a snapshot that is whole.
    pub(crate) async fn keep_snapshot(&self, snapshot: &Snapshot) {
        if snapshot.state == SnapshotState::Ready {
            let path = of_snapshot(&self.paths, snapshot.id);
            let kept = Kept::of_snapshot(self.parts.store.installation(), snapshot.clone());
            keep("a snapshot", path, kept).await;
        }
    }

    /// Keeps a template's record.
    pub(crate) async fn keep_template(&self, template: &Template) {
        let folder = templates(&self.paths);
        let made = aside(move || std::fs::create_dir_all(&folder)).await;
        if let Err(error) = made.map_err(std::io::Error::other).flatten() {
            return failed("a template", &error.into());
        }
        let path = of_template(&self.paths, &template.name);
        let kept = Kept::of_template(self.parts.store.installation(), template.clone());
        keep("a template", path, kept).await;
    }

    /// Has what is kept of a template gone, before the template is.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(crate) async fn drop_template(&self, name: &VmName) -> anyhow::Result<()> {
        let path = of_template(&self.paths, name);
        remove(path).await
    }

    /// What an older daemon has not kept is kept. Nobody waits for it.
    pub(crate) fn keep_records(self: &Arc<Self>) {
        if self.modes.mode() == Mode::Readonly {
            return;
        }
        let engine = Arc::clone(self);
        drop(tokio::spawn(async move {
            let store = &engine.parts.store;
            let volumes = store.volumes().await.unwrap_or_else(nothing("volumes"));
            for volume in volumes {
                engine.keep_volume(volume.id).await;
            }
            let snapshots = store.snapshots().await.unwrap_or_else(nothing("snapshots"));
            for snapshot in snapshots {
                engine.keep_snapshot(&snapshot).await;
            }
            let templates = store.templates().await.unwrap_or_else(nothing("templates"));
            for template in templates {
                engine.keep_template(&template).await;
            }
        }));
    }
}

fn nothing<T>(what: &'static str) -> impl FnOnce(hearth_store::StoreError) -> Vec<T> {
    move |error| {
        tracing::warn!(error = %chain(&error), "the records of {what} are not kept in files: they cannot be read");
        Vec::new()
    }
}

/// Writes one where there is a folder for it.
async fn keep<T>(what: &'static str, path: Utf8PathBuf, kept: Kept<T>)
where
    T: Serialize + DeserializeOwned + PartialEq + Send + 'static,
{
    let done = aside(move || match path.parent().is_some_and(Utf8Path::is_dir) {
        true => write_own(&path, &kept),
        false => Ok(()),
    });
    let done = done.await.map_err(anyhow::Error::from).flatten();
    if let Err(error) = done {
        failed(what, &error);
    }
}

fn failed(what: &'static str, error: &anyhow::Error) {
    tracing::warn!(
        error = format!("{error:#}"),
        "the record of {what} cannot be kept in a file"
    );
}

/// Removes what is kept of a record; what is not there is a success.
///
/// # Errors
/// When it cannot be removed.
pub(crate) async fn remove(path: Utf8PathBuf) -> anyhow::Result<()> {
    let removed = aside(move || match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {path}"))
        }
        _ => Ok(()),
    });
    removed.await.context("the removal was interrupted")?
}
