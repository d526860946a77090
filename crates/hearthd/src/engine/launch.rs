//! Getting a VM's folder ready and putting a launch together.

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::{DiskError, Made, Volumes};
use hearth_guest_proto::config::GuestConfig;
use hearth_host::aside::aside;
use hearth_store::VmRow;
use hearth_types::OwnerMark;
use hearth_types::names::tap_name;
use hearth_types::spec::{NetworkMode, VolumeSpec};
use hearth_types::units::Bytes;
use hearth_types::volume::Attachment;
use hearth_vmm::{Disk, KernelFiles, LaunchSpec, Nic};
use serde::{Deserialize, Serialize};

use super::Engine;
use super::agents::nonce;
use super::disks::MadeDisks;
use super::guest_config::guest_config;
use super::paths::{DISKS_MARKER, INITRD, LAUNCH_RECORD, Paths, ROOT_DISK};
use super::snapshots::Origin;
use crate::health::{ConsoleMark, console_mark};

/// What the current run of a VM was started with: lets a later daemon talk to its guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// The nonce in the guest's configuration: proves that an answer comes from this run.
    pub boot_nonce: String,
    /// The driver.
    pub driver: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Where the console's log ended before the run; absent in records of an older Hearth.
    #[serde(default)]
    pub console: Option<ConsoleMark>,
    /// The files of the disks, in their order; empty in records of an older Hearth.
    #[serde(default)]
    pub disks: Vec<String>,
}

impl Engine {
    /// Makes the VM's folder with all of its disks. The marker comes last: without it the
    /// disks do not count.
    pub(super) async fn ensure_disks(&self, row: &VmRow) -> anyhow::Result<()> {
        let dir = self.paths.vm(row.id);
        make_dir(&dir)?;
        let origin = self.origin(row.id).await?;
        self.ensure_root(row, &dir, origin.as_ref()).await?;
        for volume in &row.spec.volumes {
            self.ensure_volume(row, &dir, volume, origin.as_ref())
                .await?;
        }
        let marker = serde_json::to_vec(&MadeDisks::of(row))?;
        place_aside(dir.join(DISKS_MARKER), marker, true).await?;
        if origin.is_some() {
            // The snapshot may go from now on.
            self.parts.store.forget_origin(row.id).await?;
        }
        Ok(())
    }

    async fn ensure_root(
        &self,
        row: &VmRow,
        dir: &Utf8Path,
        origin: Option<&Origin>,
    ) -> anyhow::Result<()> {
        let image = self.parts.images.get(row.image.as_str()).await;
        let image = image.with_context(|| format!("image {} is needed", row.image))?;
        let wanted = row.spec.disk.unwrap_or_default();
        let size = wanted.max(Bytes(image.volume_bytes));
        let (root, owner, disks) = (dir.join(ROOT_DISK), self.vmm_uid(row), &*self.parts.disks);
        let of_snapshot = origin.and_then(|origin| origin.disk(ROOT_DISK));
        let (size, made) = match of_snapshot {
            Some((source, least)) => {
                let size = size.max(least);
                (size, disks.duplicate(&source, &root, size, owner).await?)
            }
            None => {
                let source = self.parts.images.volume_path(&row.image);
                let made = Volumes::clone_from(disks, &source, &root, size, owner).await?;
                (size, made)
            }
        };
        tracing::debug!(vm = %row.id, ?made, "root disk");
        self.at_least(&root, size, made).await
    }

    async fn ensure_volume(
        &self,
        row: &VmRow,
        dir: &Utf8Path,
        volume: &VolumeSpec,
        origin: Option<&Origin>,
    ) -> anyhow::Result<()> {
        let name = volume.name.as_str();
        let (file, owner) = (Paths::volume_file(name), self.vmm_uid(row));
        let (path, disks) = (dir.join(&file), &self.parts.disks);
        let of_snapshot = origin.and_then(|origin| origin.disk(&file));
        let made = match of_snapshot {
            Some((source, least)) => {
                let size = volume.size.max(least);
                disks.duplicate(&source, &path, size, owner).await?
            }
            None => disks.create_ext4(&path, volume.size, name, owner).await?,
        };
        self.at_least(&path, volume.size, made).await
    }

