//! Waiting for a condition, with a bound: the only way in which the testbed waits.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Pause between two looks at a condition.
const BETWEEN: Duration = Duration::from_millis(100);

/// Looks at `condition` until it yields a value, and returns the value.
///
/// # Errors
/// When the deadline passes; the error ends with what the condition said last. An error of
/// the condition counts as *not yet*.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let last = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if Instant::now() >= end {
            bail!("{what}: not within {} s{last}", deadline.as_secs());
        }
        std::thread::sleep(BETWEEN); // between two looks at the condition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_not_yet_and_the_last_one_is_told() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(20), || {
            looks += 1;
            if looks < 3 {
                bail!("look {looks}");
            }
            Ok(Some(looks))
        });
        assert_eq!(value.unwrap(), 3);
        let error = until(
            "a wonder",
            Duration::ZERO,
            || -> anyhow::Result<Option<()>> { bail!("there are none") },
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "a wonder: not within 0 s: there are none"
        );
    }
}
