//! `hearth orphans`: what is ours and not wanted, wanted and missing, or only looks like ours.

use std::io::{BufRead, IsTerminal};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use hearth_types::orphan::{
    AdoptOrphan, Fate, FateKind, Orphan, OrphanKind, OrphanState, RemoveOrphans,
};
use hearth_types::units::Bytes;

use crate::ages::{ago, span};
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, Output, WARN};
use crate::table::{Cell, Table};

/// Lists what is ours and not wanted, and what is wanted and missing
///
/// Each with its age, why it is listed, and what will be done about it. Nothing is changed.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct OrphansArgs {
    #[command(subcommand)]
    command: Option<OrphansCommand>,

    /// Only those of this kind
    #[arg(long, value_name = "KIND", value_parser = kinds())]
    kind: Option<OrphanKind>,
}

#[derive(Debug, Subcommand)]
enum OrphansCommand {
    Remove(RemoveArgs),
    Adopt(AdoptArgs),
}

/// Removes orphans at once, whatever the policy for them
///
/// Only what is ours and no VM has; each is proved again at the moment of action.
#[derive(Debug, Args)]
struct RemoveArgs {
    /// Ids as `hearth orphans` shows them
    #[arg(required_unless_present = "all", value_name = "ID")]
    ids: Vec<String>,

    /// All that are ours and not wanted
    #[arg(short, long, conflicts_with = "ids")]
    all: bool,

    /// Of all, only those of this kind
    #[arg(long, value_name = "KIND", requires = "all", value_parser = kinds())]
    kind: Option<OrphanKind>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Makes a record again for a VM whose record is lost
///
/// From what its folder keeps. A VMM that runs goes on; a folder without one becomes a stopped
/// VM. The values of its environment variables are not kept.
#[derive(Debug, Args)]
struct AdoptArgs {
    /// Id of a VMM or folder as `hearth orphans` shows it
    #[arg(value_name = "ID")]
    id: String,

