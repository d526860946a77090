//! Samples as a table for people and as JSON for everything else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::{Samples, Unit};

/// The middle sample; of an even number the lower one of the two.
fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// The sample that 95 of 100 do not exceed.
fn percentile95(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * 95).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn middle(samples: &Samples) -> Option<f64> {
    median(samples.outcome.as_ref().ok()?)
}

fn shown(unit: Unit, value: Option<f64>) -> String {
    match (unit, value) {
        (_, None) => "-".to_owned(),
        (Unit::Seconds, Some(value)) => format!("{:.2?}", Duration::from_secs_f64(value)),
        (Unit::Mebibytes, Some(value)) => format!("{value:.1} MiB"),
        (Unit::MillisPerMinute, Some(value)) => format!("{value:.1} ms/min"),
    }
}

/// A table: median, lowest, 95th percentile, highest, how many times as much as ours, and what is aimed at.
pub(crate) fn table(all: &[Samples]) -> String {
    let ours = all.first().and_then(middle);
    let width = all
        .iter()
        .map(|samples| samples.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = format!(
        "  {:<width$}  {:>10}  {:>10}  {:>10}  {:>10}  {:>7}  target\n",
        "", "median", "lowest", "p95", "highest", "ours ="
    );
    for samples in all {
        let values = match &samples.outcome {
            Ok(values) => values,
            Err(reason) => {
                writeln!(out, "  {:<width$}  not run: {reason}", samples.name)
                    .expect("a String takes all that is written");
                continue;
            }
        };
        let ratio = match (middle(samples), ours) {
            (Some(this), Some(ours)) if ours > 0.0 => format!("{:.2}", this / ours),
            _ => "-".to_owned(),
        };
        writeln!(
            out,
            "  {:<width$}  {:>10}  {:>10}  {:>10}  {:>10}  {ratio:>7}  {}",
            samples.name,
            shown(samples.unit, median(values)),
            shown(samples.unit, values.iter().copied().reduce(f64::min)),
            shown(samples.unit, percentile95(values)),
            shown(samples.unit, values.iter().copied().reduce(f64::max)),
            samples.target.as_deref().unwrap_or("-"),
        )
        .expect("a String takes all that is written");
    }
    out
}

/// Writes every sample to `<folder>/<bench>.json`.
pub(crate) fn write(folder: &Path, bench: &str, all: &[Samples]) -> anyhow::Result<PathBuf> {
    let ours = all.first().and_then(middle);
    let cases: Vec<_> = all
        .iter()
        .map(|samples| {
            let median = middle(samples);
            json!({
                "name": samples.name,
                "unit": match samples.unit {
                    Unit::Seconds => "seconds",
                    Unit::Mebibytes => "mebibytes",
                    Unit::MillisPerMinute => "milliseconds per minute",
                },
                "target": samples.target,
                "median": median,
                "p95": samples.outcome.as_ref().ok().and_then(|values| percentile95(values)),
                "ratio_to_ours": median.zip(ours).map(|(this, ours)| this / ours),
                "samples": samples.outcome.as_ref().ok(),
                "not_run": samples.outcome.as_ref().err(),
            })
        })
        .collect();
    let path = folder.join(format!("{bench}.json"));
    let text = serde_json::to_string_pretty(&json!({ "bench": bench, "cases": cases }))?;
    std::fs::write(&path, text + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(name: &str, values: &[f64]) -> Samples {
        Samples {
            name: name.to_owned(),
            unit: Unit::Seconds,
            target: None,
            outcome: Ok(values.to_vec()),
        }
    }

    #[test]
    fn medians_percentiles_and_ratios() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.0));
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile95(&hundred), Some(95.0));
        assert_eq!(percentile95(&[3.0, 1.0]), Some(3.0));
        assert_eq!(percentile95(&[]), None);
        let mut all = vec![samples("ours", &[0.1]), samples("peer", &[0.25])];
        all.push(Samples {
            name: "missing".to_owned(),
            unit: Unit::Mebibytes,
            target: None,
            outcome: Err("umoci is not installed".to_owned()),
        });
        let table = table(&all);
        let peer = table.lines().find(|line| line.contains("peer")).unwrap();
        assert!(peer.ends_with("2.50  -"), "{table}");
        assert!(table.contains("not run: umoci is not installed"), "{table}");
    }

    #[test]
    fn the_file_holds_every_sample() {
        let folder = std::env::temp_dir().join(format!("hearth-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let all = [
            samples("ours", &[0.01, 0.03, 0.02]),
            samples("peer", &[0.04]),
        ];
        let path = write(&folder, "some", &all).unwrap();
        let read: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read["cases"][0]["median"], 0.02);
        assert_eq!(read["cases"][0]["samples"][1], 0.03);
        assert_eq!(read["cases"][1]["ratio_to_ours"], 2.0);
    }
}
