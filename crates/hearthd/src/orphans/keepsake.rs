//! `vm.json` in a VM's folder: enough of its record to make it again when the database is lost.
//!
//! Written after each list of steps that makes the folder or starts the VM and with each change of
//! the specification, if it would say something else than it does; nobody's start waits for it,
//! since the first pass of a daemon writes what is missing. Without secrets: of the environment it has the
//! names, not the values. Read only if it is a small regular file of the daemon's own user: the
//! VMM runs as another one, in the same folder.

use std::sync::Arc;

use camino::Utf8Path;
use hearth_store::VmRow;
use hearth_types::ids::{ImageId, InstallationId, VmId};
use hearth_types::spec::VmSpec;
use hearth_types::status::Leases;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::keepsakes::{read_own, write_own};

/// The file's name.
pub const KEEPSAKE: &str = "vm.json";
/// The version of its form.
const FORMAT: u32 = 1;

/// What is kept of a VM's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepsake {
    /// The version of the form.
    pub format: u32,
    /// Whose VM it is.
    pub installation: InstallationId,
    /// Which.
    pub vm: VmId,
    /// What was asked for, without the values of its environment.
    pub spec: VmSpec,
    /// Names of the environment variables that were set.
    pub environment: Vec<String>,
    /// What was leased to it.
    pub leases: Leases,
    /// When it was created.
    pub created_at: Timestamp,
    /// The image its disk was made from.
    pub image: ImageId,
    /// The kernel it boots; the default one when absent.
    pub kernel: Option<String>,
}

impl Keepsake {
    /// What is to be kept of this record.
    #[must_use]
    pub fn of(row: &VmRow, installation: InstallationId) -> Self {
        let environment = row.spec.env.keys().cloned().collect();
        let spec = VmSpec {
            env: std::collections::BTreeMap::new(),
            ..row.spec.clone()
        };
        Self {
            format: FORMAT,
            installation,
            vm: row.id,
            spec,
            environment,
            leases: row.leases.clone(),
            created_at: row.created_at,
            image: row.image.clone(),
            kernel: row.kernel.clone(),
        }
    }
}

impl Engine {
    /// Keeps a VM's record in its folder, if there is one. A failure is logged: it is no reason
    /// not to run the VM.
    pub(crate) fn keep_record(&self, row: &VmRow) {
        let dir = self.paths.vm(row.id);
        if !dir.is_dir() {
            return;
        }
        let kept = Keepsake::of(row, self.parts.store.installation());
        let _alone = self.keeping.lock();
        if let Err(error) = write(&dir, &kept) {
            tracing::warn!(vm = %row.id, error = format!("{error:#}"), "the VM's record cannot be kept in its folder");
        }
    }
}

impl Engine {
    /// The same where nothing may be held up by two syncs; done when this returns.
    pub(crate) async fn keep_record_aside(self: &Arc<Self>, row: &VmRow) {
        let (engine, row) = (Arc::clone(self), row.clone());
        let kept = hearth_host::aside::aside(move || engine.keep_record(&row)).await;
        if let Err(error) = kept {
            tracing::warn!(error = %error, "the VM's record cannot be kept in its folder");
        }
    }
}

fn write(dir: &Utf8Path, kept: &Keepsake) -> anyhow::Result<()> {
    write_own(&dir.join(KEEPSAKE), kept)
}

/// Reads what a VM's folder has.
///
/// # Errors
/// When it is missing, is not the daemon's own small file, or cannot be understood.
pub fn read(dir: &Utf8Path) -> anyhow::Result<Keepsake> {
    let path = dir.join(KEEPSAKE);
    let kept: Keepsake = read_own(&path)?;
    anyhow::ensure!(
        kept.format == FORMAT && dir.file_name() == Some(kept.vm.to_string().as_str()),
        "{path} speaks of another VM, or in another form"
    );
    Ok(kept)
}
