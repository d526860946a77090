//! `/v1/vms/{vm}/start` and its siblings: each writes a new goal and wakes the loop.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use hearth_store::VmRow;
use hearth_types::api::{StopVm, Vm};
use hearth_types::problem::{Code, Problem};
use hearth_types::status::{Goal, Phase};
use serde::Deserialize;
use tokio::time::Instant;

use super::error::{ApiError, ApiResult, Body, InPath, Params, at_most};
use super::{Api, recovery, view, vms};

/// How long a request waits when it asks to wait and does not say how long.
const WAIT: Duration = Duration::from_secs(120);

/// The most seconds that a request may wait.
pub(super) const MOST_SECONDS: u32 = 86_400;

/// Options of actions.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ActionParams {
    /// Answer only when it is done.
    pub wait: Option<bool>,
    /// Seconds to wait at most; 120 when absent.
    #[param(minimum = 0, maximum = 86400)]
    pub timeout: Option<u32>,
    /// Skip the clean way.
    pub force: Option<bool>,
}

/// Starts a VM.
#[utoipa::path(post, path = "/v1/vms/{vm}/start", tag = "vms", params(("vm" = String, Path), ActionParams, ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Vm), (status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn start(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    headers: HeaderMap,
    Params(params): Params<ActionParams>,
) -> ApiResult<Response> {
    at_most("timeout", params.timeout, MOST_SECONDS)?;
    let row = found(&api, &vm).await?;
    recovery::refuse_held(&row)?;
    // A running VM is not told again: a new generation would clear its restart counts.
    if row.goal == Goal::Running && row.status.vmm.is_some() {
        return Ok(vms::answer(&api, StatusCode::OK, row));
    }
    let row = set_goal(&api, &row, Goal::Running, &headers).await?;
    finish(&api, row, Goal::Running, &params).await
}

/// Stops a VM: the clean way first, by force after its stop timeout.
#[utoipa::path(post, path = "/v1/vms/{vm}/stop", tag = "vms", request_body = Option<StopVm>, params(("vm" = String, Path), ActionParams, ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Vm), (status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn stop(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    headers: HeaderMap,
    Params(params): Params<ActionParams>,
    Body(stop): Body<StopVm>,
) -> ApiResult<Response> {
    at_most("timeout", params.timeout, MOST_SECONDS)?;
    let row = found(&api, &vm).await?;
    check(&stop)?;
    let expected = vms::if_match(&headers)?;
    let row = api
        .engine
        .parts
        .store
        .set_goal(row.id, Goal::Stopped, stop.force, stop.timeout, expected)
        .await?;
    finish(&api, row, Goal::Stopped, &params).await
}

/// Stops a VM and starts it again.
#[utoipa::path(post, path = "/v1/vms/{vm}/restart", tag = "vms", request_body = Option<StopVm>, params(("vm" = String, Path), ActionParams, ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Vm), (status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn restart(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    headers: HeaderMap,
    Params(params): Params<ActionParams>,
    Body(stop): Body<StopVm>,
) -> ApiResult<Response> {
    at_most("timeout", params.timeout, MOST_SECONDS)?;
    let row = found(&api, &vm).await?;
    recovery::refuse_held(&row)?;
    check(&stop)?;
    let expected = vms::if_match(&headers)?;
    let now = api.engine.now();
    // The goal and the begun stop are one transaction: a daemon that is killed here still
    // knows that it was to be a restart.
    let begin = move |row: &VmRow| hearth_plan::recovery::restart(&row.status, row.generation, now);
    let store = &api.engine.parts.store;
    let row = store
        .set_goal_and_status(
            row.id,
            Goal::Running,
            stop.force,
            stop.timeout,
            expected,
            begin,
        )
        .await?;
    finish(&api, row, Goal::Running, &params).await
}

/// Stops a VM's vCPUs.
#[utoipa::path(post, path = "/v1/vms/{vm}/pause", tag = "vms", params(("vm" = String, Path), ActionParams, ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Vm), (status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn pause(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    headers: HeaderMap,
    Params(params): Params<ActionParams>,
) -> ApiResult<Response> {
    at_most("timeout", params.timeout, MOST_SECONDS)?;
    let row = running(&api, &vm).await?;
    let row = set_goal(&api, &row, Goal::Paused, &headers).await?;
    finish(&api, row, Goal::Paused, &params).await
}

/// Lets a paused VM's vCPUs run again.
#[utoipa::path(post, path = "/v1/vms/{vm}/resume", tag = "vms", params(("vm" = String, Path), ActionParams, ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Vm), (status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn resume(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    headers: HeaderMap,
    Params(params): Params<ActionParams>,
) -> ApiResult<Response> {
    at_most("timeout", params.timeout, MOST_SECONDS)?;
    let row = running(&api, &vm).await?;
    let row = set_goal(&api, &row, Goal::Running, &headers).await?;
    finish(&api, row, Goal::Running, &params).await
}

