//! Where words go: data to stdout, talk to stderr.
//!
//! Colours pass through `anstream`, which drops them when the stream is no terminal,
//! when `NO_COLOR` is set, or with `--no-color`.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use crate::failure::Failure;
use crate::table::Table;

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// How data is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns, nothing shortened.
    Wide,
    /// The API's objects.
    Json,
}

/// What every command prints through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// How data is shown.
    pub(crate) format: Format,
    /// Only names or ids, no talk.
    pub(crate) quiet: bool,
    /// The time that ages are counted from.
    pub(crate) now: Timestamp,
}

impl Output {
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub(crate) fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// One line of data.
    pub(crate) fn line(&self, text: impl std::fmt::Display) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(|e| Failure::output(&e))
    }

    /// An object of the API.
    pub(crate) fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        self.line(to_json(value, true)?)
    }

    /// An object of the API in one line, for streams.
    pub(crate) fn json_line<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        self.line(to_json(value, false)?)
    }

    /// A table.
    pub(crate) fn table(&self, table: &Table) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        write!(out, "{table}")
            .and_then(|()| out.flush())
            .map_err(|e| Failure::output(&e))
    }

    /// A word to the person, unless they asked for quiet.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            stderr(&text.to_string());
        }
    }

    /// Something that may surprise.
    pub(crate) fn warn(&self, text: impl std::fmt::Display) {
        stderr(&format!("{WARN}warning:{WARN:#} {text}"));
    }
}

fn to_json<T: Serialize + ?Sized>(value: &T, pretty: bool) -> Result<String, Failure> {
    let text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    text.map_err(|e| Failure::because(crate::exit_codes::FAILURE, "Cannot write JSON", &e))
}

/// An `error:` line.
pub(crate) fn error(text: &str) {
    stderr(&format!("{ERROR}error:{ERROR:#} {text}"));
}

/// A `hint:` line.
pub(crate) fn hint(text: &str) {
    stderr(&format!("{HINT}hint:{HINT:#} {text}"));
}

/// One line on stderr.
pub(crate) fn stderr(text: &str) {
    // When nobody listens on stderr there is nobody to tell that, either.
    drop(writeln!(anstream::stderr().lock(), "{text}"));
}