    /// Another name than it had
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// The kinds by their words.
fn kinds() -> impl TypedValueParser<Value = OrphanKind> {
    PossibleValuesParser::new(OrphanKind::ALL.map(OrphanKind::as_str)).try_map(|word| {
        let mut all = OrphanKind::ALL.into_iter();
        all.find(|kind| kind.as_str() == word)
            .ok_or("not a kind of orphans")
    })
}

pub(crate) async fn run(context: &Context, args: OrphansArgs) -> Outcome {
    match args.command {
        None => list(context, args.kind).await,
        Some(OrphansCommand::Remove(args)) => remove(context, args).await,
        Some(OrphansCommand::Adopt(args)) => adopt(context, args).await,
    }
}

async fn list(context: &Context, kind: Option<OrphanKind>) -> Outcome {
    let mut list = context.client.orphans().await?;
    list.items
        .retain(|orphan| kind.is_none_or(|kind| kind == orphan.kind));
    let out = &context.out;
    if out.is_json() {
        out.json(&list)?;
        return Ok(exit_codes::OK);
    }
    if out.quiet {
        for orphan in &list.items {
            out.line(&orphan.id)?;
        }
        return Ok(exit_codes::OK);
    }
    if list.items.is_empty() {
        out.line("None.")?;
    } else {
        out.table(&table(&list.items, out))?;
    }
    for why in &list.unknown {
        out.warn(format!("cannot be seen, so none is listed: {why}"));
    }
    if list.items.iter().any(|orphan| orphan.adoptable) {
        crate::output::hint("those that can be adopted keep running: hearth orphans adopt ID");
    }
    Ok(exit_codes::OK)
}

fn table(items: &[Orphan], out: &Output) -> Table {
    let mut header = vec![
        "ID",
        "STATE",
        "VM",
        "OBJECT",
        "AGE",
        "SIZE",
        "WHAT WILL BE DONE",
    ];
    if out.is_wide() {
        header.extend(["IMAGE", "REASON"]);
    }
    let mut table = Table::new(&header);
    for orphan in items {
        let vm = match (&orphan.name, orphan.vm) {
            (Some(name), _) => name.clone(),
            (None, Some(vm)) => vm.short(),
            (None, None) => "-".to_owned(),
        };
        let age = orphan.since.map(|since| span(since, out.now));
        let size = orphan.bytes.map(|bytes| Bytes(bytes).human());
        let mut row = vec![
            Cell::from(&orphan.id),
            state(orphan.state),
            vm.into(),
            (&orphan.object).into(),
            age.unwrap_or_else(|| "-".to_owned()).into(),
            size.map_or_else(|| "-".to_owned(), |size| size.to_string())
                .into(),
            fate(&orphan.fate, out),
        ];
        if out.is_wide() {
            row.push(orphan.image.as_deref().unwrap_or("-").into());
            row.push((&orphan.reason).into());
        }
        table.row(row);
    }
    table
}

fn state(state: OrphanState) -> Cell {
    match state {
        OrphanState::Unwanted => Cell::styled("unwanted", WARN),
        OrphanState::Missing => Cell::styled("missing", BAD),
        OrphanState::Unproven => Cell::styled("not proven ours", DIM),
    }
}

fn fate(fate: &Fate, out: &Output) -> Cell {
    let why = &fate.why;
    match (fate.what, fate.at) {
        (FateKind::Removed, Some(at)) if at > out.now => {
            Cell::styled(format!("removed in {}", span(out.now, at)), BAD)
        }
        (FateKind::Removed, Some(at)) => {
            Cell::styled(format!("removed, due {}", ago(at, out.now)), BAD)
        }
        (FateKind::Removed, None) => Cell::styled("removed in the next pass", BAD),
        (FateKind::PutBack, _) => Cell::styled("put back in the next pass", GOOD),
        (FateKind::Held, _) => Cell::styled(format!("held: {why}"), WARN),
        (FateKind::Kept, _) => format!("kept: {why}").into(),
        (FateKind::Reported, _) => Cell::styled(format!("only reported: {why}"), WARN),
        (FateKind::Never, _) => Cell::styled(format!("nothing, ever: {why}"), DIM),
    }
}

/// Whether this one was asked for. What `--all` means, the daemon says of each.
fn is_meant(orphan: &Orphan, args: &RemoveArgs) -> bool {
    let of_kind = args.kind.is_none_or(|kind| kind == orphan.kind);
    let of_all = args.all && orphan.removable && of_kind;
    of_all || args.ids.contains(&orphan.id)
}

async fn remove(context: &Context, args: RemoveArgs) -> Outcome {
    let out = &context.out;
    let mut ids = args.ids.clone();
    if args.all || !args.yes {
        let list = context.client.orphans().await?;
        let meant: Vec<_> = list
            .items
            .into_iter()
            .filter(|orphan| is_meant(orphan, &args))
            .collect();
        if args.all {
            ids = meant.iter().map(|orphan| orphan.id.clone()).collect();
        }
        if ids.is_empty() {
            out.note("There is none to remove.");
            return Ok(exit_codes::OK);
        }
        if !args.yes {
            out.table(&table(&meant, out))?;
            if !agreed(ids.len())? {
                out.note("Nothing was removed.");
                return Ok(exit_codes::FAILURE);
            }
        }
    }
    // What was shown is what is removed, and nothing that came since.
    let asked = RemoveOrphans {
        ids,
        ..RemoveOrphans::default()
    };
    let removed = context.client.remove_orphans(&asked).await?;
    if out.is_json() {
        out.json(&removed)?;
    }
    let mut code = exit_codes::OK;
    for orphan in &removed.items {
        match &orphan.problem {
            None if !out.is_json() => out.line(&orphan.id)?,
            None => {}
            Some(problem) => {
                crate::output::error(&format!("{} is still there: {problem}", orphan.id));
                code = exit_codes::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Asks the person.
fn agreed(count: usize) -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(
            Failure::usage("there is nobody to ask whether they are to be removed")
                .hint("say so with --yes"),
        );
    }
    crate::output::stderr(&format!(
        "Remove {count} object(s) with all they hold? This cannot be undone. [y/N]"
    ));
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::because(exit_codes::FAILURE, "Cannot read the answer", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn adopt(context: &Context, args: AdoptArgs) -> Outcome {
    let asked = AdoptOrphan { name: args.name };
    let vm = context.client.adopt_orphan(&args.id, &asked).await?;
    let out = &context.out;
    if out.is_json() {
        out.json(&vm)?;
    } else {
        out.line(&vm.spec.name)?;
    }
    out.note(format!(
        "{} has a record again. Values of environment variables are not kept: hearth events says which it had.",
        vm.spec.name
    ));
    Ok(exit_codes::OK)
}
