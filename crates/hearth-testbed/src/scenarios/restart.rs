//! What may happen to the daemon while guests run: they do not notice.

use anyhow::ensure;

use crate::hearth::DAEMON_UP;
use crate::host::Host;
use crate::line::Line;
use crate::machine::PUBLISHED_FIRST;
use crate::witness::Witness;

/// What happens, as a line of shell, and what it is called.
const BLOWS: [(&str, &str); 4] = [
    ("systemctl restart", "systemctl restart hearthd"),
    (
        "stop and start",
        "systemctl stop hearthd; systemctl start hearthd",
    ),
    ("kill -9", "systemctl kill --kill-whom=main -s KILL hearthd"),
    ("daemon-reexec of systemd", "systemctl daemon-reexec"),
];
/// How often the daemon is killed in the crash loop.
const CRASHES: usize = 10;

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let port = format!("{PUBLISHED_FIRST}:7");
    let keeper = host.start_vm(
        "keeper",
        &["--restart", "always", "-m", "128MiB", "-p", &port],
        "exec nc -ll -p 7 -e cat",
    )?;
    keeper.wait_healthy()?;
    let mut line = host.line(0)?;
    let mut witness = Witness::new(host, keeper)?;

    for (name, blow) in BLOWS {
        line.send()?;
        let seconds = witness.until_adopted(blow)?;
        host.measure(&format!("{name}: VM known again after"), seconds, "s");
        line.receive()?;
        line.echo()?;
        witness.unchanged()?;
        host.promise(&format!(
            "{name}: same VMM, same guest, and its TCP connection keeps its data"
        ));
    }
    crash_loop(host, &mut line)?;
    witness.unchanged()?;
    host.promise("10 crashes of the daemon in a row: no guest notices");
    without_daemon(host, &mut line)?;
    witness.unchanged()
}

fn crash_loop(host: &Host, line: &mut Line) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    let main_pid = || host.check("systemctl show -p MainPID --value hearthd");
    let mut last = String::new();
    for _ in 0..CRASHES {
        last = host.wait("another daemon", DAEMON_UP, || {
            let pid = main_pid()?;
            Ok((pid != "0" && pid != last).then_some(pid))
        })?;
        host.check(&format!("kill -9 {last}"))?;
        line.echo()?;
    }
    host.measure("10 crashes took", begun.elapsed().as_secs_f64(), "s");
    host.wait_daemon()?;
    Ok(())
}

/// While no daemon runs, guests are served: no data path goes through it.
fn without_daemon(host: &Host, line: &mut Line) -> anyhow::Result<()> {
    host.check("systemctl stop hearthd hearthd.socket 2>/dev/null || systemctl stop hearthd")?;
    ensure!(
        !host.run("systemctl is-active hearthd")?.success(),
        "the daemon runs on after a stop"
    );
    line.echo()?;
    let mut second = Line::open(host.published(0)?)?;
    second.echo()?;
    host.promise("with no daemon running, old and new connections to a guest work");
    host.check("systemctl start hearthd")?;
    host.wait_daemon()
}
