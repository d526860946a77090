//! Tables without borders, as docker prints them.
//!
//! Cells are padded by the width a terminal gives them, so that colour and wide characters
//! do not move columns. Nothing is wrapped or cut: lines stay fit for `grep` and `awk`.

use std::fmt;

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use crate::output::BOLD;

/// Spaces between columns.
const GAP: usize = 3;

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn styled(text: impl fmt::Display, style: Style) -> Self {
        // What a guest or registry named must not steer the terminal.
        let text = text
            .to_string()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Self { text, style }
    }

    /// The same with more text at its end.
    pub(crate) fn and(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }
}

impl<T: fmt::Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// Rows of cells under a header.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|h| Cell::styled(h, BOLD)).collect();
        Self { rows: vec![header] }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        for row in &self.rows {
            let last = row.iter().rposition(|c| !c.text.is_empty()).unwrap_or(0);
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate().take(last + 1) {
                let Cell { text, style } = cell;
                write!(f, "{style}{text}{style:#}")?;
                if index < last {
                    let pad = width - text.width() + GAP;
                    write!(f, "{:pad$}", "")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::GOOD;

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let mut table = Table::new(&["NAME", "STATE", "NOTE"]);
        table.row(vec!["a".into(), Cell::styled("running", GOOD), "".into()]);
        table.row(vec!["日本".into(), "x\u{1b}[2J".into(), "n".into()]);
        let plain = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert_eq!(
            plain,
            "NAME   STATE     NOTE\na      running\n日本   x [2J     n\n"
        );
    }
}
