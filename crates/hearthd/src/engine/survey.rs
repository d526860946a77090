//! Looking at the host.
//!
//! A full survey looks at everything. A quick one looks at processes, TAPs and the folders
//! of the VMs in question, and takes what it knows of units, bridge, rules and names from the last
//! full survey and the changes made since by this daemon, which is their only owner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use camino::Utf8Path;
use futures::StreamExt as _;
use hearth_host::aside::aside;
use hearth_types::Survey;
use hearth_types::ids::VmId;
use hearth_types::observe::{
    Observed, ObservedDir, ObservedProcess, ObservedTap, ObservedUnit, ProcessRole, RunState,
};
use hearth_vmm::Vmm;
use jiff::Timestamp;

use super::Engine;
use super::paths::{DISKS_MARKER, Paths};
use crate::host::Clock;

/// How long a VMM may take to say its state.
const RUN_STATE_DEADLINE: Duration = Duration::from_millis(500);
/// How many VMMs are asked at once.
const RUN_STATES_AT_ONCE: usize = 32;
/// How many exit records are waited for at once: all VMs of a host may have ended together.
const RECORDS_AT_ONCE: usize = 256;

impl Engine {
    /// Looks at everything.
    pub(crate) async fn survey_all(&self) -> Observed {
        let net = || Arc::clone(&self.parts.net);
        let (bridge, rules, names) = (net(), net(), net());
        let (processes, units, taps, bridge, rules, names) = tokio::join!(
            self.survey_processes(),
            self.survey_units(),
            self.survey_taps(),
            self.looks.look("bridge", async move {
                Survey::from_result(bridge.bridge().await)
            }),
            self.looks.look(
                "rules",
                async move { Survey::from_result(rules.rules().await) }
            ),
            self.looks.look(
                "names",
                async move { Survey::from_result(names.names().await) }
            ),
        );
        let run_states = self.survey_run_states(&processes, None).await;
        let dirs = self.survey_dirs(None).await;
        self.reserve_for_lost(&dirs).await;
        Observed {
            run_states,
            processes,
            units,
            taps,
            dirs,
            bridge,
            rules,
            names,
        }
    }

    /// Looks at some VMs; `shared` is what is known of the rest.
    pub(super) async fn survey_some(&self, vms: &BTreeSet<VmId>, shared: &Observed) -> Observed {
        let (processes, taps) = tokio::join!(self.survey_processes(), self.survey_taps());
        let run_states = self.survey_run_states(&processes, Some(vms)).await;
        Observed {
            run_states,
            processes,
            units: shared.units.clone(),
            taps,
            dirs: self.survey_dirs(Some(vms)).await,
            bridge: shared.bridge.clone(),
            rules: shared.rules.clone(),
            names: shared.names.clone(),
        }
    }

    pub(super) async fn survey_processes(&self) -> Survey<Vec<ObservedProcess>> {
        let processes = Arc::clone(&self.parts.processes);
        let installation = self.parts.store.installation();
        let look = async move {
            match processes.survey(installation).await {
                Ok(processes) => Survey::Known(processes),
                Err(error) => Survey::Unknown(format!("{error:#}")),
            }
        };
        self.looks.look("processes", look).await
    }

    async fn survey_taps(&self) -> Survey<Vec<ObservedTap>> {
        let net = Arc::clone(&self.parts.net);
        let look = async move { Survey::from_result(net.taps().await) };
        self.looks.look("taps", look).await
    }

    /// Asks systemd for the units of VMs. Only a full survey does: nothing that a VM waits
    /// for depends on it.
    async fn survey_units(&self) -> Survey<Vec<ObservedUnit>> {
        let rows = self.parts.store.vms().await;
        let known = rows.iter().map(|row| (row.id, self.paths.vm(row.id)));
        let known = known.collect();
        let installation = self.parts.store.installation();
        let vmm = Arc::clone(&self.parts.vmm);
        let look = async move { Survey::from_result(vmm.units(installation, &known).await) };
        self.looks.look("units", look).await
    }

