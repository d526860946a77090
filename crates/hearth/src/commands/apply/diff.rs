//! The difference between two specifications, field by field.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use hearth_types::spec::{VmSpec, VolumeSpec};

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    /// Its path, such as `ports[0].host_port`.
    pub(super) field: String,
    /// What it is; absent when it is new.
    pub(super) from: Option<Value>,
    /// What it shall be; absent when it goes.
    pub(super) to: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| match value {
            None => "(none)".to_owned(),
            Some(Value::String(text)) if !text.is_empty() && !text.contains(char::is_control) => {
                text.clone()
            }
            Some(other) => other.to_string(),
        };
        write!(
            f,
            "{}: {} → {}",
            self.field,
            text(&self.from),
            text(&self.to)
        )
    }
}

/// The fields that differ, by path.
pub(super) fn between(from: &VmSpec, to: &VmSpec) -> Vec<Change> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    for (spec, fields) in [(from, &mut old), (to, &mut new)] {
        // A specification is plain data: writing it cannot fail.
        let mut value = serde_json::to_value(spec).unwrap_or_default();
        // In the words of the flags, which are shorter than fields.
        let ports = spec.ports.iter().map(ToString::to_string).map(Value::from);
        let volumes = spec.volumes.iter().map(volume).map(Value::from);
        for (field, texts) in [("ports", ports.collect()), ("volumes", volumes.collect())] {
            let texts: Vec<_> = texts;
            if !texts.is_empty() {
                value[field] = Value::from(texts);
            }
        }
        flatten(String::new(), value, fields);
    }
    let mut changes: Vec<_> = old
        .iter()
        .filter(|(field, value)| new.get(*field) != Some(value))
        .map(|(field, value)| Change {
            field: field.clone(),
            from: Some(value.clone()),
            to: new.get(field).cloned(),
        })
        .collect();
    let added = new
        .into_iter()
        .filter(|(field, _)| !old.contains_key(field));
    changes.extend(added.map(|(field, value)| Change {
        field,
        from: None,
        to: Some(value),
    }));
    changes.sort_by(|a, b| a.field.cmp(&b.field));
    changes.into_iter().map(without_secrets).collect()
}

/// Environments hold secrets: that a variable changes is told, its values are not.
fn without_secrets(change: Change) -> Change {
    if !change.field.starts_with("env.") {
        return change;
    }
    // Two hidden values that differ must not look the same.
    let to = if change.from.is_some() {
        "(hidden, differs)"
    } else {
        "(hidden)"
    };
    let hidden = |value: Option<Value>, word: &str| value.map(|_| Value::from(word));
    Change {
        from: hidden(change.from, "(hidden)"),
        to: hidden(change.to, to),
        field: change.field,
    }
}

/// `NAME:MOUNT:SIZE[:ro]`.
fn volume(volume: &VolumeSpec) -> String {
    let read_only = if volume.read_only { ":ro" } else { "" };
    format!(
        "{}:{}:{}{read_only}",
        volume.name, volume.mount, volume.size
    )
}

/// A command stays whole: it reads better than its sixth word.
fn flatten(path: String, value: Value, fields: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key
                } else {
                    format!("{path}.{key}")
                };
                flatten(path, value, fields);
            }
        }
        Value::Array(list) if matches!(path.as_str(), "ports" | "volumes") => {
            for (index, value) in list.into_iter().enumerate() {
                flatten(format!("{path}[{index}]"), value, fields);
            }
        }
        other => {
            fields.insert(path, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> VmSpec {
        serde_json::from_str(text).unwrap()
    }

    fn lines(from: &str, to: &str) -> Vec<String> {
        let changes = between(&spec(from), &spec(to));
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_of_change_is_told() {
        let from = r#"{"name":"a","image":"x:1","memory":"256MiB","ports":[{"host_port":80,"guest_port":80}],"labels":{"tier":"web"},"env":{"KEY":"secret"}}"#;
        let to = r#"{"name":"a","image":"x:2","memory":"1g","ports":[{"host_port":81,"guest_port":80}],"command":["a","b"],"env":{"KEY":"other"}}"#;
        assert_eq!(
            lines(from, to),
            [
                "command: (none) → [\"a\",\"b\"]",
                "env.KEY: (hidden) → (hidden, differs)",
                "image: x:1 → x:2",
                "labels.tier: web → (none)",
                "memory: 256MiB → 1GiB",
                "ports[0]: 0.0.0.0:80:80/tcp → 0.0.0.0:81:80/tcp",
            ]
        );
        assert_eq!(lines(from, from), [""; 0]);
    }

    #[test]
    fn defaults_that_are_written_out_are_no_change() {
        let short = r#"{"name":"a","image":"x"}"#;
        let long = r#"{"name":"a","image":"x","vcpus":1,"memory":"256MiB","restart":"no","stop_timeout":"10s","network":{"mode":"bridge"}}"#;
        assert_eq!(lines(short, long), [""; 0]);
    }
}
