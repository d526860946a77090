//! `hearth ps`.

use clap::Args;

use hearth_types::api::{Health, Vm};
use hearth_types::net::Protocol;
use hearth_types::spec::{BootstrapPolicy, PortSpec};
use hearth_types::status::{Awaited, Fate, Phase, Wait};

use crate::ages::{ago, span};
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::output::{BAD, DIM, GOOD, Output, WARN};
use crate::table::{Cell, Table};

/// Lists VMs
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// All VMs, not only those that run
    #[arg(short, long)]
    all: bool,

    /// Only those with this label: KEY or KEY=VALUE (several times)
    #[arg(short = 'l', long = "label", value_name = "SELECTOR")]
    labels: Vec<String>,

    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
}

pub(crate) async fn run(context: &Context, args: PsArgs) -> Outcome {
    let mut vms = context.client.all_vms(&args.labels).await?;
    if !args.all {
        vms.retain(|vm| is_up(vm.phase) || left_by(vm).is_some());
    }
    let out = &context.out;
    if out.is_json() {
        out.json(&vms)?;
        return Ok(exit_codes::OK);
    }
    let whole = args.no_trunc || out.is_wide();
    if out.quiet {
        for vm in &vms {
            out.line(id(vm, whole))?;
        }
        return Ok(exit_codes::OK);
    }
    let mut header = vec!["ID", "NAME", "IMAGE", "STATUS", "IP", "PORTS"];
    if out.is_wide() {
        header.extend([
            "CREATED", "VCPUS", "MEMORY", "PID", "DRIVER", "RESTARTS", "LABELS",
        ]);
    }
    let mut table = Table::new(&header);
    for vm in &vms {
        table.row(row(vm, out, whole));
    }
    out.table(&table)?;
    super::mode::note_unless_normal(context).await;
    super::recovery::note_host_breaker(context, &vms).await;
    Ok(exit_codes::OK)
}

/// Whether docker's users would call it running: it has, or is about to have, a VMM.
const fn is_up(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Starting
            | Phase::Running
            | Phase::Paused
            | Phase::Stopping
            | Phase::Backoff
            | Phase::Unknown
    )
}

/// The policy that left it stopped after a reboot: it should run, and waits for somebody's word.
fn left_by(vm: &Vm) -> Option<BootstrapPolicy> {
    let decided = vm.bootstrap.as_ref().filter(|b| b.fate == Fate::Left)?;
    decided.policy.filter(|_| vm.phase == Phase::Exited)
}

fn id(vm: &Vm, whole: bool) -> String {
    if whole {
        vm.id.to_string()
    } else {
        vm.id.short()
    }
}

fn row(vm: &Vm, out: &Output, whole: bool) -> Vec<Cell> {
    let ip = vm.leases.ip.map(|ip| ip.to_string()).unwrap_or_default();
    let mut cells = vec![
        id(vm, whole).into(),
        (&vm.spec.name).into(),
        (&vm.spec.image).into(),
        if vm.hold.is_some() {
            status(vm, out).and(", held")
        } else {
            status(vm, out)
        },
        ip.into(),
        ports(&vm.spec.ports).into(),
    ];
    if out.is_wide() {
        let driver = match (&vm.driver, &vm.accelerator) {
            (Some(driver), Some(accelerator)) => format!("{driver}/{accelerator}"),
            (Some(driver), None) => driver.clone(),
            (None, _) => "-".to_owned(),
        };
        let labels: Vec<_> = vm
            .spec
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        cells.extend([
            Cell::from(ago(vm.created_at, out.now)),
            vm.spec.vcpus.into(),
            vm.spec.memory.into(),
            vm.pid
                .map_or_else(|| "-".to_owned(), |pid| pid.to_string())
                .into(),
            driver.into(),
            vm.restarts.into(),
            labels.join(",").into(),
        ]);
    }
    cells
}

/// Phase, since when and why, in docker's words where docker has words.
fn status(vm: &Vm, out: &Output) -> Cell {
    let up = vm
        .started_at
        .map(|at| span(at, out.now))
        .unwrap_or_default();
    let ended = vm.last_end.as_ref().map(|end| {
        let code = end
            .exit_code
            .map_or_else(|| "-".to_owned(), |c| c.to_string());
        (code, ago(end.at, out.now))
    });
    if let Some(policy) = left_by(vm) {
        return Cell::styled(format!("Left stopped after reboot ({policy})"), WARN);
    }
    match vm.phase {
        Phase::Created => Cell::styled("Created", DIM),
        Phase::Starting => match &vm.wait {
            Some(wait) if !wait.over => Cell::styled(waits(wait), WARN),
            _ => Cell::styled("Starting", WARN),
        },
        Phase::Running => match vm.health {
            Health::Healthy => Cell::styled(format!("Up {up} (healthy)"), GOOD),
            Health::Unhealthy => Cell::styled(format!("Up {up} (unhealthy)"), BAD),
            Health::Degraded => Cell::styled(format!("Up {up} (degraded)"), WARN),
            Health::Unknown => Cell::styled(format!("Up {up} (health unknown)"), WARN),
            Health::Starting => Cell::styled(format!("Up {up} (booting)"), GOOD),
            Health::None => Cell::styled(format!("Up {up}"), GOOD),
        },
        Phase::Paused => Cell::styled(format!("Up {up} (paused)"), WARN),
        Phase::Stopping => Cell::styled("Stopping", WARN),
        Phase::Exited | Phase::Failed => {
            let word = if vm.phase == Phase::Exited {
                "Exited"
            } else {
                "Failed"
            };
            let style = if vm.phase == Phase::Exited { DIM } else { BAD };
            match ended {
                Some((code, when)) => Cell::styled(format!("{word} ({code}) {when}"), style),
                None => Cell::styled(word, style),
            }
        }
        Phase::Backoff if vm.breaker.is_some() => match vm.next_start {
            Some(at) => Cell::styled(format!("Breaker open, trial in {}", span(out.now, at)), BAD),
            None => Cell::styled("Breaker open", BAD),
        },
        Phase::Backoff => match vm.next_start {
            Some(at) => Cell::styled(format!("Restarting in {}", span(out.now, at)), WARN),
            None => Cell::styled("Restarting", WARN),
        },
        Phase::Removing => Cell::styled("Removing", WARN),
        Phase::Unknown => Cell::styled("Unknown", BAD),
    }
}

/// `inspect` has the whole reason.
fn waits(wait: &Wait) -> String {
    match wait.on {
        Awaited::Vms => {
            let first = wait.reason.split([',', ';']).next();
            let first = first.unwrap_or(&wait.reason);
            format!("W{}", first.trim_start_matches('w'))
        }
        Awaited::Network => "Waits for the network".to_owned(),
        Awaited::Disks => "Waits for its disks".to_owned(),
    }
}

/// `8080->80/tcp, 127.0.0.1:53->53/udp`.
fn ports(ports: &[PortSpec]) -> String {
    let text = |port: &PortSpec| {
        let host = if port.host_ip.is_unspecified() {
            String::new()
        } else {
            format!("{}:", port.host_ip)
        };
        let protocol: Protocol = port.protocol;
        format!("{host}{}->{}/{protocol}", port.host_port, port.guest_port)
    };
    ports.iter().map(text).collect::<Vec<_>>().join(", ")
}