    /// Grows a volume that was there already, if it has to be. The guest grows its file system.
    async fn at_least(&self, path: &Utf8Path, size: Bytes, made: Made) -> anyhow::Result<()> {
        if made != Made::Present {
            return Ok(());
        }
        match self.parts.disks.grow(path, size).await {
            // Larger than asked for: what a guest may have filled is never cut off.
            Ok(()) | Err(DiskError::TooSmall { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn vmm_uid(&self, row: &VmRow) -> u32 {
        if self.settings.unprivileged {
            row.leases.uid
        } else {
            0
        }
    }

    /// Everything the driver needs for this VM; writes its initramfs and launch record.
    pub(super) async fn launch_spec(&self, row: &VmRow) -> anyhow::Result<LaunchSpec> {
        let dir = self.paths.vm(row.id);
        let kernel_name = row.kernel.clone();
        let kernels = self.parts.kernels.clone();
        let files = aside(move || kernels.files(kernel_name.as_deref())).await??;
        let kernel = KernelFiles {
            bzimage: files.bzimage.clone(),
            elf: files.elf.clone(),
        };
        let owner = self.vmm_uid(row);
        let lent = self.attachments_of(row.id).await?;
        let disks = self.ready_disks(row, &lent, &dir, owner).await?;
        let vmm = &self.parts.vmm;
        let terms = vmm.terms(row.spec.driver, &kernel, &dir, &disks).await?;
        let image = self.parts.images.get(row.image.as_str()).await?;
        let boot_nonce = format!("{:016x}{:016x}", nonce()?, nonce()?);
        let config = guest_config(
            row,
            &lent,
            &image.config,
            &self.settings,
            boot_nonce.clone(),
            &terms,
            self.now(),
        )?;
        self.write_initrd(&dir, &files.initramfs, &config, owner)
            .await?;
        let record = LaunchRecord {
            boot_nonce,
            driver: terms.driver.to_owned(),
            accelerator: terms.accelerator,
            console: Some(console_mark(&dir)),
            disks: disks.iter().map(|disk| disk.file.clone()).collect(),
        };
        // Speaks of a VMM that does not outlive a power cut, so it need not either.
        place_aside(dir.join(LAUNCH_RECORD), serde_json::to_vec(&record)?, false).await?;
        let nic = row
            .leases
            .mac
            .filter(|_| row.spec.network.mode == NetworkMode::Bridge);
        Ok(LaunchSpec {
            vm: row.id,
            name: row.spec.name.to_string(),
            mark: OwnerMark::of_vm(self.parts.store.installation(), row.id),
            initramfs: dir.join(INITRD),
            driver: row.spec.driver,
            vcpus: row.spec.vcpus,
            memory: row.spec.memory,
            machine: row.spec.machine,
            kernel,
            cmdline: Vec::new(),
            disks,
            nic: nic.map(|mac| Nic {
                tap: tap_name(row.id),
                mac,
            }),
            cid: row.leases.cid,
            user: self.settings.unprivileged.then_some(row.leases.uid),
            resources: row.spec.resources.clone(),
            stop_timeout: row.spec.stop_timeout.as_duration(),
            qemu_agent: row.spec.health.asks_qemu_agent(),
            crash_dump: row.spec.crash_dump.clone(),
            console: self.settings.console,
            dir,
        })
    }

    /// The VM's disks, each usable under its path: those of the pool are switched on, and their
    /// nodes are of this boot.
    async fn ready_disks(
        &self,
        row: &VmRow,
        lent: &[Attachment],
        dir: &Utf8Path,
        owner: u32,
    ) -> anyhow::Result<Vec<Disk>> {
        let mut disks = disks(row);
        for disk in &mut disks {
            let standing = self.parts.disks.ready(&dir.join(&disk.file), owner).await?;
            disk.device = standing.device;
        }
        disks.extend(self.lend_volumes(lent, dir, owner).await?);
        Ok(disks)
    }

    async fn write_initrd(
        &self,
        dir: &Utf8Path,
        base: &Utf8Path,
        config: &GuestConfig,
        owner: u32,
    ) -> anyhow::Result<()> {
        let (out, base) = (dir.join(INITRD), base.to_owned());
        let json = serde_json::to_vec(config).context("cannot write the guest's configuration")?;
        let segment = hearth_kernel::initrd::config_segment(&json)
            .context("cannot write the guest's configuration")?;
        let guest = self.parts.guest_segment.clone();
        aside(move || {
            hearth_kernel::initrd::write_vm_initrd(
                out.as_std_path(),
                base.as_std_path(),
                &guest,
                &segment,
                owner,
            )
        })
        .await?
        .context("cannot write the initramfs")
    }

    /// The launch record of a VM's current run.
    pub(crate) fn launch_record(&self, vm: hearth_types::VmId) -> Option<LaunchRecord> {
        let text = std::fs::read(self.paths.vm(vm).join(LAUNCH_RECORD)).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

fn disks(row: &VmRow) -> Vec<Disk> {
    let root = Disk {
        file: ROOT_DISK.to_owned(),
        serial: "root".to_owned(),
        read_only: false,
        device: None,
        lent: false,
    };
    let data = row.spec.volumes.iter().map(|volume| Disk {
        file: Paths::volume_file(volume.name.as_str()),
        serial: volume.name.to_string(),
        read_only: volume.read_only,
        device: None,
        lent: false,
    });
    std::iter::once(root).chain(data).collect()
}

/// The folder belongs to the daemon; the shim lets the VMM's group in, to read only.
fn make_dir(dir: &Utf8Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(dir)
        .with_context(|| format!("cannot make {dir}"))
}

/// Writes a small file so that it appears whole or not at all; `durable`: also if the power
/// is cut.
pub(crate) fn place_file(path: &Utf8Path, content: &[u8], durable: bool) -> anyhow::Result<()> {
    use std::io::Write as _;
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            // The name is in the folder, and that has to be written, too.
            Some(folder) if durable => std::fs::File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().with_context(|| format!("cannot write {path}"))
}

/// The same where it holds up nobody: a disk may take long to take it.
async fn place_aside(path: Utf8PathBuf, content: Vec<u8>, durable: bool) -> anyhow::Result<()> {
    aside(move || place_file(&path, &content, durable)).await?
}
