//! `hearth mode`: how much the daemon may do.

use clap::{Args, ValueEnum};

use hearth_types::mode::{Mode, ModeView, SetMode};

use crate::ages::ago;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::output::{BAD, GOOD, WARN};
use crate::table::{Cell, Table};

/// Shows or sets how much the daemon may do
///
/// Without MODE it shows the mode in force and where it comes from.
#[derive(Debug, Args)]
pub(crate) struct ModeArgs {
    /// The mode to set
    mode: Option<ModeWord>,

    /// Why, for those who meet it
    #[arg(long, value_name = "TEXT", requires = "mode")]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeWord {
    /// Everything is done
    Normal,
    /// What you ask for is done, and nothing by itself
    Maintenance,
    /// Nothing is done: the daemon looks, plans and tells
    Readonly,
}

impl From<ModeWord> for Mode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Normal => Self::Normal,
            ModeWord::Maintenance => Self::Maintenance,
            ModeWord::Readonly => Self::Readonly,
        }
    }
}

pub(crate) async fn run(context: &Context, args: ModeArgs) -> Outcome {
    let view = match args.mode {
        None => context.client.mode().await?,
        Some(word) => {
            let set = SetMode {
                mode: word.into(),
                reason: args.reason,
            };
            let view = context.client.set_mode(&set).await?;
            warn_of_surprises(context, &view, set.mode);
            view
        }
    };
    show(context, &view)
}

/// What was asked for may not be what is.
fn warn_of_surprises(context: &Context, view: &ModeView, asked: Mode) {
    let out = &context.out;
    if view.mode != asked {
        let reason = view.reason.as_deref().unwrap_or("a rule asks for it");
        out.warn(format!("the mode is {} all the same: {reason}", view.mode));
    }
    if view.hand.as_ref().is_some_and(|hand| !hand.stored) {
        out.warn("it is held in memory only, and lost if hearthd is restarted: the database cannot be written");
    }
    for rule in view.rules.iter().filter(|rule| rule.set_aside) {
        out.warn(format!("set aside until it is gone: {}", rule.reason));
    }
}

fn show(context: &Context, view: &ModeView) -> Outcome {
    let out = &context.out;
    if out.is_json() {
        out.json(view)?;
        return Ok(exit_codes::OK);
    }
    if out.quiet {
        out.line(view.mode)?;
        return Ok(exit_codes::OK);
    }
    let mut table = Table::new(&["MODE", "BY", "SINCE", "REASON"]);
    let since = |at| ago(at, out.now);
    if view.hand.is_none() && view.rules.is_empty() {
        let since = view.since.map(since).unwrap_or_default();
        table.row(vec![word(view.mode), "-".into(), since.into(), "".into()]);
    }
    if let Some(hand) = &view.hand {
        let reason = hand.reason.as_deref().unwrap_or_default();
        table.row(vec![
            word(hand.mode),
            "hand".into(),
            since(hand.since).into(),
            reason.into(),
        ]);
    }
    for rule in &view.rules {
        let aside = if rule.set_aside { " (set aside)" } else { "" };
        table.row(vec![
            word(rule.mode),
            format!("{}{aside}", rule.rule).into(),
            since(rule.since).into(),
            (&rule.reason).into(),
        ]);
    }
    out.table(&table)?;
    let asked = view.hand.is_some() || !view.rules.is_empty();
    if asked {
        out.note(format!("The mode in force is {}.", view.mode));
    }
    Ok(exit_codes::OK)
}

fn word(mode: Mode) -> Cell {
    let style = match mode {
        Mode::Normal => GOOD,
        Mode::Maintenance => WARN,
        Mode::Readonly => BAD,
    };
    Cell::styled(mode, style)
}

/// Says on stderr that the daemon does less than it could. A daemon that has no modes, or does
/// not answer, is no news here.
pub(crate) async fn note_unless_normal(context: &Context) {
    if context.out.quiet {
        return;
    }
    if let Ok(view) = context.client.mode().await
        && view.mode != Mode::Normal
    {
        let reason = view.reason.as_deref().unwrap_or("set by hand");
        context
            .out
            .warn(format!("the daemon is in mode {}: {reason}", view.mode));
    }
}
