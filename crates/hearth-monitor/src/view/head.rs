//! The first lines, and the last one.

use hearth_types::api::Overview;
use hearth_types::mode::Mode;
use hearth_types::orphan::OrphanState;
use hearth_types::pool::{PoolState, PoolUsage, PoolView};
use hearth_types::status::Phase;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{put, put_bar};
use crate::model::{Link, Model, Page};
use crate::text::{bar, clean, clock, cut, fit, per_cent, right, seconds, size, span};
use crate::theme::Theme;

/// From here on a gauge is worth a look, and from there on it is trouble.
const GAUGE: (u128, u128) = (80, 95);

pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    title(model, buffer, area);
    let width = usize::from(area.width);
    let lost = match &model.link {
        Link::Lost { why, .. } => Some(why.as_str()),
        Link::Connecting | Link::Up => None,
    };
    let Some(overview) = &model.overview else {
        let why = lost.unwrap_or("Asking hearthd ...");
        put(buffer, area, 1, Line::raw(cut(&format!(" {why}"), width)));
        return;
    };
    let second = match lost {
        Some(why) => Line::styled(cut(&format!(" {why}"), width), model.theme.bad()),
        None => state(model, overview),
    };
    put(buffer, area, 1, second);
    put(
        buffer,
        area,
        2,
        pool(model.theme, overview.pool.as_ref(), width),
    );
}

fn title(model: &Model, buffer: &mut Buffer, area: Rect) {
    let width = usize::from(area.width);
    let time = format!("{}Z ", clock(model.daemon_now()));
    let (text, style) = match (&model.link, &model.overview) {
        (Link::Lost { since, again, .. }, _) => {
            let tried = span(model.now, *again);
            let for_how_long = span(*since, model.now);
            let picture = model.told_at.map_or_else(String::new, |told| {
                format!("; this is as of {} ago", span(told, model.now))
            });
            let text =
                format!(" NO ANSWER FROM HEARTHD for {for_how_long}{picture}; next try in {tried}");
            (text, model.theme.bad().patch(model.theme.bar()))
        }
        (_, None) => (" hearth monitor".to_owned(), model.theme.bar()),
        (_, Some(overview)) => (format!(" hearth  {}", counts(overview)), model.theme.bar()),
    };
    let text = fit(&text, width.saturating_sub(time.len()));
    put_bar(buffer, area, 0, &format!("{text}{time}"), style);
}

/// `12 VMs: 9 running, 2 failed, 1 other`.
fn counts(overview: &Overview) -> String {
    let count = |phase: Phase| overview.vms.iter().filter(|vm| vm.phase == phase).count();
    let mut named = Vec::new();
    let mut rest = overview.vms.len();
    for phase in [
        Phase::Running,
        Phase::Failed,
        Phase::Backoff,
        Phase::Paused,
        Phase::Unknown,
        Phase::Exited,
    ] {
        let count = count(phase);
        rest -= count;
        if count > 0 {
            named.push(format!("{count} {}", phase.as_str()));
        }
    }
    if rest > 0 {
        named.push(format!("{rest} other"));
    }
    match overview.vms.len() {
        0 => "no VMs".to_owned(),
        1 => format!("1 VM: {}", named.join(", ")),
        all => format!("{all} VMs: {}", named.join(", ")),
    }
}

fn state(model: &Model, overview: &Overview) -> Line<'static> {
    let theme = model.theme;
    let mut spans = vec![Span::raw(" mode "), mode(theme, overview.mode)];
    spans.push(Span::raw("   breaker "));
    spans.push(match &overview.host_breaker {
        None => Span::raw("closed"),
        Some(_) => Span::styled("OPEN", theme.bad()),
    });
    spans.push(Span::raw("   orphans "));
    spans.push(match &model.orphans {
        None => Span::raw("?"),
        Some(list) => {
            let ours = |state| matches!(state, OrphanState::Unproven);
            let count = list.items.iter().filter(|it| !ours(it.state)).count();
            let style = if count > 0 {
                theme.warn()
            } else {
                Style::new()
            };
            Span::styled(count.to_string(), style)
        }
    });
    let stuck = overview.under_way.iter().filter(|work| work.stuck).count();
    spans.push(Span::raw(format!(
        "   under way {}",
        overview.under_way.len()
    )));
    if stuck > 0 {
        spans.push(Span::styled(format!(" ({stuck} stuck)"), theme.bad()));
    }
    spans.push(Span::raw(format!(
        "   up {}",
        seconds(overview.uptime_secs)
    )));
    // Last, as they are long.
    for reason in overview.mode_reason.iter().chain(&overview.host_breaker) {
        spans.push(Span::raw(format!("   {}", clean(reason))));
    }
    Line::from(spans)
}

