//! A daemon that answers on a unix socket: the routes of the API, canned objects, and a
//! record of what was asked.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use serde_json::{Value, json};

use hearth_types::api::{HostReset, Vm};
use hearth_types::problem::{Code, Problem};

use crate::fake_images;
use crate::objects;
use crate::sockets::{console, exec};

type Params = Query<std::collections::BTreeMap<String, String>>;

/// What the daemon was asked: `METHOD path?query`, then notable headers and the body.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) lines: Vec<String>,
    pub(crate) uploads: Vec<Vec<u8>>,
    /// The mode that was set.
    mode: Option<Value>,
    /// Set while a VM called `slow` runs: its wait ends with a stop.
    slow: Option<Arc<tokio::sync::Notify>>,
}

type Shared = Arc<Mutex<Seen>>;

/// A running fake daemon; it ends with the value.
pub(crate) struct Fake {
    socket: String,
    seen: Shared,
    _dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("hearthd.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let seen = Shared::default();
        let app = router(seen.clone());
        // Bound before the first command runs.
        let listener = runtime
            .block_on(async { tokio::net::UnixListener::bind(&socket) })
            .unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            socket: socket.to_str().unwrap().to_owned(),
            seen,
            _dir: dir,
            _runtime: runtime,
        }
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket)
    }

    /// The requests that changed something.
    pub(crate) fn changes(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let changing = seen.lines.iter().filter(|line| !line.starts_with("GET "));
        changing.cloned().collect()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().lines.clone()
    }

    pub(crate) fn uploads(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().uploads.clone()
    }
}

fn router(seen: Shared) -> Router {
    Router::new()
        .route("/v1/vms", get(list).post(create))
        .route("/v1/vms/{vm}", get(vm).delete(remove))
        .route("/v1/vms/{vm}/spec", put(replace))
        .route("/v1/vms/{vm}/{action}", post(act))
        .route("/v1/vms/{vm}/recover", post(recover))
        .route(
            "/v1/vms/{vm}/plan",
            get(async || axum::Json(objects::vm_plan())),
        )
        .route("/v1/recover", post(recover_all))
        .route("/v1/reset-breakers", post(recover_all))
        .route("/v1/host/reset-breaker", post(reset_host_breaker))
        .route("/v1/vms/{vm}/wait", get(wait))
        .route("/v1/vms/{vm}/logs", get(logs))
        .route("/v1/vms/{vm}/console", any(console))
        .route("/v1/vms/{vm}/exec", any(exec))
        .route("/v1/vms/{vm}/archive", get(download).put(upload))
        .route("/v1/vms/{vm}/stats", get(stats))
        .route("/v1/vms/{vm}/health", get(health))
        .merge(fake_images::routes())
        .route("/v1/plan", get(async || axum::Json(objects::plan())))
        .route("/v1/doctor", get(async || axum::Json(objects::doctor())))
        .route("/v1/config", get(async || axum::Json(objects::config())))
        .route("/v1/events", get(events))
        .route(
            "/v1/vms/{vm}/history",
            get(async || axum::Json(objects::history())),
        )
        .route("/v1/orphans", get(async || axum::Json(objects::orphans())))
        .route("/v1/orphans/remove", post(remove_orphans))
        .route(
            "/v1/gc",
            get(async || axum::Json(objects::garbage(false))).post(clean_garbage),
        )
        .route("/v1/orphans/{id}/adopt", post(adopt))
        .route("/v1/mode", get(mode).put(set_mode))
        .route(
            "/v1/version",
            get(async || axum::Json(json!({"version": "0.1.0", "api": "1", "schema": 4}))),
        )
        .merge(crate::pool::routes())
        .merge(crate::monitor::routes())
        .merge(crate::snapshot::routes())
        .merge(crate::template::routes())
        .merge(crate::volume::routes())
        .merge(crate::db::routes())
        .layer(middleware::from_fn_with_state(seen.clone(), record))
        .with_state(seen)
}

/// Writes down what was asked, with the bodies that are JSON.
async fn record(State(seen): State<Shared>, request: Request, next: Next) -> Response {
    let mut line = format!("{} {}", request.method(), request.uri());
    for name in ["if-match", "authorization", "last-event-id"] {
        if let Some(value) = request.headers().get(name) {
            line.push_str(&format!(" [{name}: {}]", value.to_str().unwrap()));
        }
    }
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v == "application/json");
    let request = if is_json {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        line.push_str(&format!(" {}", String::from_utf8_lossy(&body)));
        Request::from_parts(parts, Body::from(body))
    } else {
        request
    };
    seen.lock().unwrap().lines.push(line);
    next.run(request).await
}

pub(crate) fn problem(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap();
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, serde_json::to_string(&problem).unwrap()).into_response()
}

pub(crate) fn find(reference: &str) -> Result<Vm, Box<Response>> {
    let all = [objects::broken(), objects::db(), objects::web()];
    let new =
        serde_json::from_value(objects::created(&json!({"name": "new", "image": "x"}))).unwrap();
    let mut all = all.into_iter().chain([new]);
    all.find(|vm| vm.spec.name.as_str() == reference || vm.id.to_string() == reference)
        .ok_or_else(|| {
            let detail = format!("There is no VM {reference:?}");
            Box::new(problem(
                Problem::new(Code::NotFound, detail).hint("hearth ps -a lists all VMs"),
            ))
        })
}

