//! Making a record again for a VM whose record is lost, from what its folder keeps.

use std::sync::Arc;

use hearth_plan::transition;
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VmId;
use hearth_types::observe::{Observed, ObservedProcess, ProcessRole};
use hearth_types::orphan::{AdoptOrphan, Orphan};
use hearth_types::problem::{Code, Problem};
use hearth_types::status::{Goal, Phase, VmStatus};
use hearth_types::survey::Survey;

use super::keepsake::{self, Keepsake};
use crate::api::error::ApiError;
use crate::api::ports;
use crate::engine::Engine;

fn refused(code: Code, detail: impl Into<String>, hint: &str) -> anyhow::Error {
    Problem::new(code, detail).hint(hint).into()
}

impl Engine {
    /// Makes a record for an orphaned VMM or VM folder, by its id in the list of orphans. A VMM
    /// that runs goes on; a folder without one becomes a stopped VM.
    ///
    /// # Errors
    /// A [`Problem`]: there is no such orphan, its folder keeps no record, its name, address or
    /// ports are taken.
    pub async fn adopt_orphan(
        self: &Arc<Self>,
        id: &str,
        asked: AdoptOrphan,
    ) -> anyhow::Result<VmRow> {
        let orphan = self.orphan(id).await?;
        let vm = orphan.vm.filter(|_| orphan.adoptable).ok_or_else(|| {
            refused(
                Code::Conflict,
                format!("{id} cannot be adopted: its folder keeps no record of its VM"),
                "leave it alone, or remove it: hearth orphans remove",
            )
        })?;
        let kept = keepsake::read(&self.paths.vm(vm))?;
        // Proved again at the moment of action.
        let observed = self.survey_all().await;
        let vmm = self.the_vmm(&observed, vm)?;
        let lost = kept.environment.clone();
        let row = self.record_of(kept, asked, vmm)?;
        let _no_image_goes = self.image_use.read().await;
        ports::check_free(&row.spec.ports).map_err(ApiError::into_problem)?;
        let row = self.parts.store.restore_vm(row).await.map_err(|error| {
            let advice = "give it another name with --name, or free what it needs";
            Problem::new(Code::Conflict, hearth_types::survey::chain(&error)).hint(advice)
        })?;
        self.keep_record_aside(&row).await;
        let lost = if lost.is_empty() {
            String::new()
        } else {
            let names = lost.join(", ");
            format!("; the values of its environment are lost, its next start lacks them: {names}")
        };
        let runs = if vmm.is_some() {
            ", its VMM goes on"
        } else {
            ""
        };
        self.tell(
            NewEvent::info(
                "orphan.adopted",
                format!(
                    "[recovery] {} has a record again{runs}{lost}",
                    row.spec.name
                ),
            )
            .severity(Severity::Warning)
            .vm(row.id, &row.spec.name),
        )
        .await;
        self.look_at_everything();
        Ok(row)
    }

    async fn orphan(&self, id: &str) -> anyhow::Result<Orphan> {
        let list = self.orphans().await?;
        let found = list.items.into_iter().find(|orphan| orphan.id == id);
        found.ok_or_else(|| {
            refused(
                Code::NotFound,
                format!("there is no orphan {id}"),
                "see what there is: hearth orphans",
            )
        })
    }

    /// The one VMM that lives; none if no process of the VM does.
    fn the_vmm<'a>(
        &self,
        observed: &'a Observed,
        vm: VmId,
    ) -> anyhow::Result<Option<&'a ObservedProcess>> {
        let again = "look again: hearth orphans";
        let Survey::Known(processes) = &observed.processes else {
            return Err(refused(
                Code::Unavailable,
                "the processes cannot be looked at",
                again,
            ));
        };
        let installation = self.parts.store.installation();
        let own: Vec<_> = processes
            .iter()
            .filter(|process| process.identity.mark.vm() == Some(vm))
            .filter(|process| process.identity.mark.installation == installation)
            .collect();
        let vmms: Vec<_> = own
            .iter()
            .filter(|process| process.role == ProcessRole::Vmm)
            .collect();
        match (vmms.as_slice(), own.is_empty()) {
            ([], true) => Ok(None),
            ([vmm], _) => Ok(Some(vmm)),
            ([], false) => Err(refused(Code::Conflict, "its VMM has just ended", again)),
            _ => Err(refused(
                Code::Conflict,
                format!("{} VMMs of it live", vmms.len()),
                "remove all but one: hearth orphans remove",
            )),
        }
    }

    fn record_of(
        &self,
        kept: Keepsake,
        asked: AdoptOrphan,
        vmm: Option<&ObservedProcess>,
    ) -> anyhow::Result<VmRow> {
        let mut spec = kept.spec;
        if let Some(name) = asked.name {
            spec.name = name
                .parse()
                .map_err(|error| Problem::new(Code::Invalid, format!("name: {error}")))?;
        }
        let errors = spec.check();
        if !errors.is_empty() {
            return Err(Problem::fields(errors).into());
        }
        let subnet = self.settings.leases.subnet;
        if let Some(ip) = kept.leases.ip.filter(|ip| !subnet.contains(ip)) {
            return Err(refused(
                Code::Conflict,
                format!("its address {ip} is not of the subnet {subnet}"),
                "SUBNET was another one when it was made",
            ));
        }
        let blank = VmStatus {
            observed_generation: 1,
            ..VmStatus::default()
        };
        let status = match vmm {
            Some(vmm) => transition::adopted(&blank, vmm.identity.clone(), vmm.started_at),
            None => VmStatus {
                phase: Phase::Exited,
                boot_id: Some(self.parts.processes.boot_id()),
                ..blank
            },
        };
        Ok(VmRow {
            id: kept.vm,
            spec,
            generation: 1,
            goal: if vmm.is_some() {
                Goal::Running
            } else {
                Goal::Stopped
            },
            force_stop: false,
            stop_timeout: None,
            leases: kept.leases,
            status,
            created_at: kept.created_at,
            image: kept.image,
            kernel: kept.kernel,
        })
    }
}
