//! The guest's report on how its workload ended: the last valid JSON line it wrote.
//!
//! The guest is not trusted: a line has a size cap, and what is no report is ignored.

use hearth_types::process::GuestReport;

/// Longest line that is kept, in bytes.
const LINE_MAX: usize = 64 << 10;

/// Collects lines and remembers the last report.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    line: Vec<u8>,
    overlong: bool,
    last: Option<GuestReport>,
}

impl Reports {
    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            if self.line.len() + text.len() > LINE_MAX {
                self.overlong = true;
                self.line = Vec::new();
            } else if !self.overlong {
                self.line.extend_from_slice(text);
            }
            if ends {
                self.end_line();
            }
        }
    }

    /// The last report, counting a last line without an end.
    pub(crate) fn finish(mut self) -> Option<GuestReport> {
        self.end_line();
        self.last
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.overlong) {
            return;
        }
        if let Ok(report) = serde_json::from_slice(&line) {
            self.last = Some(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXITED: &str = r#"{"exit":{"code":3},"reason":"exited"}"#;
    const FAILED: &str = r#"{"exit":null,"reason":"failed","message":"no such file"}"#;

    fn reason(parts: &[&[u8]]) -> Option<String> {
        let mut reports = Reports::default();
        for part in parts {
            reports.feed(part);
        }
        reports.finish().map(|report| report.reason)
    }

    #[test]
    fn the_last_valid_line_wins() {
        let both = format!("{EXITED}\n{FAILED}\n");
        assert_eq!(reason(&[both.as_bytes()]).unwrap(), "failed");
        let noise = format!("{EXITED}\nnoise\n{{}}\n\u{0}");
        assert_eq!(reason(&[noise.as_bytes()]).unwrap(), "exited");
        let split: Vec<&[u8]> = EXITED.as_bytes().chunks(1).collect();
        assert_eq!(reason(&split).unwrap(), "exited", "no line end needed");
        assert_eq!(reason(&[]), None);
    }

    #[test]
    fn overlong_lines_are_dropped_whole() {
        let long = vec![b' '; LINE_MAX];
        // The tail of an overlong line is a report by itself, but not a line.
        assert_eq!(reason(&[&long, EXITED.as_bytes(), b"\n"]), None);
        assert_eq!(
            reason(&[&long, b"x\n", EXITED.as_bytes(), b"\n"]).unwrap(),
            "exited"
        );
    }
}
