//! From a VMM's SIGKILL to the moment at which its death is noticed, and at which a new VMM
//! runs. Take many samples (`-r 60`): the 95th percentile of five is the highest.

use std::cell::RefCell;
use std::io::BufRead;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::detect::kill;
use super::rig::{IMAGE, Rig, Shared, Vmm};
use super::{Case, Context, Unit, http};

const NAME: &str = "recover";

/// What one death leads to, in seconds since the signal.
#[derive(Debug, Clone, Copy)]
struct Recovery {
    /// A client is told of the death.
    noticed: f64,
    /// The kernel says that the new VMM's process began then, in steps of 10 ms.
    begins: f64,
    /// A client is told that the new VMM runs: it has answered.
    runs: f64,
}

/// Which figure of a recovery a case shows.
type Figure = fn(&Recovery) -> f64;

const FIGURES: [(&str, Figure, &str); 3] = [
    ("noticed", |it| it.noticed, "100 ms"),
    ("new VMM's process", |it| it.begins, "1 s"),
    ("new VMM answers", |it| it.runs, "1 s"),
];

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    // What is left when the pause is (almost) none is ours. On a host under pressure a start waits
    // until the last one is 5 s old, which here is that of the VM that is killed: not what is meant.
    for (folder, words, config) in [
        (
            "d",
            "pause of 1 s ± 1/4 (default)",
            "START_CPU_PRESSURE=0\n",
        ),
        (
            "n",
            "pause of 1 ms",
            "START_CPU_PRESSURE=0\nBACKOFF_FIRST=1ms\n",
        ),
    ] {
        let folder = context.folder.join(folder);
        let rig = Rig::configured(context, &folder, Vmm::Standin, config)?;
        let rig = Rc::new(RefCell::new(rig));
        let last = Rc::new(RefCell::new(None));
        for (number, (what, figure, target)) in FIGURES.into_iter().enumerate() {
            let (rig, last) = (Rc::clone(&rig), Rc::clone(&last));
            let name = format!("{what}, {words}");
            let case = Case::measured(name, Unit::Seconds, move || {
                // The first case of a round has the VMM killed for all of them.
                if number == 0 {
                    *last.borrow_mut() = None;
                    *last.borrow_mut() = Some(recover(&rig)?);
                }
                let last: Option<Recovery> = *last.borrow();
                last.as_ref().map(figure).context("nothing was recovered")
            });
            cases.push(case.target(target));
        }
    }
    Ok(cases)
}

/// One VM that was never killed before, so that its pause is the first one: it runs, is killed,
/// runs again and is removed.
fn recover(rig: &Shared) -> anyhow::Result<Recovery> {
    let rig = rig.borrow();
    let spec =
        json!({ "name": NAME, "image": IMAGE, "network": { "mode": "none" }, "restart": "always" });
    rig.post("/v1/vms", &json!({ "spec": spec, "start": true }))?;
    let recovered = rig.wait_running(NAME).and_then(|()| killed(&rig));
    rig.remove(NAME)?;
    recovered
}

fn killed(rig: &Rig) -> anyhow::Result<Recovery> {
    let (status, mut stream) =
        http::send(&rig.socket, "GET", "/v1/events", "text/event-stream", None)?;
    ensure!(status == 200, "the events answer {status}");
    let vmm = rig.vmm(NAME)?;
    let (begun, since_boot) = (Instant::now(), clock_gettime(ClockId::Boottime));
    kill(vmm)?;
    next(&mut stream, "vm.exited")?;
    let noticed = begun.elapsed();
    let event = next(&mut stream, "vm.restarted")?;
    let runs = begun.elapsed();
    let pid = event["details"]["pid"].as_i64();
    let pid = pid.context("the event names no process")?;
    let killed_at = seconds(since_boot.tv_sec)? + seconds(since_boot.tv_nsec)? / 1e9;
    Ok(Recovery {
        noticed: noticed.as_secs_f64(),
        begins: began(pid)? - killed_at,
        runs: runs.as_secs_f64(),
    })
}

fn seconds(value: i64) -> anyhow::Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "microseconds are enough")]
    Ok(value as f64)
}

/// The next event with this code, as it was sent.
fn next(stream: &mut impl BufRead, code: &str) -> anyhow::Result<Value> {
    let (mut line, mut found) = (String::new(), false);
    loop {
        line.clear();
        ensure!(
            stream.read_line(&mut line)? > 0,
            "the stream ended before {code}"
        );
        if let Some(event) = line.strip_prefix("event: ") {
            found = event.trim_end() == code;
        } else if let Some(data) = line.strip_prefix("data: ").filter(|_| found) {
            return Ok(serde_json::from_str(data)?);
        }
    }
}

/// When a process began, in seconds since the host's boot (proc(5), field 22).
fn began(pid: i64) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let words = stat.rsplit_once(')').map(|(_, words)| words);
    let ticks = words.and_then(|words| words.split_ascii_whitespace().nth(19)?.parse().ok());
    let ticks: i64 = ticks.with_context(|| format!("/proc/{pid}/stat says {stat:?}"))?;
    let per_second = i64::try_from(rustix::param::clock_ticks_per_second())?;
    Ok(seconds(ticks)? / seconds(per_second)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_any_order_of_lines_but_the_code_first() {
        let text = "id: 1\nevent: vm.exited\ndata: {\"a\":1}\n\n\
                    id: 2\nevent: vm.backoff\ndata: {}\n\nevent: vm.restarted\ndata: {\"details\":{\"pid\":7}}\n\n";
        let mut stream = text.as_bytes();
        assert_eq!(next(&mut stream, "vm.exited").unwrap()["a"], 1);
        let event = next(&mut stream, "vm.restarted").unwrap();
        assert_eq!(event["details"]["pid"], 7);
        assert!(next(&mut stream, "vm.exited").is_err());
    }

    #[test]
    fn a_process_began_after_the_boot_and_before_now() {
        let now = clock_gettime(ClockId::Boottime);
        let began = began(i64::from(std::process::id())).unwrap();
        assert!(began > 0.0 && began <= seconds(now.tv_sec).unwrap() + 1.0);
    }
}
