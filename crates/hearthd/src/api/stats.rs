//! `/v1/vms/{vm}/stats`: figures of the VMM and of the guest.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use hearth_types::api::{GuestMetrics, VmStats};
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;

use super::error::{ApiError, ApiResult, InPath};
use super::{Api, view};

/// How long the guest may take to answer: figures without the guest's are better than none.
const GUEST_DEADLINE: Duration = Duration::from_secs(1);

/// Shows a VM's figures.
#[utoipa::path(get, path = "/v1/vms/{vm}/stats", tag = "vms", params(("vm" = String, Path)),
    responses((status = 200, body = VmStats), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn stats(State(api): State<Api>, InPath(vm): InPath<String>) -> ApiResult<Json<VmStats>> {
    let row = view::find(&api.engine, &vm).await?;
    let Some(identity) = row.status.vmm else {
        return Err(ApiError::new(
            Code::Conflict,
            format!("{} is not running", row.spec.name),
        ));
    };
    let usage = hearth_host::usage::of(identity.pid).map_err(|error| {
        ApiError::new(
            Code::Internal,
            format!(
                "the figures of process {} cannot be read: {error}",
                identity.pid
            ),
        )
    })?;
    let guest = async {
        let client = api
            .engine
            .agents
            .get(&api.engine, row.id, GUEST_DEADLINE)
            .await
            .ok()?;
        let metrics = tokio::time::timeout(GUEST_DEADLINE, client.metrics())
            .await
            .ok()?
            .ok()?;
        let value = serde_json::to_value(metrics).ok()?;
        serde_json::from_value::<GuestMetrics>(value).ok()
    };
    let devices = async {
        let dir = api.engine.paths.vm(row.id);
        let asked = api.engine.parts.vmm.device_stats(row.id, &dir);
        let answer = tokio::time::timeout(GUEST_DEADLINE, asked).await.ok()?;
        answer
            .map_err(|error| tracing::debug!(error = %chain(&error), "no figures of the devices"))
            .ok()?
    };
    let (guest, devices) = tokio::join!(guest, devices);
    Ok(Json(VmStats {
        cpu_millis: usage.cpu_millis,
        vmm_rss: usage.rss_bytes,
        devices,
        guest,
    }))
}
