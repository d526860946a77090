//! The table of VMs: only rows that are on the screen are made.

use hearth_types::api::{Health, VmGlance};
use hearth_types::status::Phase;
use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{put, put_bar};
use crate::model::{Link, Model};
use crate::table::Column;
use crate::text::{cut, fit, right, size, span};
use crate::theme::Theme;

/// From so many columns on the reason has one of its own.
const WIDE: usize = 110;
/// Below so many columns what a VM was given of memory is left out.
const NARROW: usize = 72;

struct Widths {
    name: usize,
    memory: usize,
    restarts: usize,
    reason: usize,
}

fn widths(columns: usize) -> Widths {
    let (memory, restarts) = if columns < NARROW { (5, 4) } else { (11, 8) };
    // The mark, state, health, CPU, uptime, and the spaces between all of them.
    let others = 1 + 9 + 9 + 6 + 6 + 6 + memory + restarts;
    let rest = columns.saturating_sub(others);
    if columns < WIDE {
        return Widths {
            name: rest,
            memory,
            restarts,
            reason: 0,
        };
    }
    let name = (rest / 2).min(32);
    Widths {
        name,
        memory,
        restarts,
        reason: rest - name - 1,
    }
}

pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect, below: Rect) {
    let widths = widths(usize::from(area.width));
    put_bar(buffer, area, 0, &heads(model, &widths), model.theme.bar());
    let now = model.daemon_now();
    for (vm, row) in on_screen(model, area.height).zip(1..) {
        let line = self::row(model, vm, &widths, now);
        put(buffer, area, row, line);
    }
    if model.shown.is_empty() && model.overview.is_some() {
        let text = if model.filter.is_empty() {
            "No VMs. hearth run -d IMAGE makes one.".to_owned()
        } else {
            format!("No VM matches /{}", model.filter)
        };
        put(
            buffer,
            area,
            1,
            Line::raw(cut(&format!(" {text}"), usize::from(area.width))),
        );
    }
    about(model, buffer, below);
}

/// The VMs that a table of this height has lines for, its heads' taken off.
pub(crate) fn on_screen(model: &Model, height: u16) -> impl Iterator<Item = &VmGlance> {
    let rows = usize::from(height.saturating_sub(1));
    model.visible().skip(model.top).take(rows)
}

fn heads(model: &Model, widths: &Widths) -> String {
    let head = |column: Column, width: usize, to_right: bool| {
        let mut word = match column {
            Column::Memory if width < 8 => "MEM".to_owned(),
            Column::Memory => "MEM/OF".to_owned(),
            Column::Restarts if width < 8 => "RST".to_owned(),
            Column::Cpu => "CPU%".to_owned(),
            other => other.as_str().to_uppercase(),
        };
        if model.order.column == column {
            // The longest one is as wide as its column.
            word.truncate(width - 1);
            word.push(if model.order.reversed { '^' } else { 'v' });
        }
        if to_right {
            right(&word, width)
        } else {
            fit(&word, width)
        }
    };
    let mut heads = format!(
        " {} {} {} {} {} {} {}",
        head(Column::Name, widths.name.max(1), false),
        head(Column::State, 9, false),
        head(Column::Health, 9, false),
        head(Column::Cpu, 6, true),
        head(Column::Memory, widths.memory, true),
        head(Column::Uptime, 6, true),
        head(Column::Restarts, widths.restarts, true),
    );
    if widths.reason > 0 {
        heads.push_str(" REASON");
    }
    heads
}

fn row(model: &Model, vm: &VmGlance, widths: &Widths, now: Timestamp) -> Line<'static> {
    let theme = model.theme;
    let chosen = model.chosen == Some(vm.id);
    let (state, style) = state(theme, vm);
    let health = match vm.health {
        Health::None => "-",
        known => known.as_str(),
    };
    let cpu = model.cpu.get(&vm.id);
    let cpu = cpu.map_or_else(|| "-".to_owned(), |share| format!("{share:.1}"));
    let memory = match vm.rss {
        rss if widths.memory < 11 => rss.map_or_else(|| "-".to_owned(), size),
        Some(rss) => format!("{}/{}", size(rss), size(vm.memory)),
        None => format!("-/{}", size(vm.memory)),
    };
    let up = match (vm.started_at, vm.next_start) {
        (Some(at), _) => span(at, now),
        // When it is started next.
        (None, Some(at)) if at > now => format!("in {}", span(now, at)),
        _ => "-".to_owned(),
    };
    let mut spans = vec![
        Span::raw(if chosen { ">" } else { " " }),
        Span::raw(fit(&vm.name, widths.name)),
        Span::raw(" "),
        Span::styled(fit(state, 9), style),
        Span::raw(" "),
        Span::styled(fit(health, 9), of_health(theme, vm.health)),
        Span::raw(format!(
            " {} {} {} {}",
            right(&cpu, 6),
            right(&memory, widths.memory),
            right(&up, 6),
            right(&vm.restarts.to_string(), widths.restarts),
        )),
    ];
    if widths.reason > 0 {
        let reason = vm.reason.as_deref().unwrap_or_default();
        spans.push(Span::raw(format!(" {}", fit(reason, widths.reason))));
    }
    let line = Line::from(spans);
    match (chosen, &model.link) {
        (true, _) => line.patch_style(theme.bar()),
        (false, Link::Lost { .. }) => line.patch_style(theme.faint()),
        (false, _) => line,
    }
}

fn state(theme: Theme, vm: &VmGlance) -> (&'static str, Style) {
    let style = match vm.phase {
        Phase::Running => theme.good(),
        Phase::Failed | Phase::Unknown => theme.bad(),
        Phase::Created | Phase::Exited => Style::new(),
        _ => theme.warn(),
    };
    match vm.phase {
        Phase::Backoff if vm.breaker => ("breaker", theme.bad()),
        phase => (phase.as_str(), style),
    }
}

fn of_health(theme: Theme, health: Health) -> Style {
    match health {
        Health::Healthy => theme.good(),
        Health::Unhealthy => theme.bad(),
        Health::Degraded | Health::Unknown => theme.warn(),
        Health::Starting | Health::None => Style::new(),
    }
}

/// The chosen VM in one line: why it is as it is, or what it is.
fn about(model: &Model, buffer: &mut Buffer, area: Rect) {
    let width = usize::from(area.width);
    let count = match (model.filter.is_empty(), model.shown.len()) {
        (true, shown) => model
            .chosen_row()
            .map_or_else(String::new, |row| format!(" {}/{shown} ", row + 1)),
        (false, shown) => format!(" /{} {shown} found ", cut(&model.filter, 20)),
    };
    let text = model.chosen_vm().map_or_else(String::new, |vm| {
        let held = if vm.held { "held; " } else { "" };
        let said = vm.reason.clone().unwrap_or_else(|| {
            let vcpus = vm.vcpus;
            format!("{}, {vcpus} vCPU, {}", vm.image, size(vm.memory))
        });
        format!(" {}: {held}{said}", vm.name)
    });
    let text = fit(&text, width.saturating_sub(count.len()));
    put_bar(
        buffer,
        area,
        0,
        &format!("{text}{count}"),
        model.theme.faint(),
    );
}
