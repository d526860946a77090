//! What `deploy/` and `docs/` say of metrics is true of what a daemon exposes: a metric or a
//! label that was renamed in one place only fails here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::openmetrics::Scrape;
use crate::rig::Rig;

/// Words of PromQL that are no metric.
const KEYWORDS: [&str; 10] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "and",
    "or",
    "unless",
    "offset",
];
/// Clauses whose parentheses hold labels.
const LABEL_LISTS: [&str; 4] = ["by", "without", "on", "ignoring"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A selector of an expression: a metric and the labels it must have, as `key="value"`.
#[derive(Debug, PartialEq, Eq)]
struct Selector {
    metric: String,
    labels: Vec<String>,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == ':'
}

/// Takes the word at the beginning of a text.
fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_word(c)).unwrap_or(text.len()))
}

/// Whether a name is a function's or an aggregation's, by what follows it.
fn is_call(after: &str) -> bool {
    after.starts_with('(') || ["by", "without"].contains(&word(after).0)
}

/// The selectors of an expression in PromQL.
fn selectors(expression: &str) -> Vec<Selector> {
    let mut found: Vec<Selector> = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '[' || first == '{' || first == '"' {
            let closing = match first {
                '[' => ']',
                '{' => '}',
                _ => '"',
            };
            let (inside, after) = rest[1..].split_once(closing).expect(expression);
            if let (true, Some(last)) = (first == '{', found.last_mut()) {
                let exact = |label: &&str| label.contains("=\"") && !label.contains("!=");
                last.labels = inside
                    .split(", ")
                    .filter(exact)
                    .map(str::to_owned)
                    .collect();
            }
            rest = after;
        } else if first.is_numeric() {
            rest = word(rest).1;
        } else if is_word(first) {
            let (name, after) = word(rest);
            rest = after.trim_start();
            if LABEL_LISTS.contains(&name) {
                rest = rest.split_once(')').expect(expression).1;
            } else if !is_call(rest) && !KEYWORDS.contains(&name) {
                found.push(Selector {
                    metric: name.to_owned(),
                    labels: Vec::new(),
                });
            }
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

/// Why an expression cannot be true of what is exposed. Prometheus itself adds `up` and the
/// labels `job` and `instance`.
fn faults(expression: &str, scrape: &Scrape) -> Vec<String> {
    let theirs = |label: &&String| {
        !label.starts_with("job=") && !label.starts_with("instance=") && !label.contains('$')
    };
    let mut faults = Vec::new();
    let selectors = selectors(expression);
    if selectors.is_empty() {
        faults.push(format!("no metric in: {expression}"));
    }
    for selector in selectors {
        let mut series = scrape
            .samples
            .keys()
            .filter(|series| series.split('{').next() == Some(selector.metric.as_str()));
        let missing: Vec<_> = selector.labels.iter().filter(theirs).collect();
        let matches = |series: &String| missing.iter().all(|label| series.contains(label.as_str()));
        if selector.metric != "up" && !series.any(matches) {
            faults.push(format!(
                "nothing is exposed as {selector:?} in: {expression}"
            ));
        }
    }
    faults
}

/// The expressions of alert rules. Of YAML this knows what our file uses: a plain value, or a
/// block of lines that are indented more.
fn rules() -> Vec<(String, String)> {
    let text = read("deploy/prometheus/hearth.rules.yml");
    let mut rules: Vec<(String, String)> = Vec::new();
    let mut block = false;
    for line in text.lines() {
        let trimmed = line.trim_start();
        if let Some(name) = trimmed.strip_prefix("- alert: ") {
            rules.push((name.to_owned(), String::new()));
        } else if let Some(expression) = trimmed.strip_prefix("expr: ") {
            block = expression == "|";
            let last = rules.last_mut().expect("a rule before its expression");
            last.1 = expression.trim_start_matches('|').to_owned();
        } else if block && line.starts_with(&" ".repeat(10)) {
            rules
                .last_mut()
                .expect("a rule")
                .1
                .push_str(&format!("{trimmed} "));
        } else {
            block = false;
        }
    }
    rules
}

/// Everything that is called `expr`, and the queries of variables.
fn dashboard(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if key == "expr" => found.push(text.to_owned()),
                    Some(text) if key == "query" && text.starts_with("label_values(") => {
                        let inside = text.trim_start_matches("label_values(");
                        found.push(inside.split_once("},").unwrap().0.to_owned() + "}");
                    }
                    _ => dashboard(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| dashboard(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn alerts_and_dashboard_ask_for_what_is_exposed() {
    let rig = Rig::new().await;
    let scrape = Scrape::read(&rig.scrape().await);
    let mut expressions: Vec<String> = rules().into_iter().map(|(_, text)| text).collect();
    assert!(expressions.len() >= 15, "{} rules", expressions.len());
    let before = expressions.len();
    let json = serde_json::from_str(&read("deploy/grafana/hearth.json")).unwrap();
    dashboard(&json, &mut expressions);
    assert!(
        expressions.len() - before >= 30,
        "the dashboard was not read"
    );
    let faults: Vec<_> = expressions
        .iter()
        .flat_map(|text| faults(text, &scrape))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// What people who come from elsewhere look for, with our prefix: these names stay.
const PROMISED: [&str; 14] = [
    "hearth_vm_orphaned_total{reason=",
    "hearth_vm_recovery_attempts_total{outcome=",
    "hearth_vm_health_check_failures_total",
    "hearth_process_restart_total{reason=",
    "hearth_reconcile_duration_seconds_count",
    "hearth_vm_downtime_seconds_count",
    "hearth_vm_time_to_detect_seconds_count",
    "hearth_vm_time_to_recover_seconds_count",
    "hearth_vms_breaker{state=",
    "hearth_host_breaker_open",
    "hearth_mode{mode=",
    "hearth_orphans{kind=",
    "hearth_reconcile_plan_steps",
    "hearth_reconcile_last_success_timestamp_seconds",
];

#[tokio::test]
async fn promised_metrics_are_exposed_and_on_the_dashboard() {
    let rig = Rig::new().await;
    let scrape = Scrape::read(&rig.scrape().await);
    let mut panels = Vec::new();
    let json = serde_json::from_str(&read("deploy/grafana/hearth.json")).unwrap();
    dashboard(&json, &mut panels);
    for name in PROMISED {
        let mut series = scrape.samples.keys();
        assert!(
            series.any(|series| series.starts_with(name)),
            "{name} is not exposed"
        );
        let family = name.split('{').next().unwrap().trim_end_matches("_count");
        assert!(
            panels.iter().any(|panel| panel.contains(family)),
            "no panel shows {family}"
        );
    }
}

#[tokio::test]
async fn what_is_not_exposed_is_found_out() {
    let rig = Rig::new().await;
    let scrape = Scrape::read(&rig.scrape().await);
    for good in [
        "hearth_vms",
        "sum by (phase) (rate(hearth_steps_total{outcome=\"done\", kind=\"stop\"}[5m])) > 1e3",
        "up{job=\"hearth\"} == 0 and on (instance) hearth_vms_down{instance=~\"$host\"} > 0",
    ] {
        assert_eq!(faults(good, &scrape), [""; 0]);
    }
    for bad in [
        "hearth_vm",
        "rate(hearth_steps[5m])",
        "hearth_vms_down{state=\"gone\"}",
        "hearth_vms / hearth_machines",
        "sum by (phase) (nosuch)",
        "1 > 0",
    ] {
        assert_eq!(faults(bad, &scrape).len(), 1, "{bad}");
    }
}

/// Each alert is tested for when it fires and for when it does not.
#[test]
fn every_alert_has_cases_for_both() {
    let files = root().join("deploy/prometheus/tests");
    let tests: String = files
        .read_dir()
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    for (alert, _) in rules() {
        let silent = format!("alertname: {alert}, exp_alerts: [] }}");
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels");
        assert!(tests.contains(&silent), "{alert}: no case that is silent");
        assert!(tests.contains(&fires), "{alert}: no case that fires");
    }
}

/// Each alert says where its page is, and each page is an alert's.
#[test]
fn every_alert_has_its_page() {
    let text = read("deploy/prometheus/hearth.rules.yml");
    let mut pages = BTreeSet::from(["README.md".to_owned()]);
    let index = read("docs/runbooks/README.md");
    for (alert, _) in rules() {
        let path = format!("docs/runbooks/{alert}.md");
        assert!(
            text.contains(&format!("runbook: {path}\n")),
            "{alert} names no page"
        );
        let page = read(&path);
        for section in ["## What it means", "## Look", "## Do", "## Escalate"] {
            assert!(page.contains(section), "{path} has no section {section}");
        }
        assert!(
            index.contains(&format!("({alert}.md)")),
            "the index lacks {alert}"
        );
        pages.insert(format!("{alert}.md"));
    }
    let present = std::fs::read_dir(root().join("docs/runbooks")).unwrap();
    let present = present.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(present.collect::<BTreeSet<_>>(), pages);
}

/// `docs/metrics.md` lists what is exposed, all of it and nothing else.
#[tokio::test]
async fn every_metric_is_described() {
    let rig = Rig::new().await;
    let scrape = Scrape::read(&rig.scrape().await);
    let exposed: BTreeSet<String> = scrape
        .families
        .iter()
        .map(|(name, kind)| match kind.as_str() {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.clone(),
        })
        .collect();
    let text = read("docs/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let described = rows.filter_map(|row| row.split(['`', '{']).next());
    // The other table is of log lines, which have spaces.
    let described = described.filter(|name| !name.contains(' '));
    assert_eq!(
        described.map(str::to_owned).collect::<BTreeSet<_>>(),
        exposed
    );
}
