//! What became of the faults: a table for people, JSON for programs, and what is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use hearth_types::api::Vm;
use hearth_types::event::Event;
use jiff::Timestamp;
use serde::Serialize;

use super::draw::{Fault, Sign};
use super::stage::{INTERVAL, THRESHOLD, TIMEOUT, settings};

/// One fault and what followed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Case {
    round: usize,
    fault: Fault,
    vm: Option<String>,
    /// The daemon was dead when it happened: noticed is counted from its return.
    pub(super) without_daemon: bool,
    pub(super) injured: Timestamp,
    pub(super) noticed: Option<Timestamp>,
    /// When the run took the fault away, if that was its to do: recovery is counted from here.
    pub(super) healed: Option<Timestamp>,
    /// When the new VMM ran. What follows is the guest's boot.
    pub(super) restarted: Option<Timestamp>,
    pub(super) recovered: Option<Timestamp>,
}

impl Case {
    pub(super) fn new(round: usize, fault: Fault, vm: Option<&Vm>, injured: Timestamp) -> Self {
        Self {
            round,
            fault,
            vm: vm.map(|vm| vm.spec.name.to_string()),
            without_daemon: false,
            injured,
            noticed: None,
            healed: None,
            restarted: None,
            recovered: None,
        }
    }

    /// From the fault to the daemon's word.
    fn detection(&self) -> Option<f64> {
        Some(seconds(self.injured, self.noticed?))
    }

    /// From the fault (or from its end, if it lasts) to a host that is whole.
    fn recovery(&self) -> Option<f64> {
        Some(seconds(
            self.healed.unwrap_or(self.injured),
            self.recovered?,
        ))
    }

    /// From the new VMM to a healthy guest.
    fn boot(&self) -> Option<f64> {
        Some(seconds(self.restarted?, self.recovered?))
    }