    /// Asks the VMMs of `only` (or all) whether they run.
    async fn survey_run_states(
        &self,
        processes: &Survey<Vec<ObservedProcess>>,
        only: Option<&BTreeSet<VmId>>,
    ) -> BTreeMap<VmId, Survey<RunState>> {
        let vms: Vec<VmId> = processes
            .known()
            .into_iter()
            .flatten()
            .filter(|process| process.role == ProcessRole::Vmm)
            .filter_map(|process| process.identity.mark.vm())
            .filter(|vm| only.is_none_or(|only| only.contains(vm)))
            .collect();
        futures::stream::iter(vms)
            .map(|vm| async move {
                let state = self
                    .parts
                    .vmm
                    .run_state(vm, &self.paths.vm(vm), RUN_STATE_DEADLINE)
                    .await;
                (vm, Survey::from_result(state))
            })
            .buffer_unordered(RUN_STATES_AT_ONCE)
            .collect()
            .await
    }

    async fn survey_dirs(&self, only: Option<&BTreeSet<VmId>>) -> Survey<Vec<ObservedDir>> {
        let dirs = self.look_at_dirs("dirs", only).await;
        self.with_behind(dirs).await
    }

    /// Looks at VM folders and for what shims have left there; `kind` says what for.
    pub(super) async fn look_at_dirs(
        &self,
        kind: &'static str,
        only: Option<&BTreeSet<VmId>>,
    ) -> Survey<Vec<ObservedDir>> {
        let folder = self.paths.vms();
        let (only, paths) = (only.cloned(), self.paths.clone());
        let clock = Arc::clone(&self.parts.clock);
        let vmm = Arc::clone(&self.parts.vmm);
        let look = async move {
            match aside(move || list_dirs(&folder, only.as_ref(), &*clock)).await {
                Ok(Ok(dirs)) => Survey::Known(with_records(&*vmm, &paths, dirs).await),
                Ok(Err(error)) => Survey::Unknown(format!("{error:#}")),
                Err(error) => Survey::Unknown(error.to_string()),
            }
        };
        self.looks.look(kind, look).await
    }
}

/// Reads the exit record of each. One that is about to be written is waited for, so they are
/// read side by side.
async fn with_records(vmm: &dyn Vmm, paths: &Paths, dirs: Vec<ObservedDir>) -> Vec<ObservedDir> {
    let read = |mut dir: ObservedDir| async move {
        match vmm.exit_record(&paths.vm(dir.vm)).await {
            Ok(record) => dir.exit = record,
            // The record is evidence of how a run ended, not of whether it did: without
            // it the end is told as "no record".
            Err(error) => {
                tracing::warn!(vm = %dir.vm, error = %error, "an exit record cannot be read");
            }
        }
        dir
    };
    let reading = futures::stream::iter(dirs).map(read);
    reading.buffered(RECORDS_AT_ONCE).collect().await
}

/// VM folders by name; entries that are not named by an id are not ours and not listed.
fn list_dirs(
    folder: &Utf8Path,
    only: Option<&BTreeSet<VmId>>,
    clock: &dyn Clock,
) -> anyhow::Result<Vec<ObservedDir>> {
    if let Some(only) = only {
        return only
            .iter()
            .filter_map(|vm| observe_dir(folder, *vm, clock).transpose())
            .collect();
    }
    let mut dirs = Vec::new();
    for entry in folder
        .as_std_path()
        .read_dir()
        .with_context(|| format!("cannot list {folder}"))?
    {
        let entry = entry.with_context(|| format!("cannot list {folder}"))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            tracing::warn!(folder = %folder, name = ?name, "an entry whose name is no text is left alone");
            continue;
        };
        if let Ok(vm) = name.parse::<VmId>() {
            dirs.extend(observe_dir(folder, vm, clock)?);
        }
    }
    Ok(dirs)
}

fn observe_dir(
    folder: &Utf8Path,
    vm: VmId,
    clock: &dyn Clock,
) -> anyhow::Result<Option<ObservedDir>> {
    let path = folder.join(vm.to_string());
    let meta = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => meta,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {path}")),
    };
    let has_disk = path
        .join(DISKS_MARKER)
        .try_exists()
        .with_context(|| format!("cannot look into {path}"))?;
    let changed_at = meta
        .modified()
        .ok()
        .map_or_else(Timestamp::default, |time| clock.of_file(time));
    Ok(Some(ObservedDir {
        vm,
        has_disk,
        behind: false,
        exit: None,
        changed_at,
    }))
}
