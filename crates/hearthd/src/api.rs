//! The HTTP API: thin handlers that read the store, write goals into it and wake the loop.
//!
//! One file per resource. Errors are RFC 9457 problem documents (`error.rs`). On the unix
//! socket the file's permissions decide who may speak; on TCP a bearer token does (`auth.rs`).

mod ahead;
pub mod archive;
pub mod auth;
pub mod database;
pub mod error;
pub mod events;
pub mod exec;
pub mod gc;
pub mod health;
pub mod history;
pub mod image_jobs;
pub mod images;
pub mod kernels;
pub mod lifecycle;
mod linger;
pub mod logs;
pub mod meta;
pub mod metrics;
pub mod mode;
pub mod orphans;
pub mod overview;
pub mod plan;
pub mod pool;
pub(crate) mod ports;
pub mod recovery;
pub mod serve;
pub mod snapshots;
pub mod stats;
pub mod stream;
pub mod templates;
pub mod view;
pub mod vms;
pub mod volumes;
pub mod wait;
mod whole;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::MethodRouter;
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, Paths};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::{PathItemExt as _, routes};

use crate::engine::Engine;

/// The largest JSON body, in bytes: a spec with a generous environment fits many times.
const BODY_LIMIT: usize = 1 << 20;

/// What handlers need.
#[derive(Clone, Debug)]
pub struct Api {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The thin pool.
    pub pool: hearth_pool::Pool,
    /// What is in it.
    pub thins: hearth_pool::Thins,
    /// Pulls and imports.
    pub jobs: hearth_image::ImageJobs,
    /// The configuration in force, as shown.
    pub config: Arc<hearth_types::api::ConfigView>,
    /// When the daemon started.
    pub started: Instant,
    /// Turns true when the daemon is about to end: open streams end, too.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hearth",
        description = "Keeps microVMs alive on a Linux host. Errors are RFC 9457 problem documents.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    modifiers(&TokenScheme),
    security(("token" = []))
)]
struct Document;

/// Says that TCP wants the token; the unix socket's permissions stand in for it.
struct TokenScheme;

impl utoipa::Modify for TokenScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Over TCP only."))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Every operation, each given to the macro that makes a route of it: `routes` with its part of
/// the document, [`served`] without.
macro_rules! operations {
    ($routes:ident) => {
        OpenApiRouter::new()
            .routes($routes!(vms::list, vms::create))
            .routes($routes!(vms::get, vms::delete))
            .routes($routes!(vms::replace_spec))
            .routes($routes!(lifecycle::start))
            .routes($routes!(lifecycle::stop))
            .routes($routes!(lifecycle::restart))
            .routes($routes!(lifecycle::pause))
            .routes($routes!(lifecycle::resume))
            .routes($routes!(recovery::reset_breaker))
            .routes($routes!(recovery::reset_breakers))
            .routes($routes!(recovery::reset_host))
            .routes($routes!(recovery::hold))
            .routes($routes!(recovery::release))
            .routes($routes!(recovery::recover))
            .routes($routes!(recovery::recover_all))
            .routes($routes!(recovery::plan))
            .routes($routes!(wait::wait))
            .routes($routes!(logs::logs))
            .routes($routes!(stream::console))
            .routes($routes!(exec::exec))
            .routes($routes!(archive::copy_out))
            .routes($routes!(stats::stats))
            .routes($routes!(history::history))
            .routes($routes!(history::dump))
            .routes($routes!(health::health))
            .routes($routes!(images::list))
            .routes($routes!(images::get, images::delete))
            .routes($routes!(images::pull))
            .routes($routes!(images::import))
            .routes($routes!(images::from_snapshot))
            .routes($routes!(image_jobs::list))
            .routes($routes!(image_jobs::get))
            .routes($routes!(image_jobs::cancel))
            .routes($routes!(image_jobs::retry))
            .routes($routes!(kernels::list, kernels::import))
            .routes($routes!(kernels::set_default))
            .routes($routes!(kernels::delete))
            .routes($routes!(plan::plan))
            .routes($routes!(plan::doctor))
            .routes($routes!(plan::config))
            .routes($routes!(events::events))
            .routes($routes!(mode::get, mode::put))
            .routes($routes!(orphans::list))
            .routes($routes!(orphans::remove))
            .routes($routes!(orphans::adopt))
            .routes($routes!(gc::find, gc::clean))
            .routes($routes!(pool::get, pool::set_up, pool::destroy))
            .routes($routes!(pool::check))
            .routes($routes!(pool::volumes))
            .routes($routes!(pool::extend))
            .routes($routes!(pool::repair))
            .routes($routes!(pool::back_up, pool::backups))
            .routes($routes!(pool::restore))
            .routes($routes!(pool::reset))
            .routes($routes!(snapshots::create))
            .routes($routes!(snapshots::list))
            .routes($routes!(snapshots::get, snapshots::delete))
            .routes($routes!(snapshots::restore))
            .routes($routes!(snapshots::clone_vm))
            .routes($routes!(templates::list, templates::create))
            .routes($routes!(templates::get, templates::delete))
            .routes($routes!(templates::create_vm))
            .routes($routes!(volumes::list, volumes::create))
            .routes($routes!(volumes::get, volumes::delete))
            .routes($routes!(volumes::grow))
            .routes($routes!(volumes::attach))
            .routes($routes!(volumes::detach))
            .routes($routes!(volumes::snapshot))
            .routes($routes!(volumes::export))
            .routes($routes!(volumes::migrate))
            .routes($routes!(volumes::migrate_vm))
            .routes($routes!(database::get))
            .routes($routes!(database::back_up))
            .routes($routes!(meta::version))
            .routes($routes!(meta::health))
            .routes($routes!(meta::info))
            .routes($routes!(overview::overview))
            .routes($routes!(metrics::metrics))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            // Archives are streams of any size: they never stand in memory.
            .merge(
                OpenApiRouter::new()
                    .routes($routes!(archive::copy_in))
                    .routes($routes!(volumes::import))
                    .layer(DefaultBodyLimit::disable()),
            )
    };
}