    /// Recovery without the guest's boot and without the time to notice it.
    fn handling(&self) -> Option<f64> {
        let from = self.noticed?.max(self.healed.unwrap_or(self.injured));
        Some(seconds(from, self.restarted.or(self.recovered)?).max(0.0))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vm = self.vm.as_deref().unwrap_or("the host");
        write!(f, "{:?} of {vm} at {}", self.fault, self.injured)?;
        let after = |at: Option<Timestamp>| {
            at.map_or("never".to_owned(), |at| {
                format!("{:.3} s", seconds(self.injured, at))
            })
        };
        let [noticed, restarted] = [self.noticed, self.restarted].map(after);
        let recovered = after(self.recovered);
        write!(
            f,
            ": noticed after {noticed}, VMM after {restarted}, whole after {recovered}"
        )
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Everything that a run found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    minutes: u64,
    rounds: usize,
    settings: Vec<String>,
    /// Seconds from a request to a healthy guest, before anything happened.
    quiet_boot: f64,
    cases: Vec<Case>,
    skipped: BTreeSet<(Fault, &'static str)>,
    orphans: Vec<String>,
    false_alarms: Vec<Event>,
    leaks: Vec<String>,
    broken: Vec<String>,
}

impl Report {
    pub(super) fn new(seed: u64, minutes: u64, boot: Duration) -> Self {
        Self {
            seed,
            minutes,
            rounds: 0,
            settings: settings(),
            quiet_boot: boot.as_secs_f64(),
            cases: Vec::new(),
            skipped: BTreeSet::new(),
            orphans: Vec::new(),
            false_alarms: Vec::new(),
            leaks: Vec::new(),
            broken: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, case: Case) {
        self.cases.push(case);
    }

    pub(super) fn skip(&mut self, fault: Fault, why: &'static str) {
        if self.skipped.insert((fault, why)) {
            println!("SKIP: {fault:?}: {why}");
        }
    }

    pub(super) fn broke(&mut self, what: String) {
        println!("BROKEN: {what}");
        self.broken.push(what);
    }

    /// What was left over after one full pass.
    pub(super) fn orphans(&mut self, left: &[String]) {
        for orphan in left {
            self.broke(format!("left over after a full pass: {orphan}"));
            self.orphans.push(orphan.clone());
        }
    }

    /// What was said of VMs that nothing had happened to.
    pub(super) fn false_alarms(&mut self, events: Vec<Event>) {
        for event in events {
            println!("false alarm: {} {}", event.code, event.message);
            self.false_alarms.push(event);
        }
    }

    /// What is left when every VM is removed.
    pub(super) fn leaks(&mut self, left: &[String]) {
        for leak in left {
            self.broke(format!("left behind: {leak}"));
        }
        self.leaks = left.to_vec();
    }

    pub(super) fn played(&mut self) {
        self.rounds += 1;
    }

    pub(super) const fn rounds(&self) -> usize {
        self.rounds
    }

    /// Outcomes that are not as promised.
    pub(super) fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Prints the table and writes the JSON.
    pub(super) fn publish(&self) {
        let rows = self.rows();
        println!("{}", self.table(&rows));
        for line in self.verdicts() {
            println!("{line}");
        }
        println!("{}", self.save());
    }

    /// Writes the JSON; says where.
    pub(super) fn save(&self) -> camino::Utf8PathBuf {
        let folder = camino::Utf8Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.with_file_name("chaos");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{}.json", self.seed));
        let body = serde_json::json!({
            "run": self, "kinds": self.rows(), "verdicts": self.verdicts(),
        });
        std::fs::write(&file, serde_json::to_string_pretty(&body).unwrap()).unwrap();
        file
    }

    fn rows(&self) -> Vec<Row> {
        let mut kinds: BTreeMap<Fault, Vec<&Case>> = BTreeMap::new();
        for case in &self.cases {
            kinds.entry(case.fault).or_default().push(case);
        }
        kinds
            .into_iter()
            .map(|(fault, cases)| Row::of(fault, &cases))
            .collect()
    }

    fn table(&self, rows: &[Row]) -> String {
        let mut text = format!(
            "\nseed {}, {} rounds, {} faults; a guest boots in {:.1} s; {}\n",
            self.seed,
            self.rounds,
            self.cases.len(),
            self.quiet_boot,
            self.settings.join(", ")
        );
        text += &format!(
            "{:<22}{:>4}{:>9}{:>11}   {:<16} {:<16} {:<16} {}\n",
            "fault", "made", "noticed", "recovered", "MTTD", "handled in", "MTTR", "guest boot"
        );
        for row in rows {
            let word = serde_json::to_value(row.fault).unwrap();
            text += &format!(
                "{:<22}{:>4}{:>9}{:>11}   {:<16} {:<16} {:<16} {}\n",
                word.as_str().unwrap(),
                row.injured,
                row.noticed
                    .map_or("-".to_owned(), |noticed| noticed.to_string()),
                row.recovered,
                row.detection.to_string(),
                row.handling.to_string(),
                row.recovery.to_string(),
                row.boot
            );
        }
        text + "(seconds: median / most; handled in: from the notice to the new VMM, or to a whole host)"
    }

    /// Targets and what came of them.
    fn verdicts(&self) -> Vec<String> {
        let all = self.cases.len();
        let some = |part: usize| 100.0 * ratio(part, all);
        let recovered = self.cases.iter().filter(|case| case.recovered.is_some());
        let times = |of: fn(&Case) -> Option<f64>, which: &dyn Fn(&Case) -> bool| {
            let picked = self.cases.iter().filter(|case| which(case));
            Spread::of(picked.filter_map(of).collect())
        };
        let deaths = |case: &Case| case.fault.sign() == Sign::Death && !case.without_daemon;
        let hangs = |case: &Case| matches!(case.fault, Fault::VmmStopped | Fault::VmmFrozen);
        let bound = (INTERVAL + TIMEOUT * THRESHOLD).as_secs_f64();
        let line = |what: &str, is: String, target: &str, met: bool| {
            // Where there was nothing to measure, nothing is met.
            let met = if is == "-" {
                "-"
            } else if met {
                "met"
            } else {
                "MISSED"
            };
            format!("{what:<44}{is:<20}target {target:<18}{met}")
        };
        let (mttd, mttr) = (
            times(Case::detection, &|_| true),
            times(Case::recovery, &|_| true),
        );
        let (death, hang) = (
            times(Case::detection, &deaths),
            times(Case::detection, &hangs),
        );
        let handled = times(Case::handling, &deaths);
        let alarms = self.false_alarms.len();
        let count = recovered.count();
        vec![
            line(
                "recovered",
                format!("{:.1} %", some(count)),
                "100 %",
                count == all,
            ),
            line(
                "orphans after a full pass",
                format!("{:.2} %", some(self.orphans.len())),
                "0",
                self.orphans.is_empty(),
            ),
            line(
                "false alarms",
                format!("{:.2} %", some(alarms)),
                "0 (seeds: < 1 %)",
                alarms == 0,
            ),
            line(
                "time to notice, median of all",
                mttd.to_string(),
                "< 60",
                mttd.median < 60.0,
            ),
            line(
                "time to recover, median of all",
                mttr.to_string(),
                "< 30",
                mttr.median < 30.0,
            ),
            line(
                "time to notice a death",
                death.to_string(),
                "< 0.1",
                death.most < 0.1,
            ),
            line(
                "time to notice a hang",
                hang.to_string(),
                &format!("< {bound}"),
                hang.most < bound,
            ),
            line(
                "from a death's notice to the new VMM",
                handled.to_string(),
                "< 1",
                handled.most < 1.0,
            ),
        ]
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of faults are small")]
fn ratio(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// A kind of fault in the table.
#[derive(Debug, Serialize)]
struct Row {
    fault: Fault,
    injured: usize,
    /// `None` where the daemon need not notice.
    noticed: Option<usize>,
    recovered: usize,
    detection: Spread,
    handling: Spread,
    recovery: Spread,
    boot: Spread,
}

impl Row {
    fn of(fault: Fault, cases: &[&Case]) -> Self {
        let spread = |time: fn(&Case) -> Option<f64>| {
            Spread::of(cases.iter().filter_map(|case| time(case)).collect())
        };
        let count = |of: fn(&Case) -> Option<Timestamp>| {
            cases.iter().filter(|case| of(case).is_some()).count()
        };
        Self {
            fault,
            injured: cases.len(),
            noticed: (fault.sign() != Sign::None).then(|| count(|case| case.noticed)),
            recovered: count(|case| case.recovered),
            detection: spread(Case::detection),
            handling: spread(Case::handling),
            recovery: spread(Case::recovery),
            boot: spread(Case::boot),
        }
    }
}

/// Seconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Spread {
    count: usize,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let median = times.get(times.len() / 2).copied();
        Self {
            count: times.len(),
            median: median.unwrap_or_default(),
            most: times.last().copied().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return f.write_str("-");
        }
        write!(f, "{:.3} / {:.3}", self.median, self.most)
    }
}
