//! `hearth events`.

use std::pin::pin;
use std::time::Duration;

use clap::Args;
use futures::TryStreamExt;
use jiff::Timestamp;

use hearth_client::ClientError;
use hearth_types::event::{Event, Severity};
use hearth_types::ids::EventSeq;

use crate::ages::clock;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{BAD, DIM, WARN};
use crate::values;

/// Events asked for at once.
const PAGE: u32 = 500;
/// Between tries to reach a daemon that has gone while its events are followed.
const RETRY: Duration = Duration::from_millis(500);

/// Shows what happened
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens, also through a restart of the daemon
    #[arg(short, long)]
    follow: bool,

    /// Only those after this number (-o wide shows the numbers)
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,

    /// Only those since then: a time (2026-01-31T12:00:00Z) or how long ago (10m)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Since>,

    /// Only the last ones of what is there
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,

    /// Only those about this VM: name or id
    #[arg(long, value_name = "VM")]
    vm: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Since {
    Time(Timestamp),
    Ago(Duration),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Since::Time(time));
    }
    values::duration(text).map(Since::Ago).map_err(|_| {
        "expected a time such as 2026-01-31T12:00:00Z or how long ago such as 10m".to_owned()
    })
}

/// What is to be shown.
struct Filter {
    from: Option<Timestamp>,
    vm: Option<String>,
}

impl Filter {
    fn lets(&self, event: &Event) -> bool {
        let in_time = self.from.is_none_or(|from| event.at >= from);
        let about = self.vm.as_ref().is_none_or(|vm| {
            event.name.as_ref() == Some(vm) || event.vm.is_some_and(|id| id.to_string() == *vm)
        });
        in_time && about
    }
}

pub(crate) async fn run(context: &Context, args: EventsArgs) -> Outcome {
    let mut last = args.after.map(EventSeq);
    let mut filter = Filter {
        from: None,
        vm: args.vm,
    };
    match args.since {
        Some(Since::Time(time)) => filter.from = Some(time),
        Some(Since::Ago(span)) => filter.from = context.out.now.checked_sub(span).ok(),
        None => {}
    }
    let mut held = Vec::new();
    loop {
        let page = context.client.events(last, Some(PAGE)).await?.items;
        let Some(newest) = page.last().map(|event| event.seq) else {
            break;
        };
        // A log that does not move on would be asked for ever.
        if last.is_some_and(|last| newest <= last) {
            break;
        }
        last = Some(newest);
        held.extend(page.into_iter().filter(|event| filter.lets(event)));
        if let Some(tail) = args.tail {
            held.drain(..held.len().saturating_sub(tail));
        } else {
            for event in held.drain(..) {
                show(context, &event)?;
            }
        }
    }
    for event in &held {
        show(context, event)?;
    }
    if args.follow {
        follow(context, last, &filter).await
    } else {
        Ok(exit_codes::OK)
    }
}

/// Shows events until interrupted; a daemon that has gone is waited for.
async fn follow(context: &Context, mut last: Option<EventSeq>, filter: &Filter) -> Outcome {
    let mut lost = false;
    loop {
        match follow_once(context, &mut last, &mut lost, filter).await {
            Ok(()) => {}
            Err(Stopped::Connection(_)) if last.is_some() || lost => {}
            Err(Stopped::Connection(error)) => return Err(error.into()),
            Err(Stopped::Failure(failure)) => return Err(failure),
        }
        if !lost {
            context
                .out
                .note("The connection to hearthd has ended; waiting for it to be back");
            lost = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Why one connection's events ended.
enum Stopped {
    Connection(ClientError),
    Failure(Failure),
}

impl From<ClientError> for Stopped {
    fn from(error: ClientError) -> Self {
        if error.is_connection() {
            Self::Connection(error)
        } else {
            Self::Failure(error.into())
        }
    }
}

async fn follow_once(
    context: &Context,
    last: &mut Option<EventSeq>,
    lost: &mut bool,
    filter: &Filter,
) -> Result<(), Stopped> {
    let mut events = pin!(context.client.follow_events(*last).await?);
    *lost = false;
    while let Some(event) = events.try_next().await? {
        if last.is_none_or(|last| event.seq > last) {
            *last = Some(event.seq);
            if filter.lets(&event) {
                show(context, &event).map_err(Stopped::Failure)?;
            }
        }
    }
    Ok(())
}

fn show(context: &Context, event: &Event) -> Result<(), Failure> {
    let out = &context.out;
    if out.is_json() {
        return out.json_line(event);
    }
    let style = match event.severity {
        Severity::Info => anstyle::Style::new(),
        Severity::Warning => WARN,
        Severity::Error => BAD,
    };
    let text = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).collect() };
    let name = text(event.name.as_deref().unwrap_or("-"));
    let message = text(&event.message);
    let mut line = format!(
        "{DIM}{}{DIM:#} {style}{:<20}{style:#} {name:<16} {message}",
        clock(event.at),
        text(&event.code),
    );
    if out.is_wide() {
        line = format!("#{:<6} {line}", event.seq.0);
        if !event.details.is_null() {
            line = format!("{line} {}", event.details);
        }
    }
    out.line(line)
}
