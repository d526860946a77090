//! Widths, ages, sizes; what a name may not do to the screen.

use jiff::Timestamp;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Without what moves the cursor, turns the direction of writing or cannot be seen: names and
/// reasons come from guests and files.
pub(crate) fn clean(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.chars()
        .map(|c| if c == '\n' || c == '\t' { ' ' } else { c })
        .filter(|c| !c.is_control() && !turns(*c))
        .collect()
}

/// Cut to a number of columns, with `~` where something is missing, and filled up with spaces.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    let mut cut = cut(text, columns);
    let fill = columns.saturating_sub(cut.width());
    cut.extend(std::iter::repeat_n(' ', fill));
    cut
}

/// Cut to a number of columns, with `~` where something is missing.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    let text = clean(text);
    if text.width() <= columns {
        return text;
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        kept.push(c);
    }
    if columns > 0 {
        kept.push('~');
    }
    kept
}

/// To the right of a number of columns.
pub(crate) fn right(text: &str, columns: usize) -> String {
    let cut = cut(text, columns);
    let fill = columns.saturating_sub(cut.width());
    format!("{}{cut}", " ".repeat(fill))
}

/// In lines of so many columns at most, cut between words where there are any.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let text = clean(text);
    let mut lines = Vec::new();
    let mut line = String::new();
    for mut word in text.split_whitespace() {
        if !line.is_empty() && line.width() + 1 + word.width() > columns {
            lines.push(std::mem::take(&mut line));
        }
        while word.width() > columns {
            let (head, rest) = word.split_at(prefix(word, columns));
            lines.push(head.to_owned());
            word = rest;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// How many bytes of a word take so many columns at most; one character at least.
fn prefix(word: &str, columns: usize) -> usize {
    let mut used = 0;
    for (at, c) in word.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns && at > 0 {
            return at;
        }
    }
    word.len()
}

/// A time between two moments in at most four characters: `5s`, `12m`, `3h`, `45d`, `2y`.
pub(crate) fn span(from: Timestamp, to: Timestamp) -> String {
    seconds(to.duration_since(from).as_secs().max(0).unsigned_abs())
}

/// The same for a number of seconds.
pub(crate) fn seconds(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs}s"),
        120..7200 => format!("{}m", secs / 60),
        7200..172_800 => format!("{}h", secs / 3600),
        172_800..86_400_000 => format!("{}d", secs / 86_400),
        _ => format!("{}y", secs / 31_536_000),
    }
}

/// Hours, minutes and seconds of a moment, UTC.
pub(crate) fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// A size in at most five characters: `512K`, `1.5G`, `1023M`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "K", "M", "G", "T", "P"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let name = UNITS[unit];
    if unit > 1 && tenths < 100 {
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    } else {
        format!("{}{name}", tenths / 10)
    }
}

/// A bar of so many columns that is this far full, such as `[####----]`.
pub(crate) fn bar(part: u64, whole: u64, columns: usize) -> String {
    let inner = columns.saturating_sub(2);
    let room = u128::try_from(inner).unwrap_or_default();
    let filled = u128::from(part) * room / u128::from(whole.max(1));
    let filled = usize::try_from(filled).unwrap_or(inner).min(inner);
    format!("[{}{}]", "#".repeat(filled), "-".repeat(inner - filled))
}

/// Full per cents of a whole.
pub(crate) fn per_cent(part: u64, whole: u64) -> u128 {
    u128::from(part) * 100 / u128::from(whole.max(1))
}
