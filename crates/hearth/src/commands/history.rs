//! `hearth history`: how a VM's runs ended, and what was done about it.

use clap::Args;

use hearth_types::history::{DumpKind, HistoryEntry};
use hearth_types::process::ProcessExit;
use jiff::Timestamp;

use crate::ages::{ago, span};
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::output::{BAD, DIM};
use crate::table::{Cell, Table};

/// Shows how a VM's last runs ended that you did not end
///
/// The newest first, at most 20: kind of end, exit status or signal, how long it ran and was
/// down, what was tried.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// VM by name or id
    #[arg(value_name = "VM")]
    vm: String,

    /// The last lines of console and VMM log, too
    #[arg(short, long)]
    logs: bool,
}

/// Writes a guest's memory into a file on the host, readable by root only
///
/// The guest stands still meanwhile. The file holds what the guest knows, passwords and keys
/// included; it goes with the VM. QEMU only.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// VM by name or id
    #[arg(value_name = "VM")]
    vm: String,
}

pub(crate) async fn dump(context: &Context, args: DumpArgs) -> Outcome {
    let dump = context.client.dump(&args.vm).await?;
    let out = &context.out;
    if out.is_json() {
        out.json(&dump)?;
    } else {
        out.line(&dump.file)?;
        out.note(format!("{} written.", dump.size));
    }
    Ok(exit_codes::OK)
}

pub(crate) async fn run(context: &Context, args: HistoryArgs) -> Outcome {
    let history = context.client.history(&args.vm).await?;
    let out = &context.out;
    if out.is_json() {
        out.json(&history)?;
        return Ok(exit_codes::OK);
    }
    let mut table = Table::new(&[
        "ENDED", "CLASS", "EXIT", "RAN", "NOTICED", "DOWN", "TRIED", "REASON",
    ]);
    for entry in &history.items {
        table.row(row(entry, out.now));
    }
    out.table(&table)?;
    for entry in &history.items {
        if let Some(core) = &entry.core {
            out.line(format!("VMM core     {}  {core}", entry.ended_at))?;
        }
    }
    for dump in &history.dumps {
        let kind = match dump.kind {
            DumpKind::GuestMemory => "memory dump ",
            DumpKind::VmmCore => "VMM core    ",
        };
        let (at, ago, size) = (dump.at, ago(dump.at, out.now), dump.size.human());
        out.line(format!("{kind} {at}  {ago}  {size}  {}", dump.file))?;
    }
    if let Some(cores) = &history.vmm_cores {
        out.line(format!("VMM cores    {cores}"))?;
    }
    if args.logs {
        for entry in &history.items {
            out.line(format!("\n{}  {}", entry.ended_at, entry.reason))?;
            for (name, lines) in [("console", &entry.console), ("vmm", &entry.vmm_log)] {
                for line in lines {
                    out.line(format!("  {name} | {line}"))?;
                }
            }
            for attempt in &entry.tried {
                let how = attempt.problem.as_deref().unwrap_or("done");
                let cause = attempt.cause.map(|cause| format!(" ({})", cause.as_str()));
                out.line(format!(
                    "  tried   | {} {}{}: {how}",
                    attempt.at,
                    attempt.step,
                    cause.unwrap_or_default()
                ))?;
            }
        }
    }
    Ok(exit_codes::OK)
}

fn row(entry: &HistoryEntry, now: Timestamp) -> Vec<Cell> {
    let class = serde_json::to_value(entry.class);
    let class = class.ok().and_then(|word| word.as_str().map(str::to_owned));
    let exit = match (entry.exit_code, entry.vmm) {
        (Some(code), _) => code.to_string(),
        (None, Some(ProcessExit::Code(code))) => format!("vmm {code}"),
        (None, Some(ProcessExit::Signal(signal))) => format!("vmm signal {signal}"),
        (None, None) => "-".to_owned(),
    };
    let ran = entry.started_at.map(|at| span(at, entry.ended_at));
    let down = match entry.back_at {
        Some(at) => seconds(entry.ended_at, at),
        None => "-".to_owned(),
    };
    let style = if entry.failure { BAD } else { DIM };
    vec![
        ago(entry.ended_at, now).into(),
        Cell::styled(class.unwrap_or_default(), style),
        exit.into(),
        ran.unwrap_or_else(|| "-".to_owned()).into(),
        seconds(entry.ended_at, entry.recorded_at).into(),
        down.into(),
        entry.tried.len().into(),
        (&entry.reason).into(),
    ]
}

/// A short time to the millisecond.
fn seconds(from: Timestamp, to: Timestamp) -> String {
    let millis = to
        .as_millisecond()
        .saturating_sub(from.as_millisecond())
        .max(0);
    if millis < 60_000 {
        format!("{}.{:03} s", millis / 1000, millis % 1000)
    } else {
        span(from, to)
    }
}
