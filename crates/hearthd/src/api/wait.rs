//! `/v1/vms/{vm}/wait`: a long poll for a condition.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use hearth_store::VmRow;
use hearth_types::api::{Health, WaitResult};
use hearth_types::problem::{Code, Problem};
use hearth_types::status::{Goal, Phase, RunEnd};
use serde::Deserialize;

use super::error::{ApiError, ApiResult, InPath, Params, at_most};
use super::lifecycle::MOST_SECONDS;
use super::{Api, view};

/// What to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// The VM has ended and will not start again by itself.
    #[default]
    Stopped,
    /// The VM is gone.
    Removed,
    /// The VMM runs.
    Running,
    /// Every check of its health succeeds.
    Healthy,
}

/// Options of `wait`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitParams {
    /// What to wait for.
    #[serde(default)]
    #[param(inline)]
    condition: Condition,
    /// Seconds to wait at most; for ever when absent.
    #[param(minimum = 0, maximum = 86400)]
    timeout: Option<u32>,
}

/// Answers when the condition holds.
#[utoipa::path(get, path = "/v1/vms/{vm}/wait", tag = "vms", params(("vm" = String, Path), WaitParams),
    responses((status = 200, body = WaitResult), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn wait(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Params(params): Params<WaitParams>,
) -> ApiResult<Json<WaitResult>> {
    at_most("timeout", params.timeout, MOST_SECONDS)?;
    let row = view::find(&api.engine, &vm).await?;
    let name = row.spec.name.clone();
    let waiting = until(api, row, params.condition);
    let end = match params.timeout {
        None => waiting.await?,
        Some(secs) => tokio::time::timeout(Duration::from_secs(secs.into()), waiting)
            .await
            .map_err(|_| {
                ApiError::new(
                    Code::GuestUnreachable,
                    format!("{name} is not {:?} after {secs} s", params.condition).to_lowercase(),
                )
            })??,
    };
    Ok(Json(WaitResult {
        exit_code: end.as_ref().and_then(|end| end.exit_code),
        end,
    }))
}

async fn until(mut api: Api, row: VmRow, condition: Condition) -> ApiResult<Option<RunEnd>> {
    let mut changes = api.engine.changes();
    let mut last = row;
    loop {
        changes.mark_unchanged();
        let Some(row) = api.engine.parts.store.vm(last.id).await else {
            return match condition {
                Condition::Stopped | Condition::Removed => {
                    Ok(api.engine.farewell(last.id).or(last.status.last_end))
                }
                _ => Err(ApiError::new(
                    Code::NotFound,
                    format!("{} was removed", last.spec.name),
                )),
            };
        };
        if let Some(problem) = hopeless(&row, condition) {
            return Err(problem);
        }
        if holds(&api, &row, condition) {
            return Ok(row.status.last_end);
        }
        last = row;
        tokio::select! {
            _ = changes.changed() => {}
            _ = api.stopping.changed() => return Err(ApiError::new(Code::Unavailable, "the daemon is being stopped").hint("ask again when it is back")),
        }
    }
}

/// Whoever waits for a VM to run should not wait for one that has failed for good.
fn hopeless(row: &VmRow, condition: Condition) -> Option<ApiError> {
    let waits_for_life = matches!(condition, Condition::Running | Condition::Healthy);
    let over = row.status.observed_generation >= row.generation
        && row.status.next_start.is_none()
        && matches!(row.status.phase, Phase::Failed | Phase::Exited);
    (waits_for_life && over).then(|| {
        let end = row.status.last_end.as_ref().map(|end| end.reason.clone());
        let why = row
            .status
            .reason
            .clone()
            .or(end)
            .unwrap_or_else(|| "it has ended".to_owned());
        ApiError::new(
            Code::Conflict,
            format!("{} is {}: {why}", row.spec.name, row.status.phase.as_str()),
        )
        .hint(format!(
            "see hearth logs {0} and hearth logs --vmm {0}",
            row.spec.name
        ))
    })
}

fn holds(api: &Api, row: &VmRow, condition: Condition) -> bool {
    let seen = row.status.observed_generation >= row.generation;
    let phase = row.status.phase;
    match condition {
        Condition::Stopped => {
            seen && row.status.vmm.is_none()
                && row.goal != Goal::Absent
                && row.status.next_start.is_none()
                && matches!(phase, Phase::Exited | Phase::Failed | Phase::Created)
        }
        Condition::Removed => false,
        Condition::Running => phase == Phase::Running,
        Condition::Healthy => {
            phase == Phase::Running && api.engine.health_of(row) == Health::Healthy
        }
    }
}