/// Two pages, so that paging is used.
async fn list(Query(query): Query<Vec<(String, String)>>) -> Response {
    let selectors: Vec<_> = query.iter().filter(|(k, _)| k == "label").collect();
    let matches = |vm: &Vm| {
        selectors.iter().all(|(_, selector)| {
            let (key, value) = selector
                .split_once('=')
                .map_or((selector.as_str(), None), |(k, v)| (k, Some(v)));
            vm.spec
                .labels
                .get(key)
                .is_some_and(|v| value.is_none_or(|value| v == value))
        })
    };
    let after = query.iter().any(|(k, _)| k == "after");
    let vms = if after {
        vec![objects::wary(), objects::web()]
    } else {
        vec![objects::broken(), objects::db()]
    };
    let booted = selectors.iter().any(|(_, selector)| selector == "booted");
    let vms = if booted { objects::booted() } else { vms };
    let items: Vec<_> = vms.into_iter().filter(matches).collect();
    let more = !after && !booted;
    axum::Json(json!({"items": items, "next": more.then_some("db")})).into_response()
}

async fn create(
    State(seen): State<Shared>,
    headers: HeaderMap,
    body: axum::Json<Value>,
) -> Response {
    if body["spec"]["name"] == "slow" {
        seen.lock().unwrap().slow = Some(Arc::default());
    }
    assert!(
        headers.contains_key("idempotency-key"),
        "no idempotency key"
    );
    if body["spec"]["name"] == "web-1" {
        return problem(Problem::new(Code::Conflict, "The name \"web-1\" is taken"));
    }
    (
        StatusCode::CREATED,
        axum::Json(objects::created(&body["spec"])),
    )
        .into_response()
}

async fn vm(Path(reference): Path<String>) -> Response {
    match find(&reference) {
        Ok(vm) => axum::Json(vm).into_response(),
        Err(problem) => *problem,
    }
}

async fn remove(Path(reference): Path<String>, Query(query): Params) -> Response {
    match find(&reference) {
        Ok(vm) if vm.pid.is_some() && !query.contains_key("force") => problem(Problem::new(
            Code::Conflict,
            format!("{reference} is running"),
        )),
        Ok(vm) => (StatusCode::ACCEPTED, axum::Json(vm)).into_response(),
        Err(problem) => *problem,
    }
}

async fn replace(Path(reference): Path<String>, headers: HeaderMap) -> Response {
    if reference == "db" {
        return problem(Problem::new(
            Code::PreconditionFailed,
            "db has generation 3, not 2",
        ));
    }
    assert_eq!(headers.get("if-match").unwrap(), "\"3\"");
    vm(Path(reference)).await
}

async fn act(
    State(seen): State<Shared>,
    Path((reference, action)): Path<(String, String)>,
) -> Response {
    if action == "stop"
        && let Some(slow) = &seen.lock().unwrap().slow
    {
        slow.notify_one();
    }
    match (find(&reference), action.as_str()) {
        (Ok(vm), "start") if vm.spec.name.as_str() == "broken" => {
            let text = "broken did not come up: the VMM ended with status 1";
            problem(Problem::new(Code::Conflict, text).hint("hearth logs --vmm broken"))
        }
        (Ok(vm), "pause") if vm.spec.name.as_str() == "db" => problem(Problem {
            status: 504,
            ..Problem::new(Code::GuestUnreachable, "db did not pause in 120s")
        }),
        (Ok(vm), _) => (StatusCode::ACCEPTED, axum::Json(vm)).into_response(),
        (Err(problem), _) => *problem,
    }
}

async fn wait(
    State(seen): State<Shared>,
    Path(reference): Path<String>,
    Query(query): Params,
) -> Response {
    let slow = seen.lock().unwrap().slow.clone();
    if let Some(slow) = slow {
        slow.notified().await;
        return axum::Json(json!({"exit_code": 143, "end": null})).into_response();
    }
    match find(&reference) {
        Err(problem) => *problem,
        Ok(_) if query.contains_key("timeout") => problem(Problem {
            status: 504,
            ..Problem::new(
                Code::GuestUnreachable,
                format!("{reference} did not stop in time"),
            )
        }),
        Ok(vm) if vm.spec.name.as_str() == "new" => {
            axum::Json(json!({"exit_code": 7, "end": null})).into_response()
        }
        Ok(vm) => {
            let code = vm.last_end.as_ref().and_then(|end| end.exit_code);
            axum::Json(json!({"exit_code": code, "end": vm.last_end})).into_response()
        }
    }
}

async fn logs(Path(reference): Path<String>, Query(query): Params) -> Response {
    if let Err(problem) = find(&reference) {
        return *problem;
    }
    let source = query.get("source").map_or("console", String::as_str);
    let mut chunks = vec![Ok::<_, std::io::Error>(Bytes::from(format!(
        "{source} of {reference}\n"
    )))];
    chunks.push(Ok(Bytes::from_static(b"bytes \xff as they are\n")));
    Body::from_stream(futures::stream::iter(chunks)).into_response()
}

