//! What the safeguards cost an operation on device-mapper, beside the least that it could be.

use super::example::Example;
use super::{Case, Context};

#[expect(clippy::unnecessary_wraps, reason = "the shape of a bench")]
pub(crate) fn cases(_: &Context) -> anyhow::Result<Vec<Case>> {
    let example = Example {
        package: "hearth-safeguards",
        name: "safeguards_bench",
        per_second: 1e6,
    };
    Ok(example.cases(&[
        ("look at the host", "look-0", "10 ms"),
        ("the same, processor time", "look-0-cpu", "10 ms"),
        ("look at the host, 500 threads more", "look-500", "10 ms"),
        ("the same, processor time", "look-500-cpu", "10 ms"),
        ("look at the host, 2000 threads more", "look-2000", "100 ms"),
        ("the same, processor time", "look-2000-cpu", "100 ms"),
        ("of it all threads, 500 more", "threads-500-cpu", "-"),
        ("their stat files opened and read", "reads-500-cpu", "-"),
        ("of it all threads, 2000 more", "threads-2000-cpu", "-"),
        ("their stat files opened and read", "reads-2000-cpu", "-"),
        (
            "the first look, all of the kernel's log",
            "first-look",
            "100 ms",
        ),
        ("an operation's turn, thread and deadline", "guard", "1 ms"),
        ("the same, processor time", "guard-cpu", "-"),
        ("a thread of the pool alone", "plain", "-"),
        ("the same, processor time", "plain-cpu", "-"),
    ]))
}
