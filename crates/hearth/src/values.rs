//! Values of flags that need more than their type's own parser.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;

use hearth_types::units::Span;

/// A duration: docker's bare seconds (`10`) or with a unit (`500ms`, `2m`).
pub(crate) fn span(text: &str) -> Result<Span, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return format!("{text}s")
            .parse::<Span>()
            .map_err(|e| e.to_string());
    }
    text.parse::<Span>().map_err(|e| e.to_string())
}

/// The same as the standard library's type.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    span(text).map(Span::as_duration)
}

/// One of the words that the API knows for an enum.
pub(crate) fn word<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words)
        .try_map(|word| serde_json::from_value::<T>(serde_json::Value::String(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_are_seconds() {
        assert_eq!(span("10"), Ok(Span::secs(10)));
        assert_eq!(span("500ms"), Ok(Span::millis(500)));
        for bad in ["", "-1", "1.5", "x", "10 s"] {
            assert!(span(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
