//! Orphans for people: the list, removal by hand, and adoption of a VM whose record is lost.
//!
//! ```text
//!  survey ──► plan (pure) ──► list (pure) ──► names, images, sizes ──► GET /v1/orphans
//!     ▲                                                                   │ a person chooses
//!     └── again, at the moment of action ◄── remove ids ──────────────────┤
//!                                            adopt id: vm.json ► record ◄─┘
//! ```
//! What the loop removes by itself is the planner's affair. By hand it is the same proof: the
//! host is looked at again, the object must still be ours, the same one, and no VM's.

mod adopt;
mod helpers;
pub mod keepsake;
mod look;
mod network;
mod reserve;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use hearth_host::aside::aside;
use hearth_plan::{Plan, World, orphanage};
use hearth_types::ids::VmId;
use hearth_types::observe::{Observed, ProcessRole};
use hearth_types::orphan::{
    Fate, FateKind, Orphan, OrphanKind, OrphanList, OrphanRemoved, OrphanState, OrphansRemoved,
    RemoveOrphans,
};
use hearth_types::process::ProcessIdentity;
use hearth_types::survey::Survey;

use crate::engine::Engine;

/// How long a process that was killed by hand may take to go before its things are touched.
const DEATH: Duration = Duration::from_secs(30);

/// What was found, and the kinds that could not be looked at.
#[derive(Debug, Default)]
struct Found {
    items: Vec<Orphan>,
    unknown: Vec<String>,
}

impl Found {
    /// Adds what a look at one kind gave.
    fn add(&mut self, kind: &str, look: anyhow::Result<Vec<Orphan>>) {
        match look {
            Ok(items) => self.items.extend(items),
            Err(error) => self.unknown.push(format!("{kind}: {error:#}")),
        }
    }

    fn join(&mut self, other: Self) {
        self.items.extend(other.items);
        self.unknown.extend(other.unknown);
    }
}

/// What there is at one moment, and what the loop makes of it.
struct Sight {
    world: World,
    plan: Plan,
}

