//! `hearth health`.

use std::io::IsTerminal;
use std::time::Duration;

use anstyle::Style;
use clap::Args;

use hearth_types::api::{CheckView, Health, VmHealth};

use super::each;
use crate::ages::{ago, span};
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, WARN};
use crate::table::{Cell, Table};

/// Between two looks with --watch.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows what the checks of VMs' health say
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Again and again
    #[arg(long)]
    watch: bool,

    /// VMs by name or id
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: HealthArgs) -> Outcome {
    loop {
        let mut found = Vec::new();
        let act = |vm: String| async move { Ok(context.client.vm_health(&vm).await?) };
        let code = each(&args.vms, act, |vm, health| {
            found.push((vm.to_owned(), health));
            Ok(())
        })
        .await?;
        show(context, &found, args.watch)?;
        if !args.watch || code != exit_codes::OK {
            return Ok(code);
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            result = tokio::signal::ctrl_c() => {
                return result.map(|()| exit_codes::OK).map_err(|e| {
                    Failure::because(exit_codes::FAILURE, "Cannot catch signals", &e)
                });
            }
        }
    }
}

fn show(context: &Context, found: &[(String, VmHealth)], again: bool) -> Result<(), Failure> {
    let out = &context.out;
    if out.is_json() {
        let all: Vec<_> = found.iter().map(|(_, health)| health).collect();
        return if again {
            out.json_line(&all)
        } else {
            out.json(&all)
        };
    }
    if out.quiet {
        for (_, health) in found {
            out.line(health.health.as_str())?;
        }
        return Ok(());
    }
    if again && std::io::stdout().is_terminal() {
        // Home, and clear below: the table stays in its place.
        out.line("\u{1b}[H\u{1b}[J")?;
    }
    for (vm, health) in found {
        out.note(headline(context, vm, health));
    }
    let several = found.len() > 1;
    let mut header = vec!["CHECK", "STATE", "LAST", "FAILURES", "MESSAGE"];
    if several {
        header.insert(0, "VM");
    }
    if out.is_wide() {
        header.extend(["KIND", "EVERY", "TIMEOUT", "TOOK", "ON FAILURE"]);
    }
    let mut table = Table::new(&header);
    for (vm, health) in found {
        for check in &health.checks {
            let mut cells = row(context, check);
            if several {
                cells.insert(0, vm.into());
            }
            table.row(cells);
        }
    }
    if found.iter().all(|(_, health)| health.checks.is_empty()) {
        return Ok(());
    }
    out.table(&table)
}

/// One sentence on a VM.
fn headline(context: &Context, vm: &str, health: &VmHealth) -> String {
    let word = match health.health {
        Health::None => return format!("{vm}: not checked, as it does not run or is paused"),
        health => health.as_str(),
    };
    let since = health.since.map(|at| span(at, context.out.now));
    let since = since.map_or_else(String::new, |span| format!(" for {span}"));
    match &health.reason {
        Some(reason) => format!("{vm}: {word}{since}: {reason}"),
        None => format!("{vm}: {word}{since}"),
    }
}

fn row(context: &Context, check: &CheckView) -> Vec<Cell> {
    let last = check.history.first();
    let mut cells = vec![
        (&check.name).into(),
        Cell::styled(check.state.as_str(), style(check.state)),
        last.map_or_else(|| "-".to_owned(), |last| ago(last.at, context.out.now))
            .into(),
        format!("{}/{}", check.failures, check.failure_threshold).into(),
        last.map_or("", |last| last.message.as_str()).into(),
    ];
    if context.out.is_wide() {
        let time = |millis| hearth_types::units::Span::millis(millis);
        let action = match check.on_failure {
            hearth_types::spec::health::OnFailure::None => "none",
            hearth_types::spec::health::OnFailure::Restart => "restart",
        };
        cells.extend([
            Cell::from(check.kind.as_str()),
            time(check.interval_millis).into(),
            time(check.timeout_millis).into(),
            last.map_or_else(|| "-".to_owned(), |last| time(last.millis).to_string())
                .into(),
            action.into(),
        ]);
    }
    cells
}

fn style(state: Health) -> Style {
    match state {
        Health::Healthy => GOOD,
        Health::Unhealthy => BAD,
        Health::Degraded | Health::Unknown | Health::Starting => WARN,
        Health::None => DIM,
    }
}
