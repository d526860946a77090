//! `/v1/overview`: everything that a dashboard shows, in one answer that costs little.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use hearth_host::aside::aside;
use hearth_host::usage::{self, Usage};
use hearth_store::VmRow;
use hearth_types::api::{Health, Overview, VmGlance, WorkView};
use hearth_types::problem::Problem;

use super::{Api, view};
use crate::engine::Engine;
use crate::stuck::Work;

/// How long the pool may take to say how it is: the rest is wanted each second.
const POOL_DEADLINE: Duration = Duration::from_millis(500);

/// Shows the host and its VMs at one moment.
#[utoipa::path(get, path = "/v1/overview", tag = "daemon",
    responses((status = 200, body = Overview), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn overview(State(api): State<Api>) -> Json<Overview> {
    let engine = &api.engine;
    let pool = tokio::time::timeout(POOL_DEADLINE, api.pool.view());
    let (pool, rows) = tokio::join!(pool, used(engine.parts.store.vms()));
    let mut vms: Vec<VmGlance> = rows
        .into_iter()
        .map(|(row, usage)| glance(engine, row, usage))
        .collect();
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    let stance = engine.modes.stance();
    let under_way = engine.under_way.steps();
    Json(Overview {
        at: engine.parts.clock.now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_secs: api.started.elapsed().as_secs(),
        mode: stance.mode,
        mode_reason: stance.reason,
        host_breaker: engine.host_breaker().map(|open| open.reason()),
        last_pass: engine.last_pass(),
        last_event: engine.parts.store.last_event().await,
        vms,
        under_way: under_way.into_iter().map(work).collect(),
        pool: pool.ok(),
    })
}

/// Each with what its VMM uses. A look at /proc can be held up by the kernel: it is made where
/// nothing else waits.
async fn used(rows: impl Future<Output = Vec<VmRow>>) -> Vec<(VmRow, Option<Usage>)> {
    let rows = rows.await;
    let pids: Vec<Option<i32>> = rows
        .iter()
        .map(|row| row.status.vmm.as_ref().map(|vmm| vmm.pid))
        .collect();
    let looked = aside(move || {
        let usage = |pid: Option<i32>| usage::of(pid?).ok();
        pids.into_iter().map(usage).collect::<Vec<_>>()
    })
    .await;
    let usages = looked.into_iter().flatten().chain(std::iter::repeat(None));
    rows.into_iter().zip(usages).collect()
}

/// Why a VM is as it is, or why its checks call it what they do.
fn reason(engine: &Engine, row: &VmRow, health: Health) -> Option<String> {
    let of_phase = row.status.reason.clone();
    of_phase.or_else(|| match health {
        Health::Unhealthy | Health::Degraded | Health::Unknown => engine.health.view(row)?.reason,
        Health::Healthy | Health::Starting | Health::None => None,
    })
}

fn glance(engine: &Engine, row: VmRow, usage: Option<Usage>) -> VmGlance {
    let status = &row.status;
    let health = engine.health_of(&row);
    VmGlance {
        id: row.id,
        name: row.spec.name.to_string(),
        image: row.spec.image.to_string(),
        phase: view::phase(&row),
        health,
        reason: reason(engine, &row, health),
        vcpus: row.spec.vcpus,
        memory: row.spec.memory.0,
        cpu_millis: usage.map(|usage| usage.cpu_millis),
        rss: usage.map(|usage| usage.rss_bytes),
        started_at: status.vmm.as_ref().and(status.started_at),
        restarts: status.restarts,
        next_start: status.next_start,
        breaker: status.recovery.breaker.is_some(),
        held: status.recovery.hold.is_some(),
    }
}

fn work(work: Work) -> WorkView {
    let stuck = work.is_stuck();
    let vm = work.name.or_else(|| work.vm.map(|vm| vm.to_string()));
    WorkView {
        what: work.what.to_owned(),
        object: work.object,
        vm,
        since: work.since,
        stuck,
    }
}
