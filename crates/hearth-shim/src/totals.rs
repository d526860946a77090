//! Sums of a VMM's figures, kept in a file for whoever wants to know.
//!
//! Firecracker writes a line of JSON a minute, and when asked, with what has happened since
//! the line before (`SharedIncMetric` in its `metrics` crate). Only who reads every line knows
//! the sum, and that is the shim: it lives as long as the VMM.
//!
//! As with a log, the VM must not suffer: what cannot be written or understood is lost.

use serde_json::{Map, Value};

/// Longest line that is kept, in bytes. Figures of a VMM with many devices have some 20 KiB.
const LINE_MAX: usize = 256 << 10;
/// Figures with this at their name's end are times, not counts: the newest holds.
const TIME: &str = "_ms";

/// Adds lines up and keeps the sums.
#[derive(Debug)]
pub(crate) struct Totals {
    path: &'static str,
    line: Vec<u8>,
    overlong: bool,
    sums: Map<String, Value>,
}

impl Totals {
    /// Keeps the sums in the file `path` of the working folder.
    pub(crate) fn new(path: &'static str) -> Self {
        // What the run before has said is not true any more.
        drop(std::fs::remove_file(path));
        Self {
            path,
            line: Vec::new(),
            overlong: false,
            sums: Map::new(),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.overlong) {
                    self.add_line(&line);
                }
            } else if self.line.len() < LINE_MAX {
                self.line.push(byte);
            } else {
                self.overlong = true;
            }
        }
    }

    fn add_line(&mut self, line: &[u8]) {
        let Ok(Value::Object(figures)) = serde_json::from_slice(line) else {
            return;
        };
        add(&mut self.sums, figures);
        match serde_json::to_vec(&self.sums) {
            Ok(text) if text.len() <= LINE_MAX => self.keep(&text),
            // A VMM's names are fixed when it is built; this one has been taken over.
            _ => self.sums.clear(),
        }
    }

    /// A reader sees the old sums or the new ones.
    fn keep(&self, text: &[u8]) {
        let draft = format!("{}.new", self.path);
        let written =
            std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, self.path));
        if written.is_err() {
            drop(std::fs::remove_file(draft));
        }
    }
}

/// Adds each count to its sum.
fn add(sums: &mut Map<String, Value>, figures: Map<String, Value>) {
    for (name, figure) in figures {
        match (sums.get_mut(&name), figure) {
            (Some(Value::Object(sums)), Value::Object(figures)) => add(sums, figures),
            (Some(sum), Value::Number(figure)) if !name.ends_with(TIME) => {
                let (before, more) = (sum.as_u64(), figure.as_u64());
                *sum = before
                    .unwrap_or_default()
                    .saturating_add(more.unwrap_or_default())
                    .into();
            }
            (_, figure) => {
                sums.insert(name, figure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sums(lines: &[Value]) -> Value {
        let mut sums = Map::new();
        for line in lines {
            add(&mut sums, line.as_object().unwrap().clone());
        }
        Value::Object(sums)
    }

    #[test]
    fn counts_are_added_and_times_are_replaced() {
        let first = json!({"utc_timestamp_ms": 5, "block": {"read_bytes": 3, "fails": 0}});
        let second = json!({"utc_timestamp_ms": 9, "block": {"read_bytes": 4}, "net": {"tx": 1}});
        let expected = json!({
            "utc_timestamp_ms": 9,
            "block": {"read_bytes": 7, "fails": 0},
            "net": {"tx": 1},
        });
        assert_eq!(sums(&[first, second]), expected);
    }

    #[test]
    fn a_sum_never_goes_round() {
        let most = json!({"a": u64::MAX});
        assert_eq!(sums(&[most.clone(), most.clone()]), most);
    }

    #[test]
    fn lines_may_come_in_pieces_and_with_nonsense_between() {
        let mut totals = Totals::new("/proc/no-such-file");
        totals.feed(b"{\"a\": 1");
        totals.feed(b"}\nnonsense\n{\"a\": 2}\n[1]\n");
        totals.feed(&vec![b'x'; LINE_MAX + 1]);
        totals.feed(b"\n{\"a\": 3}\n");
        assert_eq!(Value::Object(totals.sums), json!({"a": 6}));
    }
}
