//! `hearth monitor`: the dashboard's terminal, its requests and its child views.
//!
//! What it knows, what keys do and what it shows is in `hearth_monitor`; here is what acts.
//!
//! ```text
//!  keys, size ──┐                              ┌── draws
//!  feed ────────┼──► Model::update ──► Effect ─┼── asks the daemon (stop, start, recover)
//!  signals ─────┘                              └── leaves the screen to `hearth logs`, `hearth console`
//! ```

mod child;
mod feed;
mod screen;

use std::io::IsTerminal;
use std::time::Duration;

use anstream::ColorChoice;
use clap::Args;
use jiff::Timestamp;

use hearth_client::{ActOptions, Client, ClientError};
use hearth_monitor::{Action, Column, Effect, Model, News, Order, Theme};
use hearth_types::api::StopVm;
use hearth_types::ids::VmId;

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::stdio::{Signals, code_of_signal};
use crate::terminal;
use crate::values;

use feed::Feed;
use screen::{Keys, Screen};

/// Ages and the time to the next try change this often.
const TICK: Duration = Duration::from_secs(1);
/// The daemon is asked no more often, whatever the flag says.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Shows VMs, pool, events and what is under way, on the whole terminal
///
/// Keys: `?` shows them. A daemon that is gone is waited for; what it told last stays, with its age.
#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// Print one picture as plain text, and end
    #[arg(long)]
    once: bool,

    /// How often the daemon is asked: seconds, or with a unit; 1s at least
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// Sort by name, state, health, cpu, memory, uptime or restarts
    #[arg(long, value_name = "COLUMN", default_value = "name", value_parser = column)]
    sort: Column,

    /// The other way round
    #[arg(long)]
    reverse: bool,

    /// Only VMs with this in name, image, state, health or reason
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = values::duration(text)?;
    if interval < LEAST_INTERVAL {
        return Err("the daemon is asked once a second at most".to_owned());
    }
    Ok(interval)
}

fn column(text: &str) -> Result<Column, String> {
    let found = Column::ALL
        .into_iter()
        .find(|column| column.as_str() == text);
    found.ok_or_else(|| {
        let words = Column::ALL.map(Column::as_str);
        format!("expected one of {}", words.join(", "))
    })
}

pub(crate) async fn run(context: &Context, args: MonitorArgs) -> Outcome {
    let mut model = Model::new(theme(), context.out.now);
    model.set_order(Order {
        column: args.sort,
        reversed: args.reverse,
    });
    model.set_filter(args.filter.clone());
    if args.once {
        return once(context, model).await;
    }
    refuse_unfit_terminals()?;
    let mut signals = Signals::ending()?;
    let mut screen = Screen::enter()?;
    let mut feed = Feed::start(&context.client, args.interval);
    let result = watch(context, &mut model, &mut screen, &mut feed, &mut signals).await;
    // What is printed about a failure belongs on the screen that was there before.
    drop(screen);
    if result.is_ok() {
        for refused in feed.finish().await {
            context.out.warn(refused);
        }
    }
    result
}

fn theme() -> Theme {
    // Heeds --no-color, NO_COLOR and what the terminal can do.
    match anstream::AutoStream::choice(&std::io::stdout()) {
        ColorChoice::Never => Theme::Plain,
        _ => Theme::Colour,
    }
}

fn refuse_unfit_terminals() -> Result<(), Failure> {
    let refusal = |message: &str| {
        let hint = "hearth monitor --once prints one picture; hearth ps, events and stats are made for scripts";
        Err(Failure::usage(message).hint(hint))
    };
    if !std::io::stdout().is_terminal() {
        return refusal("Standard output is no terminal: the dashboard needs one");
    }
    if !std::io::stdin().is_terminal() {
        return refusal("Standard input is no terminal: the dashboard needs one for its keys");
    }
    match std::env::var("TERM").as_deref() {
        Err(_) | Ok("") => refusal("TERM is not set: it is not known what the terminal can do"),
        Ok("dumb") => refusal("The terminal (TERM=dumb) cannot move its cursor"),
        Ok(_) => Ok(()),
    }
}

