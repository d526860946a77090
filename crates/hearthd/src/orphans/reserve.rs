//! What VMs have whose record is lost stays theirs: no new VM is given their address, context id,
//! uid or ports, as long as their folder says that they have them.

use hearth_store::Reserved;
use hearth_types::Survey;
use hearth_types::observe::ObservedDir;

use super::keepsake;
use crate::engine::Engine;

impl Engine {
    /// Tells the store of them, when others are there than at the last look. What could not be
    /// looked at changes nothing.
    pub(crate) async fn reserve_for_lost(&self, dirs: &Survey<Vec<ObservedDir>>) {
        let Survey::Known(dirs) = dirs else {
            return;
        };
        let mut lost = Vec::new();
        for dir in dirs {
            if self.parts.store.vm(dir.vm).await.is_some() {
                continue;
            }
            // A folder that keeps no record says nothing of what its VM has.
            if let Ok(kept) = keepsake::read(&self.paths.vm(dir.vm)) {
                lost.push(Reserved {
                    vm: kept.vm,
                    name: kept.spec.name,
                    leases: kept.leases,
                    ports: kept.spec.ports,
                });
            }
        }
        let mut known = self.reserved.lock().await;
        if *known == lost {
            return;
        }
        match self.parts.store.reserve(lost.clone()).await {
            Ok(()) => *known = lost,
            Err(error) => {
                let error = hearth_types::survey::chain(&error);
                tracing::warn!(
                    error,
                    "what VMs without a record have cannot be kept for them"
                );
            }
        }
    }
}
