//! Taking steps: one match over them. The journal around each is in `journal.rs`.
//!
//! Every step is idempotent and proves again what it acts on, so a crash between any two
//! lines here is answered by the next pass.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hearth_net::TapSpec;
use hearth_plan::{Step, transition};
use hearth_store::{StoreError, VmRow};
use hearth_types::OwnerMark;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VmId;
use hearth_types::names::{tap_name, unit_name};
use hearth_types::observe::{ObservedBridge, ObservedNames};
use hearth_types::process::ProcessIdentity;
use hearth_types::spec::NetworkMode;
use hearth_types::status::{Goal, Phase, StopRung, VmStatus};
use hearth_types::survey::Survey;

use super::Engine;
use super::shared::Blocked;

/// How long the guest agent gets to accept a shutdown; the shutdown itself has the stop timeout.
const AGENT_SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// How long a process may take to go that was killed.
const DEATH: Duration = Duration::from_secs(5);

impl Engine {
    pub(super) async fn effect(
        self: &Arc<Self>,
        step: &Step,
        row: Option<&VmRow>,
    ) -> anyhow::Result<()> {
        let wanted = || row.context("the VM is not in the database");
        let net = &self.parts.net;
        match step {
            Step::EnsureBridge => {
                net.check().await?;
                net.ensure_bridge().await?;
                self.remember_shared(|shared| {
                    shared.bridge = Survey::Known(Some(ObservedBridge { ready: true }))
                });
            }
            Step::RemoveBridge => {
                net.remove_bridge().await?;
                self.remember_shared(|shared| shared.bridge = Survey::Known(None));
            }
            Step::ApplyRules(rules) => {
                net.apply_rules(rules).await?;
                self.remember_shared(|shared| shared.rules = Survey::Known(Some(rules.clone())));
            }
            Step::RemoveRules => {
                net.remove_rules().await?;
                self.remember_shared(|shared| shared.rules = Survey::Known(None));
            }
            Step::EnsureNames(hosts) => {
                net.ensure_names(hosts).await?;
                let names = ObservedNames {
                    running: true,
                    hosts: hosts.clone(),
                };
                self.remember_shared(|shared| shared.names = Survey::Known(names));
            }
            Step::RemoveNames => {
                net.remove_names().await?;
                self.remember_shared(|shared| {
                    shared.names = Survey::Known(ObservedNames::default())
                });
            }
            Step::EnsureDisks { .. } => self.ensure_disks(wanted()?).await?,
            Step::EnsureTap { .. } => self.ensure_tap(wanted()?).await?,
            Step::EnsureLimits { .. } => self.ensure_limits(step, wanted()?).await?,
            Step::StartVmm { restart, .. } => self.start(wanted()?, *restart).await?,
            Step::Adopt { vm, identity } => {
                self.reconnecting(*vm, row, identity);
                let adopted = self.adopt(*vm, identity).await;
                self.reconnected(*vm, row, &adopted);
                adopted?;
            }
            Step::Pause { vm, .. } => {
                self.parts.vmm.pause(*vm, &self.paths.vm(*vm)).await?;
                self.set_phase(*vm, Phase::Paused, "vm.paused", "is paused")
                    .await?;
            }
            Step::Resume { vm, .. } => {
                self.parts.vmm.resume(*vm, &self.paths.vm(*vm)).await?;
                if wanted()?.status.disk_full.is_some() {
                    // Whether it goes on is seen, not told.
                    let now = self.now();
                    let tried = move |row: &VmRow| transition::told_to_go_on(&row.status, now);
                    self.change_status(*vm, tried).await?;
                    return Ok(());
                }
                self.set_phase(*vm, Phase::Running, "vm.resumed", "runs again")
                    .await?;
            }
            Step::Stop { vm, identity, rung } => self.stop(*vm, identity, *rung, wanted()?).await?,
            Step::RemoveTap { tap, .. } => net.remove_tap(tap).await?,
            Step::FlushConntrack { ip, .. } => net.flush_conntrack(*ip).await?,
            Step::RemoveDir { vm } => self.remove_dir(*vm).await?,
            Step::KillOrphan { identity } => {
                self.parts.vmm.kill(identity).await?;
                self.see_dead(identity).await?;
                self.orphan_removed("process", &format!("{} ({})", identity.pid, identity.exe))
                    .await;
                // What it used can go, too, and no other event says so.
                self.look_at_everything();
            }
            Step::RemoveOrphanTap { tap } => {
                net.remove_tap(tap).await?;
                self.orphan_removed("TAP", &tap.name).await;
            }
            Step::RemoveOrphanUnit { unit } => {
                self.parts.vmm.remove_unit(unit).await?;
                let name = unit.mark.vm().map(unit_name).unwrap_or_default();
                self.orphan_removed("unit", &name).await;
            }
            Step::RemoveOrphanDir { vm } => {
                self.prove_folder(*vm)?;
                self.remove_dir(*vm).await?;
                self.orphan_removed("folder", self.paths.vm(*vm).as_str())
                    .await;
            }
            Step::SetGoal {
                vm,
                goal,
                generation,
            } => self.set_goal(*vm, *goal, *generation).await?,
            Step::Forget { vm } => self.forget(*vm, row).await?,
            Step::SetStatus { .. } => {}
        }
        Ok(())
    }

