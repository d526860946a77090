//! Frames as snapshots, and what each key does.

mod cost;
mod frames;
mod keys;
mod words;

use hearth_types::api::{Health, Overview, VmGlance, WorkView};
use hearth_types::event::{Event, Severity};
use hearth_types::ids::{EventSeq, VmId};
use hearth_types::mode::Mode;
use hearth_types::pool::{PoolState, PoolUsage, PoolView};
use hearth_types::status::Phase;
use jiff::{SignedDuration, Timestamp};

use crate::{Key, Model, News, Theme};

/// 2026-03-01T12:00:00Z.
const NOW: i64 = 1_772_366_400;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(NOW + secs).unwrap()
}

fn id(number: u32) -> VmId {
    format!("0198f3a2-7b4c-7def-8123-{number:012x}")
        .parse()
        .unwrap()
}

fn vm(number: u32, name: &str, phase: Phase) -> VmGlance {
    let runs = matches!(phase, Phase::Running | Phase::Paused);
    VmGlance {
        id: id(number),
        name: name.to_owned(),
        image: "docker.io/library/nginx:1.29".to_owned(),
        phase,
        health: if runs { Health::Healthy } else { Health::None },
        reason: None,
        vcpus: 2,
        memory: 512 << 20,
        cpu_millis: runs.then_some(60_000),
        rss: runs.then_some(u64::from(100 + number % 50) << 20),
        started_at: runs.then(|| at(-3600 * (i64::from(number) + 1))),
        restarts: 0,
        next_start: None,
        breaker: false,
        held: false,
    }
}

fn pool(state: PoolState) -> PoolView {
    let view = serde_json::json!({
        "state": state, "name": "hearth-pool", "uuid": "hearth", "folder": "/var/lib/hearth/pool",
    });
    let mut view: PoolView = serde_json::from_value(view).unwrap();
    if state != PoolState::Absent {
        let used = |used, size| {
            Some(PoolUsage {
                used: Some(used),
                size,
            })
        };
        (view.data, view.metadata) = (used(1 << 30, 2 << 30), used(2 << 20, 16 << 20));
    }
    view
}

fn overview(vms: Vec<VmGlance>) -> Overview {
    Overview {
        at: at(0),
        version: "0.1.0".to_owned(),
        uptime_secs: 300_000,
        mode: Mode::Normal,
        mode_reason: None,
        host_breaker: None,
        last_pass: Some(at(-2)),
        last_event: EventSeq(0),
        vms,
        under_way: Vec::new(),
        pool: Some(pool(PoolState::Absent)),
    }
}

/// The same a second later, with CPU used.
fn later(before: &Overview) -> Overview {
    let mut after = before.clone();
    after.at = before.at + SignedDuration::from_secs(1);
    for (number, vm) in after.vms.iter_mut().enumerate() {
        let used = (number as u64 * 37) % 1500;
        vm.cpu_millis = vm.cpu_millis.map(|millis| millis + used);
    }
    after
}

fn three() -> Overview {
    let mut failed = vm(3, "worker-long-name-that-goes-on", Phase::Backoff);
    failed.restarts = 12;
    failed.next_start = Some(at(95));
    failed.breaker = true;
    failed.reason = Some(
        "the breaker is open: it failed 5 times in 2 minutes, the last time because the guest's \
         program ended with status 137 (killed by signal 9), most likely for want of memory"
            .to_owned(),
    );
    let mut sick = vm(2, "db", Phase::Running);
    sick.health = Health::Unhealthy;
    sick.reason = Some("check tcp: connection refused".to_owned());
    overview(vec![sick, vm(1, "web-1", Phase::Running), failed])
}

fn thousand() -> Overview {
    let phases = [Phase::Running, Phase::Running, Phase::Exited, Phase::Failed];
    let vms = (0..1000).map(|number| {
        let mut vm = vm(
            number,
            &format!("vm-{number:04}"),
            phases[number as usize % 4],
        );
        vm.restarts = number % 7;
        vm
    });
    overview(vms.collect())
}

fn event(seq: u64, severity: Severity, name: &str, message: &str) -> Event {
    Event {
        seq: EventSeq(seq),
        at: at(i64::try_from(seq).unwrap() - 100),
        severity,
        code: "vm.started".to_owned(),
        vm: None,
        name: (!name.is_empty()).then(|| name.to_owned()),
        message: message.to_owned(),
        details: serde_json::Value::Null,
    }
}

fn work(what: &str, vm: Option<&str>, secs: i64, stuck: bool) -> WorkView {
    WorkView {
        what: what.to_owned(),
        object: "VMM".to_owned(),
        vm: vm.map(str::to_owned),
        since: at(-secs),
        stuck,
    }
}

/// A dashboard on a screen of this size that was told this.
fn model(told: Overview, columns: u16, rows: u16) -> Model {
    let mut model = Model::new(Theme::Plain, at(0));
    model.update(News::Size(columns, rows), at(0));
    model.update(News::Overview(Box::new(told)), at(0));
    model
}

fn press(model: &mut Model, keys: &str) {
    for key in keys.chars() {
        model.update(News::Key(Key::Char(key)), at(1));
    }
}

fn frame(model: &Model) -> String {
    crate::view::text_of(model, model.size.0, model.size.1)
}
