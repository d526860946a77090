//! What restrains recovery, told and counted: each VM's breaker, and the operator's words.
//!
//! ```text
//!  plan made ──► operator's word (hold, release, recover, reset): `word` grows ──► the plan's
//!                                             status and steps for this VM are left out
//! ```

use hearth_host::pressure::Resource;
use hearth_plan::breaker::{self, Change};
use hearth_plan::{Load, Step, World};
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VmId;
use hearth_types::status::{Cause, VmStatus};

use super::Engine;
use super::shared::Blocked;

/// What a start that failed has in common with others that did.
pub(super) fn cause(step: &Step, error: &anyhow::Error) -> Cause {
    let by_step = breaker::cause_of_step(step.kind());
    let found = error.chain().find_map(|cause| {
        if cause.is::<Blocked>() {
            return Some(Cause::Network);
        }
        let kind = cause.downcast_ref::<std::io::Error>()?.kind();
        match kind {
            std::io::ErrorKind::OutOfMemory => Some(Cause::Memory),
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::ReadOnlyFilesystem => Some(Cause::Disk),
            _ => None,
        }
    });
    let found = found.or_else(|| by_words(&format!("{error:#}")));
    found.or_else(|| of_the_vm(error)).unwrap_or(by_step)
}

/// What it asks for and cannot have: an image that is gone or damaged, a machine that its VMM
/// does not have.
fn of_the_vm(error: &anyhow::Error) -> Option<Cause> {
    error.chain().find_map(|cause| {
        if cause.is::<hearth_image::ImageError>() {
            return Some(Cause::Image);
        }
        let unsuitable = matches!(
            cause.downcast_ref(),
            Some(hearth_vmm::VmmError::Unsuitable { .. })
        );
        unsuitable.then_some(Cause::Config)
    })
}

/// VMMs say what they lack in words: QEMU's `cannot set up guest memory` (ENOMEM), and both
/// drivers' complaints that name the device.
fn by_words(text: &str) -> Option<Cause> {
    if text.contains("Cannot allocate memory") || text.contains("cannot set up guest memory") {
        Some(Cause::Memory)
    } else if text.contains("/dev/kvm") {
        Some(Cause::Kvm)
    } else {
        None
    }
}

/// What its checks have said of a run since the plan was made stays said.
fn with_health(planned: VmStatus, now: &VmStatus) -> VmStatus {
    let same_run = planned.vmm.is_some() && planned.vmm == now.vmm;
    VmStatus {
        came_up_at: planned.came_up_at.max(now.came_up_at),
        unhealthy: if same_run {
            now.unhealthy
        } else {
            planned.unhealthy
        },
        ..planned
    }
}

impl Engine {
    /// Stores what a plan says of a VM's status, unless the operator or, by a restart, its user
    /// has said something about it since the plan was made. Whether it was stored.
    pub(super) async fn store_planned(
        &self,
        vm: VmId,
        status: VmStatus,
    ) -> Result<bool, hearth_store::StoreError> {
        let word = status.recovery.word;
        let before = self.parts.store.vm(vm).await;
        let unspoken = move |row: &VmRow| {
            if row.status.recovery.word == word {
                with_health(status, &row.status)
            } else {
                row.status.clone()
            }
        };
        let row = self.parts.store.change_status(vm, unspoken).await?;
        self.tell_breaker(before.as_ref(), &row).await;
        Ok(row.status.recovery.word == word)
    }

