//! A strict reader of OpenMetrics text: what the specification forbids is a panic.

use std::collections::{BTreeMap, BTreeSet};

/// A scrape, checked.
#[derive(Debug)]
pub(crate) struct Scrape {
    /// Series, with their labels, and their values.
    pub(crate) samples: BTreeMap<String, f64>,
    /// Families by name, with their types.
    pub(crate) families: BTreeMap<String, String>,
}

impl Scrape {
    /// Reads a whole answer.
    #[track_caller]
    pub(crate) fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
        let mut scrape = Self {
            samples: BTreeMap::new(),
            families: BTreeMap::new(),
        };
        let mut family = None;
        let mut told = BTreeSet::new();
        for line in body.lines() {
            if let Some(meta) = line.strip_prefix("# ") {
                let mut words = meta.splitn(3, ' ');
                let (kind, name) = (words.next().unwrap(), words.next().unwrap());
                let value = words.next().unwrap_or_default();
                assert!(
                    told.insert((kind.to_owned(), name.to_owned())),
                    "twice: {line}"
                );
                if family.as_deref() != Some(name) {
                    assert!(!scrape.families.contains_key(name), "comes back: {line}");
                    family = Some(name.to_owned());
                }
                let told = scrape.families.entry(name.to_owned()).or_default();
                match kind {
                    "TYPE" => value.clone_into(told),
                    "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                    "HELP" => assert!(!value.is_empty(), "{line}"),
                    _ => panic!("{line}"),
                }
                continue;
            }
            let family = family.as_deref().expect("a family before its samples");
            scrape.sample(line, family);
        }
        scrape.histograms_add_up();
        scrape
    }

    #[track_caller]
    fn sample(&mut self, line: &str, family: &str) {
        let (series, value) = line.rsplit_once(' ').expect(line);
        let name = series.split('{').next().unwrap();
        let suffix = name.strip_prefix(family).expect(line);
        let allowed: &[&str] = match self.families[family].as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("type {other} of {family}"),
        };
        assert!(
            allowed.contains(&suffix),
            "{line}: not of a {}",
            self.families[family]
        );
        let value: f64 = value.parse().expect(line);
        assert!(!value.is_nan() && value >= 0.0, "{line}");
        let before = self.samples.insert(series.to_owned(), value);
        assert!(before.is_none(), "twice: {line}");
    }

    /// Buckets only grow, and the last one holds everything.
    fn histograms_add_up(&self) {
        let mut checked = BTreeSet::new();
        for (series, count) in self
            .samples
            .iter()
            .filter(|(name, _)| name.contains("_count"))
        {
            let (name, labels) = series.split_once("_count").unwrap();
            let labels = labels.trim_matches(['{', '}']);
            let mut buckets: Vec<(f64, f64)> = self
                .samples
                .iter()
                .filter_map(|(series, value)| {
                    let rest = series.strip_prefix(&format!("{name}_bucket{{"))?;
                    let rest = rest.strip_suffix('}')?;
                    let (le, others) = rest.strip_prefix("le=\"")?.split_once('"')?;
                    (others.trim_start_matches(',') == labels)
                        .then(|| (le.parse::<f64>().expect(series), *value))
                })
                .collect();
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(
                buckets.is_sorted_by_key(|(_, count)| *count),
                "{series}: {buckets:?}"
            );
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{series}");
            checked.insert(name);
        }
        let histograms = self.families.values().filter(|kind| *kind == "histogram");
        assert_eq!(checked.len(), histograms.count());
    }

    /// One number, such as `hearth_vms{phase="running"}`.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| {
            let names: Vec<_> = self.samples.keys().collect();
            panic!("no {series} among {names:#?}")
        })
    }
}
