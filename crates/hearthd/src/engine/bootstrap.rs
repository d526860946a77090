//! The bootstrap after a reboot of the host as the engine carries it: what the planner has to
//! know beside the survey, who is to be looked at when another VM changes, and the one event
//! that sums it up.
//!
//! ```text
//!  health, disks, network's last failure ──► World.facts ──► plan ──► who waits for whom
//!                                                               │              │
//!        told once in a boot: host.bootstrapped ◄── settled ◄── tally     looked at with those
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hearth_plan::bootstrap::{self, Tally, is_due};
use hearth_plan::{Facts, World};
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VmId;
use hearth_types::survey::chain;
use serde_json::json;

use super::Engine;
use super::disks::MadeDisks;
use super::paths::{Paths, ROOT_DISK};

/// Where the database keeps in which boot the bootstrap was summed up last.
const SETTING: &str = "bootstrapped";

/// What the engine remembers of the bootstrap.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// It was summed up in this boot, or there was nothing to sum up.
    told: bool,
    /// What has become of its VMs, as of the last full pass.
    tally: Tally,
    /// By VM: those whose automatic start comes after it and who do not run.
    waiters: BTreeMap<VmId, BTreeSet<VmId>>,
    /// Why the network that all share could not be made the last time.
    network_failure: Option<String>,
}

impl Engine {
    /// What the planner has to know beside the survey.
    pub(super) async fn facts(&self, world: &World, rows: &[VmRow]) -> Facts {
        let due = world.vms.iter().filter(|vm| is_due(world, vm));
        let due: BTreeSet<VmId> = due.map(|vm| vm.id).collect();
        let due: Vec<&VmRow> = rows.iter().filter(|row| due.contains(&row.id)).collect();
        let missing_disks = self.missing_disks(&due).await;
        let health = self.awaited(rows);
        let on_pool = self.on_pool(rows).await;
        Facts {
            health,
            missing_disks,
            network_failure: self.work.lock().bootstrap.network_failure.clone(),
            pool: self.pool_room(),
            on_pool,
        }
    }

    /// What is missing of the disks of VMs that were complete once.
    async fn missing_disks(&self, due: &[&VmRow]) -> BTreeMap<VmId, String> {
        let files = due
            .iter()
            .map(|row| (row.id, self.paths.vm(row.id), row.spec.volumes.clone()));
        let files: Vec<_> = files.collect();
        if files.is_empty() {
            return BTreeMap::new();
        }
        let looked = hearth_host::aside::aside(move || {
            let missing = files.into_iter().filter_map(|(vm, dir, volumes)| {
                // One that was added since is made at this start.
                let made = MadeDisks::read(&dir);
                let volumes = volumes.iter().filter(|volume| made.has(volume));
                let volumes = volumes.map(|volume| Paths::volume_file(volume.name.as_str()));
                let mut files = std::iter::once(ROOT_DISK.to_owned()).chain(volumes);
                let missing = files.find_map(|file| match dir.join(&file).try_exists() {
                    Ok(true) => None,
                    Ok(false) => Some((file, None)),
                    Err(error) => Some((file, Some(error))),
                })?;
                Some((vm, dir, missing))
            });
            missing.collect::<Vec<_>>()
        });
        let mut told = BTreeMap::new();
        for (vm, dir, (file, error)) in looked.await.unwrap_or_default() {
            if let Some(error) = error {
                told.insert(vm, format!("{file} cannot be looked at: {error}"));
                continue;
            }
            // What stands behind the name may be there all the same, or not to be reached now.
            match self.parts.disks.is_lost(&dir.join(&file)).await {
                Ok(true) => drop(told.insert(vm, format!("{file} is missing"))),
                Ok(false) => {}
                Err(error) => {
                    let why = chain(&error);
                    told.insert(vm, format!("{file} cannot be looked at: {why}"));
                }
            }
        }
        told
    }

