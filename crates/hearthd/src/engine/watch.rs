//! Noticing deaths at once: one watcher per living VMM, on its pidfd.

use std::sync::Arc;

use hearth_types::ids::VmId;
use hearth_types::observe::{Observed, ProcessRole};
use hearth_types::process::ProcessIdentity;

use super::Engine;

/// Lets the loop look at a VM when this is dropped.
struct LookAfter<'a>(&'a Engine, VmId);

impl Drop for LookAfter<'_> {
    fn drop(&mut self) {
        self.0.look_at(self.1);
    }
}

impl Engine {
    /// Watches every VMM of ours that a survey found and that is not watched yet.
    pub(super) fn watch_all(self: &Arc<Self>, observed: &Observed) {
        if let Some(taps) = observed.taps.known() {
            self.metrics.ports_seen(taps.len());
        }
        for process in observed.processes.known().into_iter().flatten() {
            if process.role == ProcessRole::Vmm {
                self.watch_vmm(&process.identity);
            }
        }
    }

    /// Watches the VMMs that an earlier daemon has left, before anything is looked at: who dies under
    /// the first look is noticed, too.
    pub(super) async fn watch_recorded(self: &Arc<Self>) {
        let boot_id = self.parts.processes.boot_id();
        for row in self.parts.store.vms().await {
            if let Some(vmm) = row.status.vmm.filter(|vmm| vmm.boot_id == boot_id) {
                self.watch_vmm(&vmm);
            }
        }
    }

    /// Records its end as soon as this VMM is dead, and lets the loop look at the VM again.
    pub(super) fn watch_vmm(self: &Arc<Self>, identity: &ProcessIdentity) {
        let key = (identity.pid, identity.start_time);
        let Some(vm) = identity.mark.vm() else { return };
        if !self.work.lock().watched.insert(key) {
            return;
        }
        self.watch_over(vm, identity);
        self.watch_cgroup(vm);
        let (engine, identity) = (Arc::clone(self), identity.clone());
        tokio::spawn(async move {
            let dead = engine.parts.vmm.wait_dead(&identity).await;
            engine.work.lock().watched.remove(&key);
            engine.health.run_over(vm, &identity);
            engine.agents.drop_vm(vm);
            engine.span_of(vm).await.in_scope(|| match &dead {
                // The next full pass sees the death instead.
                Err(error) => {
                    tracing::warn!(pid = identity.pid, error = %error, "a VMM cannot be watched");
                }
                Ok(_) => tracing::debug!(pid = identity.pid, "VMM died"),
            });
            // Whatever becomes of it, the next pass sees what there is.
            let _look = LookAfter(&engine, vm);
            if dead.is_ok() {
                engine.end_of_run(vm, &identity).await;
            }
        });
    }
}
