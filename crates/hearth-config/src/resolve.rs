//! Which of the sources wins for each key, and where every value came from.

use std::collections::BTreeMap;

use camino::Utf8Path;
use hearth_types::api::ConfigEntry;

use crate::envfile;
use crate::error::{ConfigError, Source};
use crate::flags::DaemonFlags;
use crate::keys::{KEYS, Key};
use crate::kinds::Kind;

/// How many letters may differ before a key is no longer taken for a misspelt one.
const MAX_DISTANCE: usize = 4;

/// The values in force, before they are read.
#[derive(Debug, Default)]
pub(crate) struct Values {
    values: BTreeMap<&'static str, (String, Source)>,
    pub(crate) errors: Vec<ConfigError>,
}

impl Values {
    /// Defaults, then the file, then the environment, then flags. An empty value means the
    /// default.
    pub(crate) fn collect(
        file: Option<(&Utf8Path, &str)>,
        env: impl Fn(&str) -> Option<String>,
        flags: &DaemonFlags,
    ) -> Self {
        let mut all = Self::default();
        if let Some((path, text)) = file {
            all.add_file(path, text);
        }
        for key in KEYS {
            let variable = key.variable();
            if let Some(value) = env(&variable) {
                all.set(key, value, Source::Environment { variable });
            }
            if let Some(value) = flags.values.get(key.name) {
                let flag = key.flag();
                all.set(key, value.clone(), Source::Flag { flag });
            }
        }
        all
    }

    fn add_file(&mut self, path: &Utf8Path, text: &str) {
        for assignment in envfile::parse(text) {
            let path = path.to_owned();
            match assignment {
                Err(error) => self.errors.push(ConfigError::Syntax {
                    path,
                    line: error.line,
                    message: error.message.to_owned(),
                }),
                Ok(set) => match KEYS.iter().find(|key| key.name == set.key) {
                    Some(key) => {
                        let line = set.line;
                        self.set(key, set.value, Source::File { path, line });
                    }
                    None => self.errors.push(ConfigError::UnknownKey {
                        path,
                        line: set.line,
                        nearest: nearest(&set.key),
                        key: set.key,
                    }),
                },
            }
        }
    }

    fn set(&mut self, key: &Key, value: String, source: Source) {
        self.values.insert(key.name, (value, source));
    }

    /// Where a key's value came from.
    pub(crate) fn source(&self, name: &str) -> Source {
        self.values
            .get(name)
            .map_or(Source::Default, |(_, source)| source.clone())
    }

    /// A key's text: what was set, or the default with `<RUN_DIR>` filled in.
    pub(crate) fn text(&self, name: &str) -> String {
        let set = self.values.get(name).map(|(value, _)| value.as_str());
        if let Some(value) = set.filter(|value| !value.is_empty()) {
            return value.to_owned();
        }
        let default = KEYS.iter().find(|key| key.name == name);
        let default = default.map_or("", |key| key.default);
        match default.strip_prefix("<RUN_DIR>") {
            Some(rest) => format!("{}{rest}", self.text("RUN_DIR").trim_end_matches('/')),
            None => default.to_owned(),
        }
    }

    pub(crate) fn read<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<T> {
        let text = self.text(key);
        let value = (kind.parse)(&text);
        if value.is_none() {
            self.errors.push(ConfigError::Value {
                key,
                source_of: self.source(key),
                value: shown(kind.secret, &text),
                form: kind.form,
            });
        }
        value
    }

    /// Every key for people: secrets only as `(set)`.
    pub(crate) fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |key: &Key| {
            let text = self.text(key.name);
            ConfigEntry {
                key: key.name.to_owned(),
                value: match text.as_str() {
                    "" => "(unset)".to_owned(),
                    _ if key.secret => "(set)".to_owned(),
                    _ => text,
                },
                source: self.source(key.name).to_string(),
            }
        };
        KEYS.iter().map(entry).collect()
    }
}

fn shown(secret: bool, text: &str) -> String {
    if secret {
        format!("a secret of {} characters", text.chars().count())
    } else {
        format!("{text:?}")
    }
}

/// The known key that is most like `key`, if one is like it at all.
fn nearest(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_uppercase();
    let key = key.strip_prefix("HEARTH_").unwrap_or(&key);
    KEYS.iter()
        .map(|known| (distance(key, known.name), known.name))
        .min()
        .filter(|(distance, known)| *distance <= MAX_DISTANCE.min(known.len() / 2))
        .map(|(_, known)| known)
}

/// Levenshtein's distance: how many letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(a.len())
}
