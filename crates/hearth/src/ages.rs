//! Times as people say them: `5 minutes ago`, `Up 2 hours`.

use jiff::Timestamp;

/// The time between two moments in one unit, docker's way.
pub(crate) fn span(from: Timestamp, to: Timestamp) -> String {
    let secs = to.as_second().saturating_sub(from.as_second()).max(0);
    let (count, unit) = match secs {
        0..60 => (secs, "second"),
        60..3600 => (secs / 60, "minute"),
        3600..172_800 => (secs / 3600, "hour"),
        172_800..1_209_600 => (secs / 86_400, "day"),
        1_209_600..5_184_000 => (secs / 604_800, "week"),
        5_184_000..63_072_000 => (secs / 2_592_000, "month"),
        _ => (secs / 31_536_000, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// How long ago a moment was.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(at, now))
}

/// The time in a log line: seconds are enough.
pub(crate) fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_use_one_unit() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for (secs, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (61, "1 minute"),
            (7200, "2 hours"),
            (200_000, "2 days"),
            (-5, "0 seconds"),
        ] {
            let from = Timestamp::from_second(now.as_second() - secs).unwrap();
            assert_eq!(span(from, now), text);
        }
    }
}