impl Engine {
    /// Looks at everything and lists what is ours and not wanted, wanted and missing, or only
    /// looks like ours.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn orphans(&self) -> anyhow::Result<OrphanList> {
        let Sight { world, plan } = self.sight().await?;
        let mut found = Found {
            items: orphanage::list(&world, &plan),
            unknown: unknown(&world.observed),
        };
        found.items.extend(helpers::list(&world));
        let network = self.beyond_the_rules(&world).await;
        let scene = self.scene(&world);
        let mut list = aside(move || {
            let (paths, living) = (&scene.paths, &scene.living);
            look::look_closer(&mut found.items, paths, world.installation, living);
            found.join(network);
            found.join(scene.beyond());
            for orphan in &mut found.items {
                orphan.removable = orphanage::removable(orphan, &world);
            }
            found
        })
        .await
        .context("the look was interrupted")?;
        self.name_nodes(&mut list.items).await;
        list.items.sort_by_key(|orphan| orphan.state);
        Ok(OrphanList {
            items: list.items,
            unknown: list.unknown,
        })
    }

    fn scene(&self, world: &World) -> look::Scene {
        let desired = world.vms.iter().map(|vm| {
            let volumes = vm.spec.volumes.iter();
            let wanted = look::Wanted {
                name: vm.spec.name.to_string(),
                volumes: volumes.map(|volume| volume.name.to_string()).collect(),
            };
            (vm.id, wanted)
        });
        let desired: BTreeMap<_, _> = desired.collect();
        let processes = world.observed.processes.known().into_iter().flatten();
        let strangers = processes.filter(|process| {
            let vm = process.identity.mark.vm();
            process.role == ProcessRole::Vmm && vm.is_some_and(|vm| !desired.contains_key(&vm))
        });
        look::Scene {
            paths: self.paths.clone(),
            living: living(&world.observed),
            strangers: strangers.map(|process| process.identity.clone()).collect(),
            desired,
            old_logs: self.settings.console.keep,
            places: look::Places::default(),
        }
    }

    async fn sight(&self) -> anyhow::Result<Sight> {
        let (world, plan) = self.foresee().await?;
        Ok(Sight { world, plan })
    }

    /// Removes orphans by hand: processes first, what they may use after them.
    ///
    /// # Errors
    /// When the database cannot be read. What fails for one object is told in its place.
    pub async fn remove_orphans(&self, asked: &RemoveOrphans) -> anyhow::Result<OrphansRemoved> {
        let list = self.orphans().await?;
        let mut chosen: Vec<&Orphan> = list
            .items
            .iter()
            .filter(|orphan| {
                let of_all = asked.all
                    && orphan.removable
                    && asked.kind.is_none_or(|kind| kind == orphan.kind);
                of_all || asked.ids.contains(&orphan.id)
            })
            .collect();
        chosen.sort_by_key(|orphan| orphan.kind);
        let mut items = Vec::new();
        for id in &asked.ids {
            if !list.items.iter().any(|orphan| orphan.id == *id) {
                items.push(OrphanRemoved {
                    id: id.clone(),
                    problem: Some("there is no such orphan: see hearth orphans".to_owned()),
                });
            }
        }
        for orphan in chosen {
            let removed = self.remove_orphan(orphan).await;
            items.push(OrphanRemoved {
                id: orphan.id.clone(),
                problem: removed.err().map(|error| format!("{error:#}")),
            });
        }
        self.look_at_everything();
        Ok(OrphansRemoved { items })
    }

    /// Removes one, with everything proved again.
    async fn remove_orphan(&self, orphan: &Orphan) -> anyhow::Result<()> {
        anyhow::ensure!(
            orphan.removable,
            "it is not removed by hand: {}",
            orphan.fate.why
        );
        let vm = orphan.vm;
        let entry = serde_json::json!({
            "step": "remove_orphan_by_hand", "object": orphan.object, "reason": "asked for",
        });
        let store = &self.parts.store;
        let intent = store.begin(vm, entry, self.now()).await;
        let intent = intent.context("cannot write the journal")?;
        let removed = match vm {
            Some(vm) => self.remove_proven(orphan, vm).await,
            None => self.remove_connections(&orphan.id).await,
        };
        let outcome = match &removed {
            Ok(()) => "done".to_owned(),
            Err(error) => format!("failed: {error:#}"),
        };
        if let Err(error) = store.finish(intent, &outcome, self.now()).await {
            tracing::warn!(error = %error, "a journal entry could not be marked");
        }
        removed
    }

    async fn remove_proven(&self, orphan: &Orphan, vm: VmId) -> anyhow::Result<()> {
        let observed = self.survey_all().await;
        anyhow::ensure!(
            self.parts.store.vm(vm).await.is_none(),
            "VM {vm} is in the database now: hearth rm removes it"
        );
        let Survey::Known(processes) = &observed.processes else {
            anyhow::bail!("the processes cannot be looked at, so nothing is removed");
        };
        if matches!(orphan.kind, OrphanKind::Vmm | OrphanKind::Shim) {
            let process = processes
                .iter()
                .find(|process| orphanage::process_id(process).as_ref() == Some(&orphan.id))
                .context("it has ended by itself")?;
            return self.kill_by_hand(&process.identity).await;
        }
        let user = processes
            .iter()
            .find(|process| process.identity.mark.vm() == Some(vm));
        if let Some(user) = user {
            anyhow::bail!(
                "pid {} lives and may use it: remove that first",
                user.identity.pid
            );
        }
        match orphan.kind {
            OrphanKind::Tap => {
                let taps = observed.taps.known().into_iter().flatten();
                let tap = taps
                    .filter(|tap| format!("tap-{}", tap.name) == orphan.id)
                    .find(|tap| tap.mark.installation == self.parts.store.installation())
                    .context("it is gone, or no longer ours")?;
                self.parts.net.remove_tap(tap).await?;
                self.orphan_removed("TAP", &tap.name).await;
            }
            _ => {
                self.prove_folder(vm)?;
                self.remove_dir(vm).await?;
                let path = self.paths.vm(vm);
                self.orphan_removed("folder", path.as_str()).await;
            }
        }
        Ok(())
    }

    async fn kill_by_hand(&self, identity: &ProcessIdentity) -> anyhow::Result<()> {
        let vmm = &self.parts.vmm;
        vmm.kill(identity).await?;
        tokio::time::timeout(DEATH, vmm.wait_dead(identity))
            .await
            .context("it was killed and has not gone yet")??;
        let object = format!("{} ({})", identity.pid, identity.exe);
        self.orphan_removed("process", &object).await;
        Ok(())
    }

    /// Proves that a VM's folder is not another installation's, as far as it says whose it is.
    ///
    /// # Errors
    /// When it is.
    pub(crate) fn prove_folder(&self, vm: VmId) -> anyhow::Result<()> {
        let installation = self.parts.store.installation();
        match keepsake::read(&self.paths.vm(vm)) {
            Ok(kept) if kept.installation != installation => {
                anyhow::bail!(
                    "it says that it belongs to installation {}",
                    kept.installation
                )
            }
            // It says nothing, or nothing that can be read: it is named as one of ours.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// VMs of which a process lives, and whether it is a VMM.
fn living(observed: &Observed) -> look::Living {
    let processes = observed.processes.known().into_iter().flatten();
    let mut living = look::Living {
        known: observed.processes.known().is_some(),
        ..look::Living::default()
    };
    for process in processes {
        if let Some(vm) = process.identity.mark.vm() {
            living.any.insert(vm);
            if process.role == ProcessRole::Vmm {
                living.vmms.insert(vm);
            }
        }
    }
    living
}

fn unknown(observed: &Observed) -> Vec<String> {
    fn why<T>(kind: &str, survey: &Survey<T>) -> Option<String> {
        match survey {
            Survey::Known(_) => None,
            Survey::Unknown(why) => Some(format!("{kind}: {why}")),
        }
    }
    [
        why("processes", &observed.processes),
        why("units", &observed.units),
        why("TAPs", &observed.taps),
        why("VM folders", &observed.dirs),
        why("bridge", &observed.bridge),
        why("network rules", &observed.rules),
        why("name server", &observed.names),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// An object that no mark proves to be ours.
pub(crate) fn unproven(
    id: String,
    kind: OrphanKind,
    object: String,
    reason: String,
    why: &str,
) -> Orphan {
    Orphan {
        id,
        kind,
        state: OrphanState::Unproven,
        object,
        vm: None,
        name: None,
        image: None,
        since: None,
        bytes: None,
        reason,
        fate: Fate {
            what: FateKind::Never,
            at: None,
            why: why.to_owned(),
        },
        adoptable: false,
        removable: false,
    }
}