async fn health(Path(name): Path<String>) -> Response {
    let health = match find(&name) {
        Ok(vm) if vm.pid.is_some() => objects::health(),
        Ok(_) => json!({"health": "none", "since": null, "reason": null, "checks": []}),
        Err(problem) => return *problem,
    };
    axum::Json(health).into_response()
}

async fn stats(Path(_): Path<String>) -> Response {
    axum::Json(objects::stats()).into_response()
}

/// `/file` is a file, `/dir` a folder with one file, `/link` a link to a folder, `/dangling` one
/// to nothing; all else is not there.
async fn download(Path(reference): Path<String>, Query(query): Params) -> Response {
    if let Err(problem) = find(&reference) {
        return *problem;
    }
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(if name.ends_with('/') { 0o755 } else { 0o640 });
        header.set_entry_type(if name.ends_with('/') {
            tar::EntryType::Directory
        } else if name == "link" {
            tar::EntryType::Symlink
        } else {
            tar::EntryType::Regular
        });
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).unwrap();
    };
    match query["path"].as_str() {
        "/file" => add("file", b"of the guest\n"),
        "/link" | "/dangling" => add("link", b""),
        "/dir" | "/link/." | "/" | "/srv" => {
            add("dir/", b"");
            add("dir/inner", &vec![b'i'; 200_000]);
        }
        path => {
            return problem(Problem::new(
                Code::NotFound,
                format!("There is no {path} in the guest"),
            ));
        }
    }
    Body::from(tar.into_inner().unwrap()).into_response()
}

async fn upload(State(seen): State<Shared>, body: Body) -> Response {
    let bytes = axum::body::to_bytes(body, 64 << 20).await;
    match bytes {
        Ok(bytes) => {
            seen.lock().unwrap().uploads.push(bytes.to_vec());
            StatusCode::NO_CONTENT.into_response()
        }
        Err(_) => problem(Problem::new(Code::Invalid, "The archive is not whole")),
    }
}

async fn recover(Path(reference): Path<String>) -> Response {
    match find(&reference) {
        Ok(vm) => axum::Json(objects::recovered(&vm)).into_response(),
        Err(problem) => *problem,
    }
}

async fn recover_all() -> Response {
    let items = [objects::broken(), objects::web()].map(|vm| objects::recovered(&vm));
    axum::Json(json!({ "items": items })).into_response()
}

async fn reset_host_breaker() -> Response {
    let reset = HostReset {
        done: true,
        detail: "closed: it had opened for want of disk space".to_owned(),
    };
    axum::Json(json!(reset)).into_response()
}

async fn clean_garbage(body: axum::Json<Value>) -> Response {
    if body["kinds"] == json!(["dump"]) {
        let busy = Problem::new(Code::Conflict, "the host is not idle: VM web is starting");
        return problem(busy.hint("wait until it has ended"));
    }
    axum::Json(objects::garbage(body["force"] == true)).into_response()
}

async fn remove_orphans(body: axum::Json<Value>) -> Response {
    let ids = body["ids"].as_array().unwrap().iter();
    let items: Vec<_> = ids
        .map(|id| {
            let gone = id.as_str().unwrap().contains("gone");
            json!({"id": id, "problem": gone.then_some("there is no such orphan")})
        })
        .collect();
    axum::Json(json!({"items": items})).into_response()
}

async fn adopt(Path(id): Path<String>) -> Response {
    if id.starts_with("tap-") {
        return problem(
            Problem::new(Code::Conflict, format!("{id} cannot be adopted")).hint("leave it alone"),
        );
    }
    axum::Json(objects::web()).into_response()
}

async fn mode(State(seen): State<Shared>) -> Response {
    let set = seen.lock().unwrap().mode.clone();
    axum::Json(set.unwrap_or_else(|| objects::mode("normal", None))).into_response()
}

async fn set_mode(State(seen): State<Shared>, body: axum::Json<Value>) -> Response {
    let word = body["mode"].as_str().unwrap();
    let view = objects::mode(word, body["reason"].as_str());
    seen.lock().unwrap().mode = Some(view.clone());
    axum::Json(view).into_response()
}

async fn events(headers: HeaderMap, Query(query): Params) -> Response {
    let after: u64 = query.get("after").map_or(0, |text| text.parse().unwrap());
    let newer: Vec<_> = objects::events()
        .into_iter()
        .filter(|event| event["seq"].as_u64().unwrap() > after)
        .collect();
    if headers
        .get(header::ACCEPT)
        .is_none_or(|v| v != "text/event-stream")
    {
        return axum::Json(json!({"items": newer})).into_response();
    }
    let mut text = ": welcome\n\n".to_owned();
    let mut live = objects::events().remove(0);
    live["seq"] = json!(after + 1);
    live["message"] = json!(format!("after {after}"));
    text.push_str(&format!(
        "id: {0}\nevent: vm.started\ndata: {live}\n\n",
        after + 1
    ));
    ([(header::CONTENT_TYPE, "text/event-stream")], text).into_response()
}
