//! Pages of text, and the panes below the VMs that begin them.

use hearth_types::event::{Event, Severity};
use hearth_types::orphan::Orphan;
use hearth_types::pool::PoolOperationState;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{put, put_bar};
use crate::model::{Model, Page};
use crate::text::{clock, cut, fit, size, span, wrap};

const HELP: &[&str] = &[
    "Up, Down, k, j      choose a VM        Enter   all about it, its reason in full",
    "PageUp, PageDown    by the page        g, G    the first, the last one",
    "",
    "/       show only VMs with this in name, image, state, health or reason;",
    "        Enter keeps it, Esc shows all again",
    "t, T    sort by the next column; the other way round",
    "1 to 7  sort by the first to the last column; again: the other way round",
    "",
    "l       what it wrote on its console (hearth logs -f); Ctrl-C comes back",
    "c       its console (hearth console); Ctrl-] comes back",
    "s       stop it cleanly, or start it; after a question",
    "r       start it now if it waits for its restart, after a question",
    "",
    "e  events    w  what is under way    o  orphans    R  look now    q  quit",
    "",
    "CPU% is of one CPU. MEM/OF is what its VMM has, of the memory it was given.",
    "UPTIME of what waits is the time until its next start.",
];

/// All lines of a page.
pub(super) fn lines(model: &Model, page: Page, columns: usize) -> Vec<Line<'static>> {
    match page {
        Page::Vms => Vec::new(),
        Page::Help => HELP
            .iter()
            .map(|text| Line::raw(cut(&format!(" {text}"), columns)))
            .collect(),
        Page::Events => {
            let events = model.events.iter();
            events
                .flat_map(|event| event_in_full(model, event, columns))
                .collect()
        }
        Page::Work => work(model, columns),
        Page::Orphans => orphans(model, columns),
        Page::Detail => detail(model, columns),
    }
}

/// A page below the head: its title and the lines that it is scrolled to.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let lines = lines(model, model.page, usize::from(area.width));
    let room = usize::from(area.height.saturating_sub(1));
    let most = lines.len().saturating_sub(room);
    let scroll = model.scroll.min(most);
    // Events are read from their end.
    let first = if model.page == Page::Events {
        most - scroll
    } else {
        scroll
    };
    let title = match model.page {
        Page::Help => "KEYS",
        Page::Events => "EVENTS",
        Page::Work => "UNDER WAY",
        Page::Orphans => "ORPHANS",
        Page::Detail => "VM",
        Page::Vms => "",
    };
    let part = match lines.len() > room {
        true => format!(
            " ({} to {} of {})",
            first + 1,
            (first + room).min(lines.len()),
            lines.len()
        ),
        false => String::new(),
    };
    put_bar(
        buffer,
        area,
        0,
        &format!(" {title}{part}"),
        model.theme.bar(),
    );
    for (line, row) in lines.into_iter().skip(first).zip(1..area.height) {
        put(buffer, area, row, line);
    }
}

/// The newest events below the VMs, the newest last.
pub(super) fn newest_events(model: &Model, buffer: &mut Buffer, area: Rect) {
    if area.height == 0 {
        return;
    }
    put_bar(buffer, area, 0, " EVENTS (e: all)", model.theme.bar());
    let room = usize::from(area.height - 1);
    let skip = model.events.len().saturating_sub(room);
    for (event, row) in model.events.iter().skip(skip).zip(1..area.height) {
        let line = event_in_short(model, event, usize::from(area.width));
        put(buffer, area, row, line);
    }
    if model.events.is_empty() {
        put(buffer, area, 1, Line::raw(" None yet."));
    }
}

/// What is being done, below the VMs.
pub(super) fn under_way(model: &Model, buffer: &mut Buffer, area: Rect) {
    if area.height == 0 {
        return;
    }
    put_bar(buffer, area, 0, " UNDER WAY (w: all)", model.theme.bar());
    let lines = work(model, usize::from(area.width));
    for (line, row) in lines.into_iter().zip(1..area.height) {
        put(buffer, area, row, line);
    }
}

fn of_event(model: &Model, event: &Event) -> Style {
    match event.severity {
        Severity::Info => Style::new(),
        Severity::Warning => model.theme.warn(),
        Severity::Error => model.theme.bad(),
    }
}

/// `!` and `*` tell errors and warnings without colours.
const fn mark(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => " ",
        Severity::Warning => "*",
        Severity::Error => "!",
    }
}

/// What an event says, with its VM's name if that is not said.
fn sentence(model: &Model, event: &Event) -> String {
    let by_id = || event.vm.map(|vm| model.name_of(vm));
    match event.name.clone().or_else(by_id) {
        Some(name) if !event.message.contains(&name) => format!("{name}: {}", event.message),
        _ => event.message.clone(),
    }
}

fn event_in_short(model: &Model, event: &Event, columns: usize) -> Line<'static> {
    let text = sentence(model, event);
    let head = format!("{}{} ", mark(event.severity), clock(event.at));
    let room = columns.saturating_sub(head.len());
    Line::from(vec![
        Span::styled(head, model.theme.faint()),
        Span::styled(cut(&text, room), of_event(model, event)),
    ])
}

fn event_in_full(model: &Model, event: &Event, columns: usize) -> Vec<Line<'static>> {
    let head = format!("{}{} ", mark(event.severity), clock(event.at));
    let text = format!("{} {}", event.code, sentence(model, event));
    let indent = head.len();
    let parts = wrap(&text, columns.saturating_sub(indent));
    let first = |at: usize| {
        if at == 0 {
            head.clone()
        } else {
            " ".repeat(indent)
        }
    };
    let lines = parts.into_iter().enumerate().map(|(at, part)| {
        Line::from(vec![
            Span::styled(first(at), model.theme.faint()),
            Span::styled(part, of_event(model, event)),
        ])
    });
    lines.collect()
}