    /// What was killed is gone, or it waits in the kernel: then nothing is said to be removed.
    async fn see_dead(&self, identity: &ProcessIdentity) -> anyhow::Result<()> {
        let dead = self.parts.vmm.wait_dead(identity);
        let pid = identity.pid;
        tokio::time::timeout(DEATH, dead)
            .await
            .with_context(|| format!("process {pid} was killed and is still there: it waits in the kernel and goes when that lets it"))??;
        Ok(())
    }

    fn remember_shared(&self, change: impl FnOnce(&mut hearth_types::observe::Observed)) {
        if let Some(shared) = self.work.lock().shared.as_mut() {
            change(shared);
        }
    }

    pub(crate) async fn orphan_removed(&self, kind: &'static str, object: &str) {
        self.metrics.orphan_removed(match kind {
            "TAP" => "tap",
            kind => kind,
        });
        self.tell(
            NewEvent::info(
                "orphan.removed",
                format!("[reconcile] removed orphaned {kind} {object}"),
            )
            .severity(Severity::Warning),
        )
        .await;
    }

    pub(super) async fn set_status(
        &self,
        vm: VmId,
        status: &VmStatus,
        event: Option<&NewEvent>,
    ) -> anyhow::Result<()> {
        let store = self.store_planned(vm, status.clone());
        // Queued together, they are one commit.
        let (stored, ()) = tokio::join!(store, async {
            if let Some(event) = event {
                self.tell(event.clone()).await;
            }
        });
        stored.context("cannot store the status")?;
        self.tell_changed();
        if event.is_some_and(|event| event.code == "vm.exited") {
            self.end_recorded(vm).await;
            self.keep_history(vm).await;
        }
        Ok(())
    }