/// Two looks, a second apart: a share of the CPU needs both.
async fn once(context: &Context, mut model: Model) -> Outcome {
    let client = &context.client;
    let now = context.out.now;
    let (overview, orphans) = tokio::join!(client.overview(), client.orphans());
    let overview = overview?;
    let after = feed::tail_after(overview.last_event);
    model.update(News::Overview(Box::new(overview)), now);
    match orphans {
        Ok(orphans) => drop(model.update(News::Orphans(orphans), now)),
        Err(error) => context.out.warn(format!("orphans are not known: {error}")),
    }
    for event in client.events(Some(after), None).await?.items {
        model.update(News::Event(Box::new(event)), now);
    }
    tokio::time::sleep(TICK).await;
    model.update(News::Overview(Box::new(client.overview().await?)), now);
    let columns = terminal::size().cols;
    let text = hearth_monitor::plain(&model, columns);
    context.out.line(text.trim_end())?;
    Ok(exit_codes::OK)
}

/// Until the person leaves or a signal ends it.
async fn watch(
    context: &Context,
    model: &mut Model,
    screen: &mut Screen,
    feed: &mut Feed,
    signals: &mut Signals,
) -> Outcome {
    let mut keys = Keys::new()?;
    let size = terminal::size();
    model.update(News::Size(size.cols, size.rows), Timestamp::now());
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        screen.draw(model)?;
        let news = tokio::select! {
            number = signals.next() => return Err(Failure::silent(code_of_signal(number))),
            key = keys.next() => key?,
            news = feed.next() => news,
            _ = ticks.tick() => News::Tick,
        };
        let effect = model.update(news, Timestamp::now());
        // A burst of events is one frame.
        while let Some(news) = feed.ready() {
            model.update(news, Timestamp::now());
        }
        let Some(effect) = effect else { continue };
        match effect {
            Effect::Quit => return Ok(exit_codes::OK),
            Effect::Look => feed.look(),
            Effect::LookForOrphans => feed.look_for_orphans(),
            Effect::Act { action, vm, name } => {
                let client = context.client.clone();
                feed.tell_when_done(async move { act(&client, action, vm, &name).await });
            }
            Effect::Logs { vm } | Effect::Console { vm } => {
                let view = match effect {
                    Effect::Console { .. } => child::View::Console,
                    _ => child::View::Logs,
                };
                drop(keys);
                let scene = child::Scene {
                    model: &mut *model,
                    screen: &mut *screen,
                    feed: &mut *feed,
                    signals: &mut *signals,
                };
                child::show(context, view, vm, scene).await?;
                keys = Keys::new()?;
            }
        }
    }
}

/// Asks the daemon; what came of it is a sentence.
async fn act(client: &Client, action: Action, vm: VmId, name: &str) -> Result<String, String> {
    let id = vm.to_string();
    let done = match action {
        Action::Stop => {
            let asked = StopVm::default();
            let stop = client.stop_vm(&id, &asked, &ActOptions::default()).await;
            stop.map(|_| format!("{name} is being stopped."))
        }
        Action::Start => {
            let start = client
                .act(&id, hearth_client::Action::Start, &ActOptions::default())
                .await;
            start.map(|_| format!("{name} is being started."))
        }
        Action::Recover { force } => {
            let recovered = client.recover(&id, force).await;
            recovered.map(|done| format!("{name}: {}", done.detail))
        }
    };
    done.map_err(|error| format!("{name}: {}", why(&error)))
}

/// An error in one line: what, and its cause.
fn why(error: &ClientError) -> String {
    let cause = std::error::Error::source(error);
    let hint = error.problem().and_then(|problem| problem.hint.as_ref());
    match (cause, hint) {
        (Some(cause), _) => format!("{error}: {cause}"),
        (None, Some(hint)) => format!("{error} ({hint})"),
        (None, None) => error.to_string(),
    }
}
