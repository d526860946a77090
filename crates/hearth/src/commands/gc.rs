//! `hearth gc`: what is there and nobody needs.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use hearth_types::gc::{GcItem, GcKind, GcOutcome, GcReport, RunGc};
use hearth_types::units::Bytes;

use crate::ages::span;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, Output, WARN};
use crate::table::{Cell, Table};

/// Finds what is there and nobody needs, and cleans it with --force
///
/// Devices of the pool whose making failed, or of images that are gone; leftovers of VMs; downloads that no image needs;
/// old logs, dumps and backups; files whose writer died. Images that no VM uses, and what a repair has put aside, only
/// with --kind. Without --force nothing is changed. It is refused on a host that is not idle or in no state for it.
/// The exit code is 0 when all was cleaned, 1 when some of it failed, 4 when some was left alone or it was refused.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Clean it; what is gone cannot be had back
    #[arg(short, long, conflicts_with = "dry_run")]
    force: bool,

    /// Change nothing, which is the default
    #[arg(long)]
    dry_run: bool,

    /// Show why each is garbage
    #[arg(long)]
    verbose: bool,

    /// Only this kind; several with several of them
    #[arg(long = "kind", value_name = "KIND", value_parser = kinds())]
    kinds: Vec<GcKind>,
}

fn kinds() -> impl TypedValueParser<Value = GcKind> {
    PossibleValuesParser::new(GcKind::ALL.map(GcKind::as_str))
        .try_map(|word| word.parse::<GcKind>())
}

pub(crate) async fn run(context: &Context, args: GcArgs) -> Outcome {
    let client = &context.client;
    let asked = RunGc {
        force: args.force,
        kinds: args.kinds,
    };
    // A look is answered in every mode.
    let report = match asked == RunGc::default() {
        true => client.garbage().await?,
        false => client.clean_garbage(&asked).await?,
    };
    show(&context.out, &report, args.verbose)?;
    Ok(code(&report))
}

fn code(report: &GcReport) -> u8 {
    match (
        report.dry_run,
        report.summary.failed,
        report.summary.skipped,
    ) {
        (true, ..) | (false, 0, 0) => exit_codes::OK,
        (false, 0, _) => exit_codes::CONFLICT,
        (false, ..) => exit_codes::FAILURE,
    }
}

fn show(out: &Output, report: &GcReport, verbose: bool) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(report);
    }
    if out.quiet {
        for item in &report.items {
            out.line(&item.id)?;
        }
        return Ok(());
    }
    if report.items.is_empty() {
        out.line("None.")?;
    } else {
        out.table(&table(out, &report.items, verbose || out.is_wide()))?;
    }
    for item in &report.items {
        if let (GcOutcome::Failed, Some(why)) = (item.outcome, &item.why) {
            crate::output::error(&format!("{} is still there: {why}", item.id));
        }
    }
    for why in &report.unknown {
        out.warn(format!(
            "cannot be seen, so nothing that it may need is listed: {why}"
        ));
    }
    let bytes = Bytes(report.bytes).human();
    let freed = if report.dry_run {
        "would be freed"
    } else {
        "freed"
    };
    out.note(format!("Summary: {} ({bytes} {freed})", report.summary));
    if report.dry_run && !report.items.is_empty() {
        crate::output::hint("nothing was changed; clean it up with: hearth gc --force");
    }
    Ok(())
}

fn table(out: &Output, items: &[GcItem], verbose: bool) -> Table {
    let mut header = vec!["ID", "KIND", "OBJECT", "SIZE", "AGE", "OUTCOME"];
    if verbose {
        header.push("REASON");
    }
    let mut table = Table::new(&header);
    for item in items {
        let dash = || "-".to_owned();
        let size = item.bytes.map(|bytes| Bytes(bytes).human().to_string());
        let mut row = vec![
            Cell::from(&item.id),
            item.kind.into(),
            (&item.object).into(),
            size.unwrap_or_else(dash).into(),
            item.since
                .map(|since| span(since, out.now))
                .unwrap_or_else(dash)
                .into(),
            outcome(item),
        ];
        if verbose {
            row.push((&item.reason).into());
        }
        table.row(row);
    }
    table
}

fn outcome(item: &GcItem) -> Cell {
    let style = match item.outcome {
        GcOutcome::Found => WARN,
        GcOutcome::Cleaned => GOOD,
        GcOutcome::Failed => BAD,
        GcOutcome::Skipped => DIM,
    };
    match (&item.why, item.outcome) {
        (Some(why), GcOutcome::Skipped) => Cell::styled(format!("skipped: {why}"), style),
        _ => Cell::styled(item.outcome, style),
    }
}
