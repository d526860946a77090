//! A question in the middle of the screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::put;
use crate::model::Question;
use crate::text::{fit, wrap};
use crate::theme::Theme;
use crate::update::Action;

pub(super) fn draw(theme: Theme, question: &Question, buffer: &mut Buffer, whole: Rect) {
    let name = &question.name;
    let (asks, keys): (String, &[&str]) = match question.action {
        Action::Stop => (
            format!(
                "Stop {name}? Its guest is asked to shut down; it stays stopped until somebody starts it."
            ),
            &["y: stop it", "any other key: leave it"],
        ),
        Action::Start => (
            format!("Start {name}? It does not run."),
            &["y: start it", "any other key: leave it"],
        ),
        Action::Recover { .. } => (
            format!("Recover {name}? It is started now if it waits for its restart."),
            &[
                "y: start it",
                "f: also if its breaker or restart policy keeps it down",
                "any other key: leave it",
            ],
        ),
    };
    let width = whole.width.saturating_sub(4).min(64);
    let inner = usize::from(width.saturating_sub(4));
    let mut lines = wrap(&asks, inner);
    lines.push(String::new());
    lines.extend(keys.iter().map(|key| (*key).to_owned()));
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    let height = height.min(whole.height);
    let area = Rect::new(
        whole.x + (whole.width - width) / 2,
        whole.y + (whole.height - height) / 2,
        width,
        height,
    );
    let edge = format!("+{}+", "-".repeat(usize::from(width.saturating_sub(2))));
    buffer.set_style(area, ratatui::style::Style::reset());
    put(buffer, area, 0, Line::styled(edge.clone(), theme.strong()));
    for (line, row) in lines.iter().zip(1..height.saturating_sub(1)) {
        let text = format!("| {} |", fit(line, inner));
        put(buffer, area, row, Line::styled(text, theme.strong()));
    }
    put(buffer, area, height - 1, Line::styled(edge, theme.strong()));
}