fn mode(theme: Theme, mode: Mode) -> Span<'static> {
    match mode {
        Mode::Normal => Span::raw("normal"),
        Mode::Maintenance => Span::styled("MAINTENANCE", theme.warn()),
        Mode::Readonly => Span::styled("READONLY", theme.bad()),
    }
}

fn pool(theme: Theme, pool: Option<&PoolView>, width: usize) -> Line<'static> {
    let Some(pool) = pool else {
        return Line::styled(" pool: it did not say in time how it is", theme.warn());
    };
    let style = match pool.state {
        PoolState::Up => theme.good(),
        PoolState::Absent | PoolState::Unavailable => Style::new(),
        PoolState::Full | PoolState::ReadOnly | PoolState::Failed | PoolState::Damaged => {
            theme.bad()
        }
        _ => theme.warn(),
    };
    let word = pool.state.as_str();
    if let (Some(data), Some(metadata)) = (pool.data, pool.metadata) {
        let mut spans = vec![Span::raw(" pool "), Span::styled(word.to_owned(), style)];
        let wide = if width >= 100 { 20 } else { 12 };
        spans.extend(gauge(theme, "data", data, wide));
        spans.extend(gauge(theme, "meta", metadata, wide.min(width / 10)));
        if let Some(work) = &pool.work {
            spans.push(Span::raw(format!("  {} under way", work.what)));
        }
        if let Some(reason) = &pool.reason {
            spans.push(Span::styled(format!("  {}", clean(reason)), style));
        }
        return Line::from(spans);
    }
    let why = match (pool.state, &pool.reason) {
        (PoolState::Absent, _) => ": none was set up (hearth pool setup makes one)".to_owned(),
        (_, Some(reason)) => format!(": {reason}"),
        (_, None) => String::new(),
    };
    Line::styled(cut(&format!(" pool {word}{why}"), width), style)
}

/// `  data [####----] 52% of 2.0G`.
fn gauge(theme: Theme, name: &str, usage: PoolUsage, columns: usize) -> [Span<'static>; 2] {
    let PoolUsage { used, size: whole } = usage;
    let label = Span::raw(format!("  {name} "));
    let Some(used) = used else {
        return [label, Span::raw(format!("? of {}", size(whole)))];
    };
    let share = per_cent(used, whole);
    let style = match share {
        share if share >= GAUGE.1 => theme.bad(),
        share if share >= GAUGE.0 => theme.warn(),
        _ => Style::new(),
    };
    let text = format!("{} {share}% of {}", bar(used, whole, columns), size(whole));
    [label, Span::styled(text, style)]
}

/// Keys, a notice, or the filter that is typed.
pub(super) fn foot(model: &Model, buffer: &mut Buffer, area: Rect) {
    let width = usize::from(area.width);
    if model.typing {
        let text = format!("/{}_", model.filter);
        let hint = "Enter keeps it, Esc drops it ";
        let room = width.saturating_sub(hint.len());
        let text = format!("{}{}", fit(&text, room), right(hint, hint.len().min(width)));
        return put_bar(buffer, area, 0, &text, Style::new());
    }
    if let Some(notice) = &model.notice {
        let style = if notice.bad {
            model.theme.bad()
        } else {
            model.theme.strong()
        };
        return put_bar(buffer, area, 0, &format!(" {}", notice.text), style);
    }
    let keys = match model.page {
        Page::Vms if model.filter.is_empty() => {
            " ?:help /:filter t:sort Enter:details l:logs c:console s:stop r:recover q:quit"
        }
        Page::Vms => " Esc:show all ?:help t:sort l:logs c:console s:stop r:recover q:quit",
        Page::Detail => " Esc:back l:logs c:console s:stop r:recover ?:help q:quit",
        _ => " Esc:back arrows:scroll ?:help q:quit",
    };
    put_bar(buffer, area, 0, keys, model.theme.bar());
}