fn check(stop: &StopVm) -> ApiResult<()> {
    if stop
        .timeout
        .is_some_and(|timeout| timeout > hearth_types::units::Span::secs(3600))
    {
        return Err(ApiError::new(Code::Invalid, "timeout: must be at most 1h"));
    }
    Ok(())
}

async fn set_goal(api: &Api, row: &VmRow, goal: Goal, headers: &HeaderMap) -> ApiResult<VmRow> {
    Ok(api
        .engine
        .parts
        .store
        .set_goal(row.id, goal, false, None, vms::if_match(headers)?)
        .await?)
}

/// A VM that is not being removed.
pub(super) async fn found(api: &Api, vm: &str) -> ApiResult<VmRow> {
    let row = view::find(&api.engine, vm).await?;
    if row.goal == Goal::Absent {
        return Err(ApiError::new(
            Code::Conflict,
            format!("{} is being removed", row.spec.name),
        ));
    }
    Ok(row)
}

async fn running(api: &Api, vm: &str) -> ApiResult<VmRow> {
    let row = found(api, vm).await?;
    recovery::refuse_held(&row)?;
    if row.status.vmm.is_none() || row.goal == Goal::Stopped {
        return Err(
            ApiError::new(Code::Conflict, format!("{} is not running", row.spec.name))
                .hint(format!("start it with: hearth start {}", row.spec.name)),
        );
    }
    Ok(row)
}

/// Wakes the loop and answers, at once or when the goal is reached.
pub(super) async fn finish(
    api: &Api,
    row: VmRow,
    goal: Goal,
    params: &ActionParams,
) -> ApiResult<Response> {
    api.engine.tell_changed();
    api.engine.look_at(row.id);
    if !params.wait.unwrap_or(false) {
        return Ok(vms::answer(api, StatusCode::ACCEPTED, row));
    }
    let row = reach(api, row, goal, params.timeout).await?;
    Ok(vms::answer(api, StatusCode::OK, row))
}

/// Waits until a VM is where its goal says.
pub(super) async fn reach(
    api: &Api,
    row: VmRow,
    goal: Goal,
    secs: Option<u32>,
) -> ApiResult<VmRow> {
    let wait = secs.map_or(WAIT, |secs| Duration::from_secs(secs.into()));
    let mut changes = api.engine.changes();
    let until = Instant::now() + wait;
    let mut last = row;
    loop {
        changes.mark_unchanged();
        let Some(row) = api.engine.parts.store.vm(last.id).await else {
            return if goal == Goal::Absent {
                Ok(last)
            } else {
                Err(ApiError::new(
                    Code::NotFound,
                    format!("{} was removed", last.spec.name),
                ))
            };
        };
        if reached(&row, goal) || (row.generation != last.generation && goal != Goal::Absent) {
            return Ok(row);
        }
        if let Some(problem) = failed(&row, goal) {
            return Err(problem);
        }
        last = row;
        if tokio::time::timeout_at(until, changes.changed())
            .await
            .is_err()
        {
            let detail = format!(
                "{} is still {} after {} s",
                last.spec.name,
                last.status.phase.as_str(),
                wait.as_secs()
            );
            return Err(ApiError::new(Code::GuestUnreachable, detail)
                .hint("the goal stays: watch it with hearth ps and hearth events"));
        }
    }
}

fn reached(row: &VmRow, goal: Goal) -> bool {
    let seen = row.status.observed_generation >= row.generation;
    match goal {
        Goal::Running => {
            seen && (row.status.phase == Phase::Running
                || matches!(row.status.phase, Phase::Exited))
        }
        Goal::Paused => row.status.phase == Phase::Paused,
        Goal::Stopped => {
            seen && row.status.vmm.is_none()
                && matches!(
                    row.status.phase,
                    Phase::Exited | Phase::Failed | Phase::Created
                )
        }
        Goal::Absent => false,
    }
}

fn failed(row: &VmRow, goal: Goal) -> Option<ApiError> {
    let seen = row.status.observed_generation >= row.generation;
    let gave_up =
        goal == Goal::Running && seen && matches!(row.status.phase, Phase::Failed | Phase::Backoff);
    gave_up.then(|| {
        let reason = row
            .status
            .reason
            .clone()
            .unwrap_or_else(|| "no reason is known".to_owned());
        ApiError::new(
            Code::Conflict,
            format!("{} could not be started: {reason}", row.spec.name),
        )
        .hint(format!(
            "see hearth logs {0} and hearth logs --vmm {0}",
            row.spec.name
        ))
    })
}