    /// How those are that others are started after. Who waits for them is remembered.
    fn awaited(&self, rows: &[VmRow]) -> BTreeMap<VmId, hearth_types::api::Health> {
        let mut waiters: BTreeMap<VmId, BTreeSet<VmId>> = BTreeMap::new();
        let mut health = BTreeMap::new();
        if rows.iter().any(|row| !row.spec.after.is_empty()) {
            let names: HashMap<_, _> = rows.iter().map(|row| (&row.spec.name, row)).collect();
            for row in rows {
                for other in row.spec.after.iter().filter_map(|name| names.get(name)) {
                    health.insert(other.id, self.health_of(other));
                    if row.status.vmm.is_none() {
                        waiters.entry(other.id).or_default().insert(row.id);
                    }
                }
            }
        }
        self.work.lock().bootstrap.waiters = waiters;
        health
    }

    /// These and those who wait for them.
    pub(super) fn with_waiters(&self, vms: &BTreeSet<VmId>) -> BTreeSet<VmId> {
        let work = self.work.lock();
        let waiters = vms.iter().filter_map(|vm| work.bootstrap.waiters.get(vm));
        let waiters = waiters.flatten().copied();
        vms.iter().copied().chain(waiters).collect()
    }

    /// Lets the loop look at those who wait for a VM whose health has changed.
    pub(crate) fn look_at_waiters(&self, vm: VmId) {
        let awaited = self.work.lock().bootstrap.waiters.contains_key(&vm);
        if awaited {
            self.look_at(vm);
        }
    }

    /// What all VMs share was made, or why it was not.
    pub(super) fn network_made(&self, failure: Option<String>) {
        self.work.lock().bootstrap.network_failure = failure;
    }

    /// How many VMs the last bootstrap has led to what, as of the last full pass.
    pub(crate) fn bootstrap_counts(&self) -> [(&'static str, usize); 5] {
        let work = self.work.lock();
        let tally = &work.bootstrap.tally;
        [
            ("started", tally.started.len()),
            ("waiting", tally.waiting.len()),
            ("left", tally.left.len()),
            ("stopped", tally.stopped.len()),
            ("failed", tally.failed.len()),
        ]
    }

    /// Sums the bootstrap up, once in a boot, when nothing more is about to happen.
    pub(super) async fn follow_bootstrap(&self, world: &World, restrained: bool) {
        let tally = bootstrap::tally(world, restrained);
        let told = {
            let mut work = self.work.lock();
            work.bootstrap.tally = tally.clone();
            work.bootstrap.told
        };
        if told || !tally.settled {
            return;
        }
        let boot = json!(world.boot_id);
        let known = match self.parts.store.setting(SETTING).await {
            Ok(known) => known.as_ref() == Some(&boot),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "whether the bootstrap was summed up cannot be read");
                return;
            }
        };
        self.work.lock().bootstrap.told = true;
        if known || tally.count() == 0 {
            return;
        }
        self.tell(summary(world, &tally)).await;
        let stored = self.parts.store.set_setting(SETTING, Some(boot)).await;
        if let Err(error) = stored {
            let error = chain(&error);
            tracing::error!(error, "that the bootstrap was summed up cannot be stored");
        }
    }
}

fn summary(world: &World, tally: &Tally) -> NewEvent {
    let lists = [
        ("started", "started", &tally.started),
        ("waiting", "waiting", &tally.waiting),
        ("left", "left by policy", &tally.left),
        ("stopped", "stopped by their users", &tally.stopped),
        ("failed", "failed", &tally.failed),
    ];
    let counts = lists.map(|(_, words, vms)| format!("{} {words}", vms.len()));
    let message = format!(
        "[recovery] after the reboot of the host: {} VM(s): {}",
        tally.count(),
        counts.join(", ")
    );
    let names = |vms: &[VmId]| -> Vec<&str> {
        let named = world.vms.iter().filter(|vm| vms.contains(&vm.id));
        named.map(|vm| vm.spec.name.as_str()).collect()
    };
    let details = lists.map(|(key, _, vms)| (key.to_owned(), json!(names(vms))));
    let severity = if tally.failed.is_empty() && tally.waiting.is_empty() {
        Severity::Info
    } else {
        Severity::Warning
    };
    NewEvent::info("host.bootstrapped", message)
        .severity(severity)
        .details(serde_json::Value::Object(details.into_iter().collect()))
}
