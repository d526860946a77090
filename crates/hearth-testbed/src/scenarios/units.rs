//! The workspace's tests that want a systemd, on a host that has one. Where the workspace is
//! built there is none most of the time, and they are skipped; here none of them may be.

use std::time::Instant;

use anyhow::ensure;

use crate::host::Host;
use crate::suites::{Suite, Verdict};

const SUITES: [Suite; 3] = [
    Suite {
        package: "hearth-shim",
        test: "units",
        prefix: "",
    },
    Suite {
        package: "hearth-shim",
        test: "contract",
        prefix: "units::",
    },
    Suite {
        package: "hearth-net",
        test: "host",
        prefix: "units::",
    },
];

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let before = host.audit()?;
    let mut wrong = Vec::new();
    for suite in &SUITES {
        wrong.extend(run(host, suite)?);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    host.promise("no test that wants a systemd is skipped, and all of them pass");
    // Its last unit has gone; systemd keeps an empty slice until somebody stops it.
    host.check("systemctl stop hearth.slice")?;
    host.expect_as(&before)?;
    host.promise("they leave nothing behind");
    Ok(())
}

/// Runs the tests of a suite, and returns what is wrong with them.
pub(super) fn run(host: &Host, suite: &Suite) -> anyhow::Result<Vec<String>> {
    let programs = suite.build()?;
    host.mirror(&programs)?;
    let Some(program) = programs.first() else {
        return Ok(vec![format!("{} has no program", suite.name())]);
    };
    let (mut wrong, mut passed) = (Vec::new(), 0_u32);
    let begun = Instant::now();
    for test in host.tests_of(suite, program)? {
        match host.run_test(program, &test)? {
            Verdict::Passed => passed += 1,
            Verdict::Skipped(why) => wrong.push(format!("{test} was skipped: {why}")),
            Verdict::Failed(said) => wrong.push(format!("{test} failed: {said}")),
        }
    }
    let name = suite.name();
    host.measure(&format!("{name}: passed"), passed.into(), "tests");
    let others = u32::try_from(wrong.len())?;
    host.measure(
        &format!("{name}: skipped or failed"),
        others.into(),
        "tests",
    );
    host.measure(&format!("{name}: took"), begun.elapsed().as_secs_f64(), "s");
    for line in &wrong {
        host.evidence.event(&format!("✗ {line}"));
    }
    Ok(wrong)
}
