//! A VM's specification is replaced: what that means for what the host knows of the VM.

use std::sync::Arc;

use anyhow::Context as _;
use hearth_store::{NewSpec, VmRow};
use hearth_types::spec::{NetworkMode, VmSpec};

use super::Engine;

impl Engine {
    /// Replaces a VM's specification. The connections of an address that it gives up are
    /// forgotten first: whoever gets the address next must not get them.
    ///
    /// # Errors
    /// A [`hearth_store::StoreError`] as its cause where the store refuses; the connections
    /// cannot be forgotten.
    pub async fn replace_spec(
        self: &Arc<Self>,
        row: &VmRow,
        new: NewSpec,
        expected: Option<u64>,
    ) -> anyhow::Result<VmRow> {
        if row.status.vmm.is_none()
            && let Some(ip) = row.leases.ip
            && !keeps(&new.spec, ip)
        {
            let flushed = self.parts.net.flush_conntrack(ip).await;
            flushed.with_context(|| {
                format!("{ip} cannot be given up: its connections cannot be forgotten")
            })?;
        }
        let store = &self.parts.store;
        let replaced = store.replace_spec(row.id, new, self.settings.leases, expected);
        let row = replaced.await?;
        self.keep_record_aside(&row).await;
        Ok(row)
    }
}

fn keeps(spec: &VmSpec, ip: std::net::Ipv4Addr) -> bool {
    let network = &spec.network;
    network.mode == NetworkMode::Bridge && network.address.is_none_or(|wanted| wanted == ip)
}
