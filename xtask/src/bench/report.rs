//! Samples as a table for people and as JSON for everything else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::Samples;

/// The middle sample; of an even number the lower one of the two.
fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

fn seconds(samples: &Samples) -> Option<f64> {
    median(samples.outcome.as_ref().ok()?).map(|time| time.as_secs_f64())
}

/// A table: median, fastest, slowest and how many times as long as ours.
pub(crate) fn table(all: &[Samples]) -> String {
    let ours = all.first().and_then(seconds);
    let width = all
        .iter()
        .map(|samples| samples.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = format!(
        "  {:<width$}  {:>10}  {:>10}  {:>10}  {:>7}\n",
        "", "median", "fastest", "slowest", "ours ="
    );
    for samples in all {
        let times = match &samples.outcome {
            Ok(times) => times,
            Err(reason) => {
                writeln!(out, "  {:<width$}  not run: {reason}", samples.name)
                    .expect("a String takes all that is written");
                continue;
            }
        };
        let shown = |time: Option<Duration>| {
            time.map_or_else(|| "-".to_owned(), |time| format!("{time:.2?}"))
        };
        let ratio = match (seconds(samples), ours) {
            (Some(this), Some(ours)) if ours > 0.0 => format!("{:.2}", this / ours),
            _ => "-".to_owned(),
        };
        writeln!(
            out,
            "  {:<width$}  {:>10}  {:>10}  {:>10}  {ratio:>7}",
            samples.name,
            shown(median(times)),
            shown(times.iter().min().copied()),
            shown(times.iter().max().copied()),
        )
        .expect("a String takes all that is written");
    }
    out
}

/// Writes every sample to `<folder>/<bench>.json`.
pub(crate) fn write(folder: &Path, bench: &str, all: &[Samples]) -> anyhow::Result<PathBuf> {
    let ours = all.first().and_then(seconds);
    let cases: Vec<_> = all
        .iter()
        .map(|samples| {
            let median = seconds(samples);
            json!({
                "name": samples.name,
                "median_seconds": median,
                "ratio_to_ours": median.zip(ours).map(|(this, ours)| this / ours),
                "samples_seconds": samples.outcome.as_ref().ok().map(|times| {
                    times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>()
                }),
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

    fn samples(name: &str, millis: &[u64]) -> Samples {
        Samples {
            name: name.to_owned(),
            outcome: Ok(millis.iter().copied().map(Duration::from_millis).collect()),
        }
    }

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(&[]), None);
        let millis = |all: &[u64]| median(samples("", all).outcome.as_ref().unwrap());
        assert_eq!(millis(&[3, 1, 2]), Some(Duration::from_millis(2)));
        assert_eq!(millis(&[4, 1, 3, 2]), Some(Duration::from_millis(2)));
        let mut all = vec![samples("ours", &[100]), samples("peer", &[250])];
        all.push(Samples {
            name: "missing".to_owned(),
            outcome: Err("umoci is not installed".to_owned()),
        });
        let table = table(&all);
        let peer = table.lines().find(|line| line.contains("peer")).unwrap();
        assert!(peer.ends_with("2.50"), "{table}");
        assert!(table.contains("not run: umoci is not installed"), "{table}");
    }

    #[test]
    fn the_file_holds_every_sample() {
        let folder = std::env::temp_dir().join(format!("hearth-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let all = [samples("ours", &[10, 30, 20]), samples("peer", &[40])];
        let path = write(&folder, "some", &all).unwrap();
        let read: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read["cases"][0]["median_seconds"], 0.02);
        assert_eq!(read["cases"][0]["samples_seconds"][1], 0.03);
        assert_eq!(read["cases"][1]["ratio_to_ours"], 2.0);
    }
}
