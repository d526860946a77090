//! The frame.
//!
//! ```text
//!  hearth, VMs by state, clock          1 line   (or: since when the daemon does not answer)
//!  mode, breaker, orphans, under way    1 line   (or: why it does not)
//!  pool: state, data, metadata          1 line
//!  column heads                         1 line
//!  VMs, those on the screen only        what is left
//!  the chosen VM                        1 line
//!  under way                            from 32 rows on: 4 lines
//!  events                               from 16 rows on: 6 lines
//!  keys, or a notice                    1 line
//! ```
//! All of it is ASCII but what others have named, so that it looks the same over any line.

mod head;
mod pages;
mod popup;
pub(crate) mod vms;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::{Frame, TerminalOptions, Viewport};

use crate::model::{Model, Page};
use crate::text;

/// The smallest screen that anything can be read on.
const LEAST: (u16, u16) = (40, 8);
const HEAD: u16 = 3;
/// The most lines that are no VMs.
const AROUND: u16 = HEAD + 1 + 1 + 4 + 8 + 1;

/// Where things are.
struct Areas {
    head: Rect,
    /// Column heads and rows.
    table: Rect,
    chosen: Rect,
    work: Rect,
    events: Rect,
    foot: Rect,
}

fn areas(whole: Rect) -> Areas {
    let work = if whole.height >= 32 { 4 } else { 0 };
    let events = match whole.height {
        0..16 => 0,
        16..32 => 6,
        _ => 8,
    };
    let heights = [
        Constraint::Length(HEAD),
        Constraint::Min(2),
        Constraint::Length(1),
        Constraint::Length(work),
        Constraint::Length(events),
        Constraint::Length(1),
    ];
    let [head, table, chosen, work, events, foot] = Layout::vertical(heights).areas(whole);
    Areas {
        head,
        table,
        chosen,
        work,
        events,
        foot,
    }
}

/// Rows of the table on a screen of this size.
pub(crate) fn table_rows(columns: u16, rows: u16) -> usize {
    let table = areas(Rect::new(0, 0, columns, rows)).table;
    usize::from(table.height.saturating_sub(1))
}

/// Lines of the page that is shown, and those that fit on the screen.
pub(crate) fn page_length(model: &Model) -> (usize, usize) {
    let (columns, rows) = model.size;
    // Its title and the foot are on the screen, too.
    let room = usize::from(rows.saturating_sub(HEAD + 2));
    let lines = match model.page {
        Page::Vms => 0,
        page => pages::lines(model, page, usize::from(columns)).len(),
    };
    (lines, room)
}

/// Draws the dashboard.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let whole = frame.area();
    let buffer = frame.buffer_mut();
    if whole.width < LEAST.0 || whole.height < LEAST.1 {
        let (columns, rows) = LEAST;
        let text = format!("At least {columns} x {rows} are needed");
        put(
            buffer,
            whole,
            0,
            Line::raw(text::cut(&text, usize::from(whole.width))),
        );
        return;
    }
    let areas = areas(whole);
    head::draw(model, buffer, areas.head);
    if model.page == Page::Vms {
        vms::draw(model, buffer, areas.table, areas.chosen);
        pages::under_way(model, buffer, areas.work);
        pages::newest_events(model, buffer, areas.events);
    } else {
        let height = whole.height - HEAD - 1;
        let body = Rect::new(whole.x, whole.y + HEAD, whole.width, height);
        pages::draw(model, buffer, body);
    }
    head::foot(model, buffer, areas.foot);
    if let Some(question) = &model.question {
        popup::draw(model.theme, question, buffer, whole);
    }
}

/// The dashboard as text with no end of its rows cut: each VM has its line, and lines have no
/// spaces at their ends. For scripts and logs.
#[must_use]
pub fn plain(model: &Model, columns: u16) -> String {
    let mut model = model.clone();
    let rows = u16::try_from(model.shown.len()).unwrap_or(u16::MAX);
    // Under way and events have their most lines from here on.
    let height = rows.min(u16::MAX - AROUND).saturating_add(AROUND).max(32);
    model.update(crate::News::Size(columns, height), model.now);
    model.chosen = None;
    let text = text_of(&model, columns, height);
    let lines: Vec<&str> = text.lines().collect();
    // The last one tells keys, and nobody is there to press any.
    let body = lines.split_last().map_or(&[][..], |(_, body)| body);
    let mut kept: Vec<&str> = Vec::new();
    for line in body {
        // What was left for more VMs.
        if !line.is_empty() || kept.last().is_some_and(|last| !last.is_empty()) {
            kept.push(line);
        }
    }
    while kept.last().is_some_and(|last| last.is_empty()) {
        kept.pop();
    }
    kept.join("\n") + "\n"
}

/// A whole frame as text.
pub(crate) fn text_of(model: &Model, columns: u16, rows: u16) -> String {
    let viewport = Viewport::Fixed(Rect::new(0, 0, columns, rows));
    let options = TerminalOptions { viewport };
    let backend = TestBackend::new(columns, rows);
    let Ok(mut terminal) = Terminal::with_options(backend, options);
    let Ok(frame) = terminal.draw(|frame| draw(model, frame));
    lines_of(frame.buffer)
}

fn lines_of(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut skip = 0;
        for x in 0..buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            // The cell behind a wide character holds nothing of its own.
            if skip == 0 {
                line.push_str(symbol);
            }
            let width = unicode_width::UnicodeWidthStr::width(symbol);
            skip = std::cmp::max(skip, width).saturating_sub(1);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Writes a line into a row of an area, if there is such a row.
fn put(buffer: &mut Buffer, area: Rect, row: u16, line: Line<'_>) {
    if row < area.height {
        buffer.set_line(area.x, area.y + row, &line, area.width);
    }
}

/// Writes a line over the whole width, such as a title.
fn put_bar(buffer: &mut Buffer, area: Rect, row: u16, text: &str, style: Style) {
    let filled = text::fit(text, usize::from(area.width));
    put(buffer, area, row, Line::styled(filled, style));
}
