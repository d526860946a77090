//! `/v1/mode`: how much the daemon may do; and the refusal of changes in mode `readonly`.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hearth_types::mode::{Mode, ModeBy, ModeView, SetMode};
use hearth_types::problem::{Code, Problem};

use super::Api;
use super::error::{ApiError, ApiResult, Body};

/// The one request that is answered in every mode.
const PATH: &str = "/v1/mode";
/// The longest reason, in characters.
const REASON_MAX: usize = 500;

/// Shows the mode in force and where it comes from.
#[utoipa::path(get, path = "/v1/mode", operation_id = "mode", tag = "daemon",
    responses((status = 200, body = ModeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(api): State<Api>) -> Json<ModeView> {
    Json(api.engine.modes.view())
}

/// Sets the mode by hand; `normal` takes back what was set before. It survives a restart of the
/// daemon. Rules whose cause is there are set aside until it is gone, except that of a database
/// that cannot be written.
#[utoipa::path(put, path = "/v1/mode", operation_id = "set_mode", tag = "daemon", request_body = SetMode,
    responses((status = 200, body = ModeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn put(State(api): State<Api>, Body(set): Body<SetMode>) -> ApiResult<Json<ModeView>> {
    let reason = set.reason.as_deref().map(str::trim);
    let reason = reason.filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| {
        reason.chars().count() > REASON_MAX || reason.contains(char::is_control)
    }) {
        return Err(ApiError::new(
            Code::Invalid,
            format!("reason: must be one line of at most {REASON_MAX} characters"),
        ));
    }
    let set = SetMode {
        mode: set.mode,
        reason: reason.map(str::to_owned),
    };
    Ok(Json(api.engine.set_mode(set).await))
}

/// In mode `readonly`, whatever would change something is refused with the reason. Commands
/// and terminals in guests are not: they are GET requests, and change nothing of the host.
pub(super) async fn refuse_changes(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Response {
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if reads || request.uri().path() == PATH {
        return next.run(request).await;
    }
    let view = api.engine.modes.view();
    if view.mode != Mode::Readonly {
        return next.run(request).await;
    }
    let reason = view.reason.as_deref().unwrap_or("set by hand");
    let hint = match view.by {
        ModeBy::Rule if view.rules.iter().any(|rule| !rule.rule.yields()) => {
            "it ends by itself when the database can be written again: see hearth mode"
        }
        ModeBy::Rule => {
            "it ends by itself when the cause is gone; to remove something now: hearth mode maintenance"
        }
        ModeBy::Hand | ModeBy::Default => "leave it with: hearth mode normal",
    };
    ApiError::new(Code::ReadOnly, format!("the mode is readonly: {reason}"))
        .hint(hint)
        .into_response()
}