    /// Changes a VM's status from what it is at that moment. `None` if the VM is gone.
    pub(super) async fn change_status(
        &self,
        vm: VmId,
        change: impl FnOnce(&VmRow) -> VmStatus + Send + 'static,
    ) -> anyhow::Result<Option<VmRow>> {
        let before = self.parts.store.vm(vm).await;
        match self.parts.store.change_status(vm, change).await {
            Ok(row) => {
                self.tell_breaker(before.as_ref(), &row).await;
                Ok(Some(row))
            }
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error).context("cannot store the status"),
        }
    }

    async fn set_phase(
        &self,
        vm: VmId,
        phase: Phase,
        code: &str,
        words: &str,
    ) -> anyhow::Result<()> {
        let row = self
            .change_status(vm, move |row| VmStatus {
                phase,
                ..row.status.clone()
            })
            .await?;
        if let Some(row) = row {
            self.tell(
                NewEvent::info(code, format!("{} {words}", row.spec.name)).vm(vm, &row.spec.name),
            )
            .await;
        }
        Ok(())
    }

    async fn ensure_tap(&self, row: &VmRow) -> anyhow::Result<()> {
        if row.spec.network.mode == NetworkMode::None {
            return Ok(());
        }
        let tap = TapSpec {
            name: tap_name(row.id),
            mark: OwnerMark::of_vm(self.parts.store.installation(), row.id),
            uid: if self.settings.unprivileged {
                row.leases.uid
            } else {
                0
            },
        };
        Ok(self.parts.net.ensure_tap(&tap).await?)
    }

    async fn start(self: &Arc<Self>, row: &VmRow, restart: bool) -> anyhow::Result<()> {
        let row = &self.with_uid(row).await?;
        self.settle_disks(row.id).await?;
        let spec = self.launch_spec(row).await?;
        let identity = self.parts.vmm.launch(&spec).await?;
        self.failpoints.hit("after", "launch").await;
        self.started(row.id, &identity, restart).await
    }

    /// A VM that was made while VMMs ran as root gets a uid, and its TAP that owner.
    async fn with_uid(&self, row: &VmRow) -> anyhow::Result<VmRow> {
        if !self.settings.unprivileged || row.leases.uid != 0 {
            return Ok(row.clone());
        }
        let leased = self.parts.store.lease_uid(row.id, self.settings.leases);
        let row = leased.await.context("cannot lease a uid")?;
        self.ensure_tap(&row).await?;
        Ok(row)
    }

    async fn started(
        self: &Arc<Self>,
        vm: VmId,
        identity: &ProcessIdentity,
        restart: bool,
    ) -> anyhow::Result<()> {
        let now = self.now();
        let started = identity.clone();
        let row = self.change_status(vm, move |row| {
            transition::started(&row.status, started, now, restart)
        });
        self.watch_vmm(identity);
        if let Some(row) = row.await? {
            self.vmm_started(vm, &row, restart);
            self.keep_attempt(&row, "start_vmm", None).await;
            // Who waits for it to run does not wait for the event's commit.
            self.tell_changed();
            let word = if restart { "restarted" } else { "started" };
            let event = NewEvent::info(
                &format!("vm.{word}"),
                format!("{} {word}, VMM pid {}", row.spec.name, identity.pid),
            );
            self.tell(
                event
                    .vm(vm, &row.spec.name)
                    .details(serde_json::json!({ "pid": identity.pid })),
            )
            .await;
        }
        Ok(())
    }

    async fn adopt(self: &Arc<Self>, vm: VmId, identity: &ProcessIdentity) -> anyhow::Result<()> {
        self.watch_vmm(identity);
        let started_at = self.parts.processes.started_at(identity);
        let adopted = identity.clone();
        let row = self
            .change_status(vm, move |row| {
                transition::adopted(&row.status, adopted, started_at)
            })
            .await?;
        if let Some(row) = row {
            let event = NewEvent::info(
                "vm.adopted",
                format!(
                    "[recovery] {} adopted, VMM pid {}",
                    row.spec.name, identity.pid
                ),
            );
            self.tell(event.vm(vm, &row.spec.name)).await;
        }
        Ok(())
    }

    /// Climbs one rung, or the next one that works. The end itself is seen by the next
    /// survey, not awaited here.
    async fn stop(
        self: &Arc<Self>,
        vm: VmId,
        identity: &ProcessIdentity,
        rung: StopRung,
        row: &VmRow,
    ) -> anyhow::Result<()> {
        let mut rung = rung;
        while let Err(error) = self.climb(vm, identity, rung, row).await {
            if rung == StopRung::Kill {
                return Err(error);
            }
            tracing::info!(%vm, ?rung, error = format!("{error:#}"), "[reconcile] this rung of the stop does not work, the next one is tried");
            rung = transition::skip_rung(rung);
        }
        self.change_status(vm, move |row| transition::rung_taken(&row.status, rung))
            .await?;
        Ok(())
    }

    async fn climb(
        self: &Arc<Self>,
        vm: VmId,
        identity: &ProcessIdentity,
        rung: StopRung,
        row: &VmRow,
    ) -> anyhow::Result<()> {
        let dir = self.paths.vm(vm);
        match rung {
            StopRung::Agent => {
                let timeout = row
                    .stop_timeout
                    .unwrap_or(row.spec.stop_timeout)
                    .as_duration();
                self.agents
                    .shutdown(self, vm, timeout, AGENT_SHUTDOWN_DEADLINE)
                    .await
            }
            StopRung::PowerButton => Ok(self.parts.vmm.power_button(vm, &dir).await?),
            StopRung::Quit => {
                self.dump_if_panicked(row).await;
                Ok(self.parts.vmm.quit(vm, &dir).await?)
            }
            StopRung::Kill => Ok(self.parts.vmm.kill(identity).await?),
        }
    }

    /// Changes a goal as the restart policy asks, unless the user said something since.
    async fn set_goal(&self, vm: VmId, goal: Goal, generation: u64) -> anyhow::Result<()> {
        match self
            .parts
            .store
            .set_goal(vm, goal, false, None, Some(generation))
            .await
        {
            Ok(_)
            | Err(
                StoreError::Stale { .. } | StoreError::NotFound { .. } | StoreError::Leaving { .. },
            ) => Ok(()),
            Err(error) => Err(error).context("cannot store the goal"),
        }
    }

    async fn forget(&self, vm: VmId, row: Option<&VmRow>) -> anyhow::Result<()> {
        self.agents.drop_vm(vm);
        self.metrics.forget(vm);
        self.work.lock().covered.remove(&vm);
        if let Some(row) = self.parts.store.vm(vm).await {
            if row.spec.auto_remove && row.goal != Goal::Absent {
                // Nobody said so, its end did.
                self.set_goal(vm, Goal::Absent, row.generation).await?;
            }
            self.say_farewell(vm, row.status.last_end);
        }
        self.parts
            .store
            .forget(vm)
            .await
            .context("cannot delete the record")?;
        let bridged = |row: &VmRow| row.spec.network.mode == NetworkMode::Bridge;
        if !self.parts.store.vms().await.iter().any(bridged) {
            // The last one: what all of them shared goes, too, and only a full pass does that.
            self.look_at_everything();
        }
        if let Some(row) = row {
            let event = NewEvent::info("vm.removed", format!("{} removed", row.spec.name));
            self.tell(event.vm(vm, &row.spec.name)).await;
        }
        Ok(())
    }

    /// What is shared could not be made, so the VM cannot start: its reason says why.
    pub(super) fn start_blocked(&self, vm: VmId, blocked: Blocked) -> anyhow::Result<()> {
        Err(anyhow::Error::new(blocked).context(format!("the network is not ready for {vm}")))
    }

    /// A step failed: a VM that should run counts it as a failed start, anything else is
    /// simply tried again.
    pub(super) async fn step_failed(
        self: &Arc<Self>,
        vm: VmId,
        step: &Step,
        error: &anyhow::Error,
        generation: u64,
    ) {
        let reason = format!("{error:#}");
        let now = self.now();
        let counts = matches!(
            step,
            Step::EnsureDisks { .. } | Step::EnsureTap { .. } | Step::StartVmm { .. }
        );
        let (why, policy) = (reason.clone(), self.settings.policy.clone());
        let cause = super::recovery::cause(step, error);
        let before = self.parts.store.vm(vm).await;
        let known = before.and_then(|row| row.status.reason);
        let stored = self
            .change_status(vm, move |row| {
                if counts && matches!(row.goal, Goal::Running | Goal::Paused) {
                    transition::start_failed(&row.status, vm, &row.spec, &why, cause, now, &policy)
                } else {
                    VmStatus {
                        reason: Some(why),
                        ..row.status.clone()
                    }
                }
            })
            .await;
        match stored {
            Ok(Some(row)) => {
                // While its VMM runs it is no start that failed.
                let start = counts && row.status.vmm.is_none();
                if start {
                    self.start_step_failed(&row, step, &reason);
                    self.keep_attempt(&row, step.kind(), Some((&reason, cause)))
                        .await;
                }
                let code = if start {
                    "vm.start_failed"
                } else {
                    "vm.step_failed"
                };
                let mut event = NewEvent::info(code, format!("{}: {reason}", row.spec.name))
                    .severity(Severity::Error);
                if start {
                    event =
                        event.details(serde_json::json!({ "step": step.kind(), "cause": cause }));
                }
                // It is tried again and again; that it still fails is no news.
                if start || known.as_ref() != Some(&reason) {
                    self.tell(event.vm(vm, &row.spec.name)).await;
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%vm, error = format!("{error:#}"), "the failure could not be stored")
            }
        }
        let pause = self.work.lock().retries.failed(vm, step, generation);
        self.look_later(vm, pause);
    }

    /// Looks at a VM again after a pause.
    pub(super) fn look_later(self: &Arc<Self>, vm: VmId, pause: Duration) {
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            engine.look_at(vm);
        });
    }
}
