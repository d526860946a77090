//! The person's terminal: raw mode, size, and what changes it.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use hearth_types::api::WindowSize;

/// Raw mode on stdin for as long as the value lives.
///
/// ```text
/// cooked ── enter ──► raw ── drop (return, error, panic's unwinding) ──► cooked
/// ```
///
/// Signals that would end the process without unwinding are caught by those who hold it.
pub(crate) struct RawMode {
    saved: Termios,
}

impl RawMode {
    /// Switches stdin to raw mode; `None` when it is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let saved = tcgetattr(&stdin)?;
        let mut raw = saved.clone();
        raw.make_raw();
        let guard = Self { saved };
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone by now: then there is nothing to restore.
        tcsetattr(io::stdin(), OptionalActions::Drain, &self.saved).ok();
    }
}

/// The size of the terminal, or 24 × 80 when there is none.
pub(crate) fn size() -> WindowSize {
    tcgetwinsize(io::stdout())
        .or_else(|_| tcgetwinsize(io::stdin()))
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
        .map_or(WindowSize { rows: 24, cols: 80 }, |size| WindowSize {
            rows: size.ws_row,
            cols: size.ws_col,
        })
}
