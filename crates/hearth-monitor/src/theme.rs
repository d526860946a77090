//! Colours, and what stands for them without.

use ratatui::style::{Color, Modifier, Style};

/// How things are set apart. Without colours bold, dim and reversed do it, and no word says
/// something by its colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// The terminal's own sixteen colours.
    Colour,
    /// None.
    Plain,
}

impl Theme {
    const fn paint(self, colour: Color, else_with: Modifier) -> Style {
        match self {
            Self::Colour => Style::new().fg(colour),
            Self::Plain => Style::new().add_modifier(else_with),
        }
    }

    pub(crate) const fn good(self) -> Style {
        self.paint(Color::Green, Modifier::empty())
    }

    pub(crate) const fn warn(self) -> Style {
        self.paint(Color::Yellow, Modifier::BOLD)
    }

    pub(crate) const fn bad(self) -> Style {
        let style = self.paint(Color::Red, Modifier::BOLD);
        style.add_modifier(Modifier::BOLD)
    }

    pub(crate) const fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(crate) const fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The headings' and the chosen row's.
    pub(crate) const fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
