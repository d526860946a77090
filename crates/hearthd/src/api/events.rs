//! `/v1/events`: the log of events, as a list or as a stream that can be resumed.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as Line, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::Stream;
use hearth_types::api::EventList;
use hearth_types::event::Event;
use hearth_types::ids::EventSeq;
use hearth_types::problem::{Code, Problem};
use serde::Deserialize;

use super::Api;
use super::error::{ApiError, ApiResult, Params};

/// Events per page.
const PAGE: usize = 1000;

/// Where to begin.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventParams {
    /// Only events after this one; a stream begins with new events when absent.
    #[param(minimum = 0, maximum = 9223372036854775807_u64)]
    after: Option<u64>,
    /// Events per page, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Lists events, or streams them when `Accept` is `text/event-stream`.
#[utoipa::path(get, path = "/v1/events", tag = "loop",
    params(EventParams, ("Last-Event-ID" = Option<String>, Header, description = "The last event that a broken stream brought.")),
    responses((status = 200, content((EventList = "application/json"), (String = "text/event-stream"))), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn events(
    State(api): State<Api>,
    headers: HeaderMap,
    Params(params): Params<EventParams>,
) -> ApiResult<Response> {
    let store = &api.engine.parts.store;
    if params
        .after
        .is_some_and(|after| i64::try_from(after).is_err())
    {
        return Err(ApiError::new(
            Code::Invalid,
            "after: is larger than any event's number",
        ));
    }
    let wants_stream = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"));
    if wants_stream {
        let resume = match headers.get("last-event-id") {
            None => params.after,
            Some(id) => {
                let number = id.to_str().ok().and_then(|id| id.trim().parse().ok());
                Some(number.ok_or_else(|| {
                    ApiError::new(
                        Code::Invalid,
                        "Last-Event-ID must be the number of an event",
                    )
                })?)
            }
        };
        let after = match resume {
            Some(after) => EventSeq(after),
            None => store.last_event().await,
        };
        let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
        return Ok(Sse::new(stream(api, after))
            .keep_alive(keep_alive)
            .into_response());
    }
    let limit = params.limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        return Err(ApiError::new(
            Code::Invalid,
            format!("limit is {limit}, must be 1 to {PAGE}"),
        ));
    }
    let items = store
        .events(EventSeq(params.after.unwrap_or(0)), limit)
        .await?;
    Ok(Json(EventList { items }).into_response())
}

struct Reader {
    api: Api,
    after: EventSeq,
    ready: std::vec::IntoIter<Event>,
    changes: tokio::sync::watch::Receiver<u64>,
}

/// Reads on in the log whenever it has grown: a slow reader misses nothing.
fn stream(api: Api, after: EventSeq) -> impl Stream<Item = Result<Line, Infallible>> {
    let changes = api.engine.changes();
    let reader = Reader {
        api,
        after,
        ready: Vec::new().into_iter(),
        changes,
    };
    futures::stream::unfold(reader, |mut reader| async move {
        loop {
            if let Some(event) = reader.ready.next() {
                reader.after = event.seq;
                return Some((Ok(line(&event)), reader));
            }
            reader.changes.mark_unchanged();
            let more = reader
                .api
                .engine
                .parts
                .store
                .events(reader.after, PAGE)
                .await
                .ok()?;
            if more.is_empty() {
                tokio::select! {
                    changed = reader.changes.changed() => changed.ok()?,
                    _ = reader.api.stopping.changed() => return None,
                }
            }
            reader.ready = more.into_iter();
        }
    })
}

fn line(event: &Event) -> Line {
    let data = serde_json::to_string(event).unwrap_or_default();
    Line::default()
        .id(event.seq.0.to_string())
        .event(event.code.clone())
        .data(data)
}
