//! The planner.

use super::example::Example;
use super::{Case, Context};

#[expect(clippy::unnecessary_wraps, reason = "the shape of a bench")]
pub(crate) fn cases(_: &Context) -> anyhow::Result<Vec<Case>> {
    let example = Example {
        package: "hearth-plan",
        name: "plan_bench",
        per_second: 1e3,
    };
    Ok(example.cases(&[
        ("1000 VMs", "1000", "-"),
        ("10000 VMs", "10000", "20 ms"),
        ("100000 VMs", "100000", "-"),
    ]))
}