    /// Says once, before the first pass records it, what a reboot of the host did to the VMs.
    pub(super) async fn tell_rebooted(&self, world: &World) {
        let first = self.work.lock().shared.is_none();
        let Some(rebooted) = hearth_plan::recovery::rebooted(world).filter(|_| first) else {
            return;
        };
        let names = |ids: &[VmId]| -> Vec<String> {
            let named = world.vms.iter().filter(|vm| ids.contains(&vm.id));
            named.map(|vm| vm.spec.name.to_string()).collect()
        };
        let (ran, again) = (rebooted.ran.len(), rebooted.again.len());
        let left = names(&rebooted.left);
        let rest = if left.is_empty() {
            String::new()
        } else {
            format!(", left down: {}", left.join(" "))
        };
        let message = format!(
            "[recovery] the host has rebooted: {ran} VM(s) were running, {again} are started{rest}"
        );
        let details = serde_json::json!({
            "ran": names(&rebooted.ran), "started": names(&rebooted.again), "left": left,
        });
        let event = NewEvent::info("host.rebooted", message).severity(Severity::Warning);
        self.tell(event.details(details)).await;
    }

    /// What the host is busy with, as far as starts are concerned.
    pub(super) fn load(&self) -> Load {
        let processes = &self.parts.processes;
        Load {
            starting: self.work.lock().starting.clone(),
            cpu_pressure: processes.pressure(Resource::Cpu),
            memory_pressure: processes.pressure(Resource::Memory),
        }
    }

    /// Tells what became of a VM's breaker between two of its rows.
    pub(crate) async fn tell_breaker(&self, before: Option<&VmRow>, row: &VmRow) {
        let Some(change) = before.and_then(|old| breaker::change(&old.status, &row.status)) else {
            return;
        };
        let name = row.spec.name.as_str();
        let open = row.status.recovery.breaker.as_ref();
        let reason = open.map_or_else(String::new, breaker::reason);
        let (code, severity, message) = match change {
            Change::Opened => {
                self.metrics.breaker_opened();
                let message = format!("[recovery] {name} is not started for a while: {reason}");
                ("vm.breaker_opened", Severity::Error, message)
            }
            Change::HalfOpen => {
                let message = format!("[recovery] {name}: breaker half open: one start on trial");
                ("vm.breaker_half_open", Severity::Info, message)
            }
            Change::Closed => {
                let message = format!("[recovery] {name}: breaker closed");
                ("vm.breaker_closed", Severity::Info, message)
            }
        };
        let mut event = NewEvent::info(code, message)
            .severity(severity)
            .vm(row.id, name);
        if let (Change::Opened, Some(open)) = (change, open) {
            let failures = row.status.recovery.failures.len();
            event = event.details(serde_json::json!({
                "until": open.until, "opens": open.opens, "failures": failures,
            }));
        }
        self.tell(event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause_of(step: &Step, error: anyhow::Error) -> Cause {
        cause(step, &error)
    }

    #[test]
    fn what_a_failed_start_has_in_common_with_others() {
        let vm = VmId::new();
        let (disks, tap) = (Step::EnsureDisks { vm }, Step::EnsureTap { vm });
        let start = Step::StartVmm { vm, restart: true };
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let memory = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let said = |text: &str| anyhow::anyhow!("{text}").context("VMM did not start");
        assert_eq!(cause_of(&disks, said("no image")), Cause::Disk);
        assert_eq!(cause_of(&tap, said("no bridge")), Cause::Network);
        assert_eq!(cause_of(&start, said("bad option")), Cause::Start);
        let full = anyhow::Error::from(full).context("cannot write the initramfs");
        assert_eq!(cause_of(&start, full), Cause::Disk);
        assert_eq!(cause_of(&start, memory.into()), Cause::Memory);
        let qemu = "cannot set up guest memory 'ram': Cannot allocate memory";
        assert_eq!(cause_of(&start, said(qemu)), Cause::Memory);
        assert_eq!(cause_of(&start, said("cannot open /dev/kvm")), Cause::Kvm);
        let unsuitable = hearth_vmm::VmmError::Unsuitable {
            detail: "too many vCPUs".to_owned(),
        };
        assert_eq!(cause_of(&start, unsuitable.into()), Cause::Config);
        let gone = hearth_image::ImageError::NotFound("demo:1".to_owned());
        let gone = anyhow::Error::from(gone).context("image demo:1 is needed");
        assert_eq!(cause_of(&disks, gone), Cause::Image);
    }
}
