//! A text that a `console` check looks for in a line.

use regex::bytes::{Regex, RegexBuilder};

/// The most memory that one expression may take when it is compiled, and as much again while it is
/// used, in bytes. Time needs no bound: it grows with the line's length and no faster.
const MOST: usize = 256 << 10;

/// A text, as it is compared with a line.
#[derive(Debug, Clone)]
pub enum Text {
    /// It stands in the line as it is.
    Plain(String),
    /// A regular expression matches somewhere in the line.
    Regex(Regex),
}

impl Text {
    /// A text as a specification says it.
    ///
    /// # Errors
    /// Why it is no regular expression, in one line, where it should be one.
    pub fn new(text: &str, regex: bool) -> Result<Self, String> {
        if !regex {
            return Ok(Self::Plain(text.to_owned()));
        }
        let mut builder = RegexBuilder::new(text);
        // A console may say anything; classes such as `\d` mean ASCII.
        builder
            .unicode(false)
            .size_limit(MOST)
            .dfa_size_limit(MOST)
            .nest_limit(50);
        builder.build().map(Self::Regex).map_err(|error| {
            let said = error.to_string();
            let last = said.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").to_owned()
        })
    }

    /// Whether it is in a line.
    #[must_use]
    pub fn is_in(&self, line: &str) -> bool {
        match self {
            Self::Plain(text) => line.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(line.as_bytes()),
        }
    }

    /// As the specification says it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Regex(regex) => regex.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_as_they_are_and_expressions_are_not() {
        let is = |text: &str, regex, line: &str| Text::new(text, regex).unwrap().is_in(line);
        assert!(is("a.c", false, "x a.c y") && !is("a.c", false, "abc"));
        assert!(is("a.c", true, "x abc y") && is("^ERROR [0-9]{3}: ", true, "ERROR 503: no"));
        assert!(!is("^ERROR", true, "an ERROR"));
        assert!(is(r"(?i)ready in \d+ ms", true, "Ready in 12 ms"));
        assert!(is("caf.{1,2} zu", true, "café zu"), "bytes count");
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused_in_one_line() {
        for bad in ["(", "a{100000}", r"\w{300}{300}", "[z-a]"] {
            let why = Text::new(bad, true).unwrap_err();
            assert!(!why.is_empty() && !why.contains('\n'), "{bad}: {why:?}");
            assert!(Text::new(bad, false).is_ok());
        }
    }

    #[test]
    fn a_hostile_line_costs_no_more_than_its_length() {
        // Engines that go back and forth need longer than the age of the world for this.
        let line = "a".repeat(4096);
        let text = Text::new("(a+)+b", true).unwrap();
        assert!(!text.is_in(&line));
    }
}
