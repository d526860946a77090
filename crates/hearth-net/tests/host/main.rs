//! The real network, in network namespaces of the tests' own. Needs root; says so else.
#![expect(clippy::print_stderr, reason = "a skipped test says why")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod fake;
mod netns;
mod support;
mod units;