/// What `routes` makes, with nothing in it that only the document wants: making the document
/// at every start would cost the daemon memory that it never gives back (bench `rss`).
macro_rules! served {
    ($($module:ident::$handler:ident),+) => {{
        let mut paths = Paths::new();
        let route = MethodRouter::new();
        $(
            let methods = routes!(@path [methods()] of $module::$handler);
            let route = methods.iter().fold(route, |route, method| {
                route.on(method.to_method_filter(), $module::$handler)
            });
            let path = routes!(@path [path()] of $module::$handler);
            paths.add_path_operation(path, methods, Operation::new());
        )+
        (Vec::new(), paths, route)
    }};
}

fn served() -> OpenApiRouter<Api> {
    operations!(served)
}

fn documented() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi()).merge(operations!(routes))
}

/// The API for the unix socket.
pub fn router(api: Api) -> Router {
    let (router, _) = served().split_for_parts();
    router
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(axum::middleware::from_fn(whole::finish_changes))
        .layer(axum::middleware::from_fn_with_state(
            api.clone(),
            mode::refuse_changes,
        ))
        .layer(axum::middleware::from_fn(linger::read_on))
        .with_state(api)
}

/// The API for TCP: everything but `/health` and `/info` wants the token.
pub fn router_with_token(api: Api, tokens: auth::Tokens) -> Router {
    router(api).layer(axum::middleware::from_fn_with_state(
        tokens,
        auth::require_token,
    ))
}

/// The OpenAPI document as checked in under `api/`.
#[must_use]
pub fn openapi() -> String {
    let (_, document) = documented().split_for_parts();
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use utoipa::openapi::OpenApi;

    use super::{documented, served};

    fn operations(document: &OpenApi) -> Vec<String> {
        let document = serde_json::to_value(&document.paths).expect("a document is JSON");
        let paths = document.as_object().expect("paths have names");
        let of_path = |(path, item): (&String, &serde_json::Value)| {
            let methods = item.as_object().expect("methods have names");
            let named = methods.keys().map(|method| format!("{method} {path}"));
            named.collect::<Vec<_>>()
        };
        paths.iter().flat_map(of_path).collect()
    }

    #[test]
    fn what_is_served_is_what_is_documented() {
        let served = operations(&served().split_for_parts().1);
        assert!(served.contains(&"post /v1/vms".to_owned()), "{served:?}");
        assert_eq!(served, operations(&documented().split_for_parts().1));
    }
}
