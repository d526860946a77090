//! Making a volume larger, also under a VM that runs: on the host first, then its VMM is told, and at
//! last its guest's file system.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hearth_disk::DiskError;
use hearth_guest_proto::client::AgentClient;
use hearth_host::aside::aside;
use hearth_store::VmRow;
use hearth_types::event::NewEvent;
use hearth_types::problem::Problem;
use hearth_types::units::Bytes;
use hearth_types::volume::{Attachment, GrownIn, GrownVolume, Growth, VolumeView, check_size};
use hearth_vmm::GrownDisk;
use tokio::time::{Instant, sleep, timeout};

use super::about;
use crate::engine::Engine;
use crate::engine::paths::Paths;
use crate::engine::snapshots::{conflict, disk_problem};

/// How long a guest's agent may take to answer.
const AGENT_WAIT: Duration = Duration::from_secs(5);
/// How long a guest may take to learn the new size and to fill it: its file system writes its tables.
const GUEST_WAIT: Duration = Duration::from_secs(60);
/// Between two questions whether the guest's kernel knows the new size.
const BETWEEN: Duration = Duration::from_millis(100);

impl Engine {
    /// Makes a volume larger. VMs that have it and run are told.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be. A guest that does not follow is no error: it is told.
    pub async fn grow_volume(
        self: &Arc<Self>,
        view: &VolumeView,
        size: Bytes,
    ) -> anyhow::Result<GrownVolume> {
        if let Some(error) = check_size(size) {
            return Err(Problem::fields(vec![error]).into());
        }
        let (alone, now) = self.volume_alone(view).await?;
        let mut volume = now.volume.clone();
        Self::must_be_whole(&volume)?;
        if volume.snapshot_of.is_some() {
            let detail = format!("{} is a snapshot, which stays as it is", volume.name);
            let hint = format!(
                "make a volume of it: hearth volume create NEW --from {}",
                volume.name
            );
            return Err(conflict(detail).hint(hint).into());
        }
        let path = self.paths.volume_disk(volume.id, volume.disk);
        match self.parts.disks.grow(&path, size).await {
            Ok(()) => {}
            Err(error @ DiskError::TooSmall { .. }) => {
                let detail = format!("volume {}: {error}", volume.name);
                return Err(conflict(detail)
                    .hint("a volume never becomes smaller")
                    .into());
            }
            Err(error) => return Err(disk_problem("the volume does not grow", &error)),
        }
        self.failpoints.hit("after", "volume_grown").await;
        let before = std::mem::replace(&mut volume.size, size);
        self.parts.store.put_volume(volume.clone()).await?;
        self.keep_volume(volume.id).await;
        self.count_volumes().await;
        // A start of another VM that has it need not wait for guests.
        drop(alone);
        let mut guests = Vec::new();
        for (attached, row) in self.running_users(&now).await {
            guests.push(self.grow_in(&attached, &row, size).await);
        }
        let words = format!(
            "volume {} has grown from {} to {}",
            volume.name,
            before.human(),
            size.human()
        );
        let event = NewEvent::info("volume.grown", words);
        self.tell(about(event, &volume)).await;
        let attached = now.attached;
        Ok(GrownVolume {
            volume: VolumeView { volume, attached },
            guests,
        })
    }

    async fn grow_in(&self, attached: &Attachment, row: &VmRow, size: Bytes) -> GrownIn {
        let (growth, why) = match self.tell_vmm(attached, row, size).await {
            Err(error) => (Growth::NextStart, Some(format!("{error:#}"))),
            Ok(()) => match self.tell_guest(attached, row, size).await {
                Ok(()) if attached.read_only => (Growth::DeviceGrown, None),
                Ok(()) => (Growth::Grown, None),
                Err(error) => (Growth::DeviceGrown, Some(format!("{error:#}"))),
            },
        };
        let vm = row.spec.name.clone();
        tracing::info!(vm = %row.id, volume = %attached.name, ?growth, why, "a volume has grown under a VM that runs");
        GrownIn { vm, growth, why }
    }

    async fn tell_vmm(
        &self,
        attached: &Attachment,
        row: &VmRow,
        size: Bytes,
    ) -> anyhow::Result<()> {
        let file = Paths::lent_file(attached.name.as_str());
        let vm = row.id;
        let dir = self.paths.vm(vm);
        let text =
            aside(move || std::fs::read(dir.join(crate::engine::paths::LAUNCH_RECORD))).await??;
        let record: crate::engine::launch::LaunchRecord = serde_json::from_slice(&text)?;
        let number = record.disks.iter().position(|disk| *disk == file);
        let disk = GrownDisk {
            number: number.context("it was started without the volume")?,
            file,
            size,
        };
        let told = self
            .parts
            .vmm
            .disk_grown(vm, &self.paths.vm(vm), &disk)
            .await;
        told.map_err(|error| anyhow::anyhow!(hearth_types::survey::chain(&error)))
    }

    async fn tell_guest(
        &self,
        attached: &Attachment,
        row: &VmRow,
        size: Bytes,
    ) -> anyhow::Result<()> {
        let client = self.agents.get(self, row.id, AGENT_WAIT).await?;
        let told = timeout(GUEST_WAIT, follow(&client, &attached.mount, size)).await;
        told.context("the guest does not have the new size yet")?
    }
}

/// Asks until the guest's kernel knows the new size: it is told by an interrupt.
async fn follow(client: &AgentClient, mount: &str, size: Bytes) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let bytes = client.grow_volume(mount).await?;
        if bytes >= size.0 {
            tracing::debug!(
                mount,
                millis = begun.elapsed().as_millis(),
                "the guest has the new size"
            );
            return Ok(());
        }
        sleep(BETWEEN).await;
    }
}
