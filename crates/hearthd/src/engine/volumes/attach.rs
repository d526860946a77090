//! Which VM has which volume.

use std::sync::Arc;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::Borrower;
use hearth_host::aside::aside;
use hearth_store::{StoreError, VmRow};
use hearth_types::event::NewEvent;
use hearth_types::ids::VmId;
use hearth_types::problem::{Code, Problem};
use hearth_types::volume::{Attachment, Volume, VolumeView, check_mount};
use hearth_vmm::Disk;

use super::{about, in_use};
use crate::engine::Engine;
use crate::engine::paths::{LENT, Paths};
use crate::engine::snapshots::{conflict, disk_problem};

/// A guest learns of its disks at its start.
fn must_be_down(row: &VmRow, then: &str) -> anyhow::Result<()> {
    if row.status.vmm.is_none() {
        return Ok(());
    }
    let name = &row.spec.name;
    let detail = format!("{name} runs, and its VMM takes and gives disks only at its start");
    let hint = format!("stop it first: hearth stop {name}, then {then}, then hearth start {name}");
    Err(conflict(detail).hint(hint).into())
}

impl Engine {
    /// The volumes that a VM has, the oldest volume first.
    pub(in crate::engine) async fn attachments_of(
        &self,
        vm: VmId,
    ) -> Result<Vec<Attachment>, StoreError> {
        let all = self.parts.store.attachments().await?;
        Ok(all.into_iter().filter(|it| it.vm == vm).collect())
    }

    /// Gives a VM that does not run a volume. It has it from its next start on.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be.
    pub async fn attach_volume(
        self: &Arc<Self>,
        row: &VmRow,
        view: &VolumeView,
        at: Option<String>,
        read_only: bool,
    ) -> anyhow::Result<VolumeView> {
        let volume = &view.volume;
        let mount = at.unwrap_or_else(|| format!("/mnt/{}", volume.name));
        if let Some(error) = check_mount(&mount) {
            return Err(Problem::fields(vec![error]).into());
        }
        let _hold = self
            .volumes
            .read(volume.id)
            .ok_or_else(|| in_use(&volume.name))?;
        let (_borrowed, row) = &self.in_hand(row).await?;
        let vm = &row.spec.name;
        let new = Attachment {
            volume: volume.id,
            name: volume.name.clone(),
            vm: row.id,
            vm_name: vm.clone(),
            mount,
            read_only,
        };
        // Asked for again it is a success, also while the VM runs with it.
        if !self.attachments_of(row.id).await?.contains(&new) {
            must_be_down(row, &format!("hearth volume attach {vm} {}", volume.name))?;
        }
        self.parts.store.attach_volume(new.clone()).await?;
        self.keep_volume(volume.id).await;
        let how = if read_only { ", read-only" } else { "" };
        let words = format!(
            "volume {} attached to {vm} at {}{how}",
            volume.name, new.mount
        );
        let event = NewEvent::info("volume.attached", words);
        self.tell(about(event, volume).vm(row.id, vm)).await;
        self.find_volume(&volume.id.to_string()).await
    }

    /// Takes a volume from a VM that does not run.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be.
    pub async fn detach_volume(
        self: &Arc<Self>,
        row: &VmRow,
        view: &VolumeView,
    ) -> anyhow::Result<VolumeView> {
        let volume = &view.volume;
        let (_borrowed, row) = &self.in_hand(row).await?;
        let vm = &row.spec.name;
        if !view.attached.iter().any(|it| it.vm == row.id) {
            let detail = format!("{vm} does not have volume {}", volume.name);
            return Err(Problem::new(Code::NotFound, detail)
                .hint("see who has it: hearth volume ls")
                .into());
        }
        must_be_down(row, &format!("hearth volume detach {vm} {}", volume.name))?;
        let _unused = self.unused(row).await?;
        // A restore that was cut off may have a new disk for it.
        self.settle_disks(row.id).await?;
        let taken = self.parts.store.detach_volume(volume.id, row.id).await?;
        self.failpoints.hit("after", "volume_detached").await;
        self.keep_volume(volume.id).await;
        let file = Paths::lent_file(volume.name.as_str());
        // One that stays goes before the next start, and with its VM.
        self.take_names_back(&self.paths.vm(row.id), |name| name == file)
            .await?;
        if taken {
            let words = format!("volume {} detached from {vm}", volume.name);
            let event = NewEvent::info("volume.detached", words);
            self.tell(about(event, volume).vm(row.id, vm)).await;
        }
        self.find_volume(&volume.id.to_string()).await
    }

    /// Makes a VM's volumes usable in its folder, for a start: those that it has, and no others.
    pub(in crate::engine) async fn lend_volumes(
        &self,
        lent: &[Attachment],
        dir: &Utf8Path,
        owner: u32,
    ) -> anyhow::Result<Vec<Disk>> {
        let file = |it: &Attachment| Paths::lent_file(it.name.as_str());
        let files: Vec<_> = lent.iter().map(file).collect();
        self.take_names_back(dir, |name| !files.iter().any(|file| file == name))
            .await?;
        if lent.is_empty() {
            return Ok(Vec::new());
        }
        let volumes = self.parts.store.volumes().await?;
        let mut disks = Vec::new();
        for (it, file) in lent.iter().zip(files) {
            let mut volumes = volumes.iter();
            let volume = volumes.find(|volume| volume.id == it.volume);
            let volume = volume.with_context(|| format!("volume {} is not recorded", it.name))?;
            // Moved or exported: what the guest wrote meanwhile would be lost, or in half of it.
            let hold = self.volumes.read(volume.id);
            let _hold = hold.ok_or_else(|| in_use(&volume.name))?;
            Self::must_be_whole(volume)?;
            disks.push(self.lend_volume(volume, it, file, dir, owner).await?);
        }
        Ok(disks)
    }

    async fn lend_volume(
        &self,
        volume: &Volume,
        it: &Attachment,
        file: String,
        dir: &Utf8Path,
        owner: u32,
    ) -> anyhow::Result<Disk> {
        let path = self.paths.volume_disk(volume.id, volume.disk);
        let to = Borrower {
            owner,
            read_only: it.read_only,
        };
        let standing = self.parts.disks.lend(&path, &dir.join(&file), to).await;
        let what = format!("volume {} cannot be used", volume.name);
        let standing = standing.map_err(|error| disk_problem(&what, &error))?;
        Ok(Disk {
            file,
            serial: Volume::serial(volume.id),
            read_only: it.read_only,
            device: standing.device,
            lent: true,
        })
    }

    /// Takes second names out of a VM's folder.
    pub(in crate::engine) async fn take_names_back(
        &self,
        dir: &Utf8Path,
        which: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let folder = dir.to_owned();
        let found = aside(move || second_names(&folder)).await??;
        for name in found.iter().filter(|name| which(name)) {
            let taken = self.parts.disks.take_back(&dir.join(name)).await;
            taken.map_err(|error| disk_problem("a volume is not taken back", &error))?;
        }
        Ok(())
    }
}

/// The second names of volumes in a VM's folder.
fn second_names(dir: &Utf8PathBuf) -> anyhow::Result<Vec<String>> {
    let entries = match dir.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {dir}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {dir}"))?;
        if entry.file_name().starts_with(LENT) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