fn work(model: &Model, columns: usize) -> Vec<Line<'static>> {
    let now = model.daemon_now();
    let all = model.overview.as_ref().map_or(&[][..], |it| &it.under_way);
    let pool = model.overview.as_ref().and_then(|it| it.pool.as_ref());
    let line = |what: &str, object: &str, since| {
        format!(" {:>5} {} {object}", span(since, now), fit(what, 18))
    };
    let mut lines = Vec::new();
    if let Some(work) = pool.and_then(|pool| pool.work.as_ref()) {
        let text = line(&work.what, "the thin pool", work.since);
        lines.push(Line::raw(cut(&text, columns)));
    }
    for operation in pool.iter().flat_map(|pool| &pool.operations) {
        let stuck = operation.state == PoolOperationState::Stuck;
        let style = if stuck {
            model.theme.bad()
        } else {
            Style::new()
        };
        let state = operation.state.as_str();
        let state = if stuck {
            state.to_uppercase()
        } else {
            state.to_owned()
        };
        let object = format!("{}, {state}", operation.operation);
        let text = line("device-mapper", &object, operation.since);
        lines.push(Line::styled(cut(&text, columns), style));
    }
    for work in all {
        let of = work.vm.as_ref().map(|vm| format!(" of {vm}"));
        let stuck = if work.stuck { ", STUCK" } else { "" };
        let object = format!("{}{}{stuck}", work.object, of.unwrap_or_default());
        let style = if work.stuck {
            model.theme.bad()
        } else {
            Style::new()
        };
        let text = line(&work.what, &object, work.since);
        lines.push(Line::styled(cut(&text, columns), style));
    }
    if lines.is_empty() {
        lines.push(Line::raw(" Nothing."));
    }
    lines
}

fn orphans(model: &Model, columns: usize) -> Vec<Line<'static>> {
    let Some(list) = &model.orphans else {
        return vec![Line::raw(" Looking at the host ...")];
    };
    let mut lines = Vec::new();
    for orphan in &list.items {
        lines.push(Line::styled(
            cut(&orphan_head(orphan), columns),
            model.theme.strong(),
        ));
        let text = format!("{}; {}", orphan.reason, orphan.fate.why);
        let parts = wrap(&text, columns.saturating_sub(4));
        lines.extend(
            parts
                .into_iter()
                .map(|part| Line::raw(format!("    {part}"))),
        );
    }
    for unknown in &list.unknown {
        let parts = wrap(
            &format!("could not be looked at: {unknown}"),
            columns.saturating_sub(1),
        );
        let style = model.theme.warn();
        lines.extend(
            parts
                .into_iter()
                .map(|part| Line::styled(format!(" {part}"), style)),
        );
    }
    if lines.is_empty() {
        lines.push(Line::raw(
            " None: all that is ours is wanted, and all that is wanted is there.",
        ));
    }
    lines
}

fn orphan_head(orphan: &Orphan) -> String {
    let name = orphan.name.as_ref().map(|name| format!(" of {name}"));
    let bytes = orphan.bytes.map(|bytes| format!(", {}", size(bytes)));
    format!(
        " {}{}{}",
        orphan.object,
        name.unwrap_or_default(),
        bytes.unwrap_or_default()
    )
}

fn detail(model: &Model, columns: usize) -> Vec<Line<'static>> {
    let Some(vm) = model.chosen_vm() else {
        return vec![Line::raw(" It is gone, or the filter hides it.")];
    };
    let now = model.daemon_now();
    let dash = || "-".to_owned();
    let share = model.cpu.get(&vm.id);
    let share = share.map(|share| format!("{share:.1}% of one CPU, "));
    let cpu = vm.cpu_millis.map_or_else(dash, |millis| {
        format!("{}{}s used", share.unwrap_or_default(), millis / 1000)
    });
    let rss = vm.rss.map(|rss| format!("{} of ", size(rss)));
    let next = vm.next_start.map(|at| format!("in {}", span(now, at)));
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let fields = [
        ("name", vm.name.clone()),
        ("id", vm.id.to_string()),
        ("image", vm.image.clone()),
        ("state", vm.phase.as_str().to_owned()),
        ("health", vm.health.as_str().to_owned()),
        ("vCPUs", vm.vcpus.to_string()),
        ("CPU", cpu),
        (
            "memory",
            format!("{}{}", rss.unwrap_or_default(), size(vm.memory)),
        ),
        ("up", vm.started_at.map_or_else(dash, |at| span(at, now))),
        ("restarts", vm.restarts.to_string()),
        ("next start", next.unwrap_or_else(dash)),
        (
            "breaker",
            if vm.breaker { "open" } else { "closed" }.to_owned(),
        ),
        ("held", yes(vm.held)),
        ("reason", vm.reason.clone().unwrap_or_else(dash)),
    ];
    let mut lines = Vec::new();
    for (name, value) in fields {
        for (at, part) in wrap(&value, columns.saturating_sub(13))
            .into_iter()
            .enumerate()
        {
            let name = if at == 0 { name } else { "" };
            lines.push(Line::raw(format!(" {name:<11} {part}")));
        }
    }
    lines.push(Line::raw(""));
    let own = model.events.iter().filter(|event| event.vm == Some(vm.id));
    lines.extend(own.flat_map(|event| event_in_full(model, event, columns)));
    lines
}
