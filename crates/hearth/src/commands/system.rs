//! `plan`, `doctor`, `config show` and `version`: about the daemon and its host.

use clap::Subcommand;
use serde::Serialize;

use hearth_types::api::{DoctorStatus, Version};
use hearth_types::mode::Mode;

use crate::ages::span;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, WARN};
use crate::table::{Cell, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Shows each value in force and where it came from
    Show,
}

pub(crate) async fn plan(context: &Context) -> Outcome {
    let plan = context.client.plan().await?;
    let out = &context.out;
    if out.is_json() {
        out.json(&plan)?;
        return Ok(exit_codes::OK);
    }
    if plan.steps.is_empty() && !plan.held.is_empty() {
        out.line("Nothing is done: all that is due is held.")?;
    } else if plan.steps.is_empty() {
        out.line("Nothing to do: the host is as it should be.")?;
    } else {
        let mut table = Table::new(&["#", "STEP", "VM", "OBJECT", "REASON"]);
        for (index, step) in plan.steps.iter().enumerate() {
            let style = if step.destructive { BAD } else { GOOD };
            let vm = match (&step.name, step.vm) {
                (Some(name), _) => name.clone(),
                (None, Some(id)) => id.short(),
                (None, None) => "-".to_owned(),
            };
            table.row(vec![
                (index + 1).into(),
                Cell::styled(&step.step, style),
                vm.into(),
                (&step.object).into(),
                (&step.reason).into(),
            ]);
        }
        out.table(&table)?;
    }
    for held in &plan.held {
        let step = &held.step;
        let whose = step.name.as_ref().map(|name| format!(" of {name}"));
        out.line(format!(
            "held: {} ({}){}, by {}: {}",
            step.step,
            step.object,
            whose.unwrap_or_default(),
            held.by,
            step.reason
        ))?;
    }
    for note in &plan.notes {
        out.line(format!("note: {note}"))?;
    }
    if let Some(next) = plan.next_pass {
        out.note(format!("The next pass is due in {}.", span(out.now, next)));
    }
    Ok(exit_codes::OK)
}

pub(crate) async fn doctor(context: &Context) -> Outcome {
    let report = context.client.doctor().await?;
    let out = &context.out;
    let failed = report
        .checks
        .iter()
        .any(|c| c.status == DoctorStatus::Failed);
    let code = if failed {
        exit_codes::FAILURE
    } else {
        exit_codes::OK
    };
    if out.is_json() {
        out.json(&report)?;
        return Ok(code);
    }
    let mut table = Table::new(&["CHECK", "RESULT", "FOUND"]);
    for check in &report.checks {
        let result = match check.status {
            DoctorStatus::Ok => Cell::styled("ok", GOOD),
            DoctorStatus::Warning => Cell::styled("warning", WARN),
            DoctorStatus::Failed => Cell::styled("failed", BAD),
        };
        table.row(vec![(&check.name).into(), result, (&check.detail).into()]);
    }
    out.table(&table)?;
    for check in &report.checks {
        if let Some(hint) = &check.hint {
            crate::output::hint(&format!("{}: {hint}", check.name));
        }
    }
    Ok(code)
}

pub(crate) async fn config(context: &Context, command: ConfigCommand) -> Outcome {
    let ConfigCommand::Show = command;
    let config = context.client.config().await?;
    if context.out.is_json() {
        context.out.json(&config)?;
        return Ok(exit_codes::OK);
    }
    let mut table = Table::new(&["KEY", "VALUE", "SOURCE"]);
    for entry in &config.entries {
        let style = if entry.source == "default" {
            DIM
        } else {
            anstyle::Style::new()
        };
        table.row(vec![
            (&entry.key).into(),
            (&entry.value).into(),
            Cell::styled(&entry.source, style),
        ]);
    }
    context.out.table(&table)?;
    Ok(exit_codes::OK)
}

/// Both sides' versions.
#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    daemon: Option<Version>,
}

pub(crate) async fn version(context: &Context) -> Outcome {
    let (daemon, failure) = match context.client.version().await {
        Ok(version) => (Some(version), None),
        Err(error) => (None, Some(Failure::from(error))),
    };
    let versions = Versions {
        client: env!("CARGO_PKG_VERSION"),
        daemon,
    };
    if context.out.is_json() {
        context.out.json(&versions)?;
    } else {
        context.out.line(format!("hearth   {}", versions.client))?;
        if let Some(daemon) = &versions.daemon {
            let mode = match daemon.mode {
                Mode::Normal => String::new(),
                mode => format!(", mode {mode}"),
            };
            context.out.line(format!(
                "hearthd  {} (API {}, schema {}{mode})",
                daemon.version, daemon.api, daemon.schema
            ))?;
        }
    }
    // The client's own version was worth printing all the same.
    failure.map_or(Ok(exit_codes::OK), Err)
}
