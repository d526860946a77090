//! `/v1/vms/{vm}/reset-breaker` and its siblings: the operator's words on recovery.
//!
//! Each is one change of the VM's status by which `recovery.word` grows, so that a plan
//! that was made before it is not carried out after it.

use axum::Json;
use axum::extract::State;
use hearth_plan::{breaker, recovery};
use hearth_store::VmRow;
use hearth_types::api::{HoldVm, HostReset, RecoverVm, Recovered, RecoveredList, Vm, VmPlan};
use hearth_types::event::NewEvent;
use hearth_types::problem::{Code, Problem};
use hearth_types::status::VmStatus;

use super::error::{ApiError, ApiResult, Body, InPath};
use super::{Api, lifecycle, view};

/// The most characters of an operator's reason.
const REASON_MAX: usize = 200;

/// Changes a status by the operator's word and lets the loop look at it.
async fn say(
    api: &Api,
    row: &VmRow,
    change: impl FnOnce(&VmRow) -> VmStatus + Send + 'static,
) -> ApiResult<VmRow> {
    let engine = &api.engine;
    let said = engine.parts.store.change_status(row.id, change).await?;
    engine.tell_breaker(Some(row), &said).await;
    engine.tell_changed();
    engine.look_at(row.id);
    Ok(said)
}

/// Closes a VM's circuit breaker and forgets its failures: what waits starts at once.
#[utoipa::path(post, path = "/v1/vms/{vm}/reset-breaker", tag = "recovery", params(("vm" = String, Path)),
    responses((status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn reset_breaker(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
) -> ApiResult<Json<Vm>> {
    let row = lifecycle::found(&api, &vm).await?;
    let row = say(&api, &row, |row| breaker::reset(&row.status)).await?;
    Ok(Json(view::vm(&api.engine, row)))
}

/// Holds a VM: it is observed, and nothing is done to it automatically. Stopping and removing
/// it are its user's word and still work; any other action is refused until it is released.
#[utoipa::path(post, path = "/v1/vms/{vm}/hold", tag = "recovery", request_body = Option<HoldVm>, params(("vm" = String, Path)),
    responses((status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn hold(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Body(hold): Body<HoldVm>,
) -> ApiResult<Json<Vm>> {
    let row = lifecycle::found(&api, &vm).await?;
    let reason = hold.reason.filter(|reason| !reason.trim().is_empty());
    if reason.as_ref().is_some_and(|reason| {
        reason.chars().count() > REASON_MAX || reason.contains(char::is_control)
    }) {
        let detail = format!("reason: must be at most {REASON_MAX} characters without line breaks");
        return Err(ApiError::new(Code::Invalid, detail));
    }
    let (now, why) = (api.engine.now(), reason.clone());
    let held = say(&api, &row, move |row| recovery::hold(&row.status, why, now)).await?;
    if row.status.recovery.hold.is_none() {
        let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let message = format!("{} is held{why}", row.spec.name);
        tell(&api, &row, "vm.held", message).await;
    }
    Ok(Json(view::vm(&api.engine, held)))
}

/// Releases a VM that is held.
#[utoipa::path(post, path = "/v1/vms/{vm}/release", tag = "recovery", params(("vm" = String, Path)),
    responses((status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn release(State(api): State<Api>, InPath(vm): InPath<String>) -> ApiResult<Json<Vm>> {
    let row = view::find(&api.engine, &vm).await?;
    if row.status.recovery.hold.is_none() {
        return Ok(Json(view::vm(&api.engine, row)));
    }
    let released = say(&api, &row, |row| recovery::release(&row.status)).await?;
    let message = format!("{} is released", row.spec.name);
    tell(&api, &row, "vm.released", message).await;
    Ok(Json(view::vm(&api.engine, released)))
}

/// Starts a VM now that waits for its restart; with `force` also one whose circuit breaker is
/// open or that its restart policy has given up.
#[utoipa::path(post, path = "/v1/vms/{vm}/recover", tag = "recovery", request_body = Option<RecoverVm>, params(("vm" = String, Path)),
    responses((status = 200, body = Recovered), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn recover(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Body(how): Body<RecoverVm>,
) -> ApiResult<Json<Recovered>> {
    let row = lifecycle::found(&api, &vm).await?;
    refuse_held(&row)?;
    Ok(Json(recover_one(&api, &row, how.force).await?))
}

/// Starts all VMs now that wait for their restart, as `recover` of each.
#[utoipa::path(post, path = "/v1/recover", tag = "recovery", request_body = Option<RecoverVm>,
    responses((status = 200, body = RecoveredList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn recover_all(
    State(api): State<Api>,
    Body(how): Body<RecoverVm>,
) -> ApiResult<Json<RecoveredList>> {
    let mut items = Vec::new();
    for row in by_name(&api).await {
        items.push(recover_one(&api, &row, how.force).await?);
    }
    Ok(Json(RecoveredList { items }))
}

async fn recover_one(api: &Api, row: &VmRow, force: bool) -> ApiResult<Recovered> {
    let now = api.engine.now();
    let said = recovery::recover(&row.status, row.goal, force, now);
    if said.status.is_none() {
        return Ok(answer(row, false, said.detail));
    }
    // What holds is what is true when it is stored.
    say(api, row, move |row| {
        let said = recovery::recover(&row.status, row.goal, force, now);
        said.status.unwrap_or_else(|| row.status.clone())
    })
    .await?;
    let message = format!("[recovery] {}: {}", row.spec.name, said.detail);
    tell(api, row, "vm.recover", message).await;
    Ok(answer(row, true, said.detail))
}

/// Shows what the next pass would do to one VM, and why that and no more. Nothing is changed.
#[utoipa::path(get, path = "/v1/vms/{vm}/plan", operation_id = "plan_of_vm", tag = "loop", params(("vm" = String, Path)),
    responses((status = 200, body = VmPlan), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn plan(State(api): State<Api>, InPath(vm): InPath<String>) -> ApiResult<Json<VmPlan>> {
    let row = view::find(&api.engine, &vm).await?;
    let plan = api.engine.dry_run_of(row.id).await?;
    let gone = || ApiError::new(Code::NotFound, format!("{} was removed", row.spec.name));
    Ok(Json(plan.ok_or_else(gone)?))
}

/// A user's word that a hold stands against.
pub(super) fn refuse_held(row: &VmRow) -> ApiResult<()> {
    let Some(hold) = &row.status.recovery.hold else {
        return Ok(());
    };
    let (name, since) = (&row.spec.name, hold.since);
    let why = hold.reason.as_deref();
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let detail = format!("{name} is held since {since:.0}{why}");
    Err(ApiError::new(Code::Conflict, detail).hint(format!(
        "hearth release {name} first; stopping and removing it work as it is"
    )))
}

async fn tell(api: &Api, row: &VmRow, code: &str, message: String) {
    let event = NewEvent::info(code, message).vm(row.id, &row.spec.name);
    api.engine.tell(event).await;
}

/// Closes every VM's circuit breaker, and the host's.
#[utoipa::path(post, path = "/v1/reset-breakers", tag = "recovery",
    responses((status = 200, body = RecoveredList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn reset_breakers(State(api): State<Api>) -> ApiResult<Json<RecoveredList>> {
    let mut items = Vec::new();
    for row in by_name(&api).await {
        let recovery = &row.status.recovery;
        if recovery.breaker.is_none() && recovery.failures.is_empty() {
            continue;
        }
        let detail = match &recovery.breaker {
            Some(_) => "breaker closed",
            None => "its failures are forgotten",
        };
        say(&api, &row, |row| breaker::reset(&row.status)).await?;
        items.push(answer(&row, true, detail));
    }
    api.engine.reset_host_breaker().await;
    Ok(Json(RecoveredList { items }))
}

/// Closes the host's circuit breaker alone: what has failed until now does not open it again.
#[utoipa::path(post, path = "/v1/host/reset-breaker", tag = "recovery",
    responses((status = 200, body = HostReset), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn reset_host(State(api): State<Api>) -> Json<HostReset> {
    let done = api.engine.reset_host_breaker().await;
    let detail = if done {
        "the host's breaker is closed; what waits starts a few at a time"
    } else {
        "the host's breaker was closed"
    };
    Json(HostReset {
        done,
        detail: detail.to_owned(),
    })
}

async fn by_name(api: &Api) -> Vec<VmRow> {
    let mut rows = api.engine.parts.store.vms().await;
    rows.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    rows
}

fn answer(row: &VmRow, done: bool, detail: impl Into<String>) -> Recovered {
    Recovered {
        vm: row.id,
        name: row.spec.name.to_string(),
        done,
        detail: detail.into(),
    }
}
