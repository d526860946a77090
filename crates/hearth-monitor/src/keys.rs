//! Keys from the bytes that a terminal sends (ECMA-48, and what xterm and the Linux console make
//! of it).
//!
//! ```text
//!            ESC ──► Escape ── [ ──► Sequence ── final byte ──► a key, or none
//!  Ground ──┤           ├── O ──► Single ──── any byte ────► a key, or none
//!            │           ├── other byte ──► none
//!            │           └── nothing more comes ──► the key Escape
//!            └─ other ──► a character, or a control key
//! ```

use crate::update::Key;

/// The longest sequence that is waited for; a longer one is none of ours.
const LONGEST: usize = 32;

/// What a terminal has sent of a key that is not whole yet.
#[derive(Debug, Clone, Default)]
pub struct Keyboard {
    pending: Vec<u8>,
}

/// What the bytes at the front are.
enum Front {
    /// A key, or none, of so many bytes.
    Whole(Option<Key>, usize),
    /// The beginning of one.
    Part,
}

impl Keyboard {
    /// The keys that became whole with these bytes.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        let mut at = 0;
        while at < self.pending.len() {
            match front(&self.pending[at..]) {
                Front::Whole(key, length) => {
                    keys.extend(key);
                    at += length;
                }
                Front::Part if self.pending.len() - at > LONGEST => at += 1,
                Front::Part => break,
            }
        }
        self.pending.drain(..at);
        keys
    }

    /// Whether what was sent may be the beginning of a longer sequence: the key Escape is one
    /// byte that all of those begin with.
    #[must_use]
    pub fn expects_more(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Nothing more came for a while: what is there is all.
    pub fn no_more(&mut self) -> Option<Key> {
        let pending = std::mem::take(&mut self.pending);
        (pending == [ESC]).then_some(Key::Escape)
    }
}

const ESC: u8 = 0x1b;

fn front(bytes: &[u8]) -> Front {
    match bytes {
        [ESC] => Front::Part,
        [ESC, b'[', rest @ ..] => sequence(rest),
        [ESC, b'O'] => Front::Part,
        [ESC, b'O', last, ..] => Front::Whole(named(&[], *last), 3),
        // Escape twice, or Escape and then something else.
        [ESC, ESC, ..] => Front::Whole(Some(Key::Escape), 1),
        [ESC, ..] => Front::Whole(None, 2),
        [byte, ..] if byte.is_ascii() => Front::Whole(plain(*byte), 1),
        _ => character(bytes),
    }
}

/// Parameters (0x30 to 0x3f), intermediates (0x20 to 0x2f), and the final byte.
fn sequence(rest: &[u8]) -> Front {
    // The Linux console's function keys: `ESC [ [ A`.
    if let [b'[', ..] = rest {
        return if rest.len() < 2 {
            Front::Part
        } else {
            Front::Whole(None, 4)
        };
    }
    let parameters = rest.iter().take_while(|byte| (0x20..0x40).contains(*byte));
    let count = parameters.count();
    match rest.get(count) {
        None => Front::Part,
        Some(last) => Front::Whole(named(&rest[..count], *last), count + 3),
    }
}

fn named(parameters: &[u8], last: u8) -> Option<Key> {
    // What comes after `;` are modifiers.
    let number = parameters.split(|byte| *byte == b';').next().unwrap_or(&[]);
    Some(match (last, number) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'H', _) | (b'~', b"1" | b"7") => Key::Home,
        (b'F', _) | (b'~', b"4" | b"8") => Key::End,
        (b'~', b"5") => Key::PageUp,
        (b'~', b"6") => Key::PageDown,
        (b'M', b"") => Key::Enter,
        _ => return None,
    })
}

fn plain(byte: u8) -> Option<Key> {
    Some(match byte {
        0x03 => Key::Interrupt,
        0x08 | 0x7f => Key::Backspace,
        b'\r' | b'\n' => Key::Enter,
        0x15 => Key::Clear,
        byte if byte.is_ascii_control() => return None,
        byte => Key::Char(char::from(byte)),
    })
}

/// The first character of UTF-8; what is none is left out.
fn character(bytes: &[u8]) -> Front {
    let end = bytes.len().min(4);
    match std::str::from_utf8(&bytes[..end]) {
        Ok(text) => first(text),
        Err(error) => {
            let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            match (good.is_empty(), error.error_len()) {
                (false, _) => first(good),
                (true, Some(length)) => Front::Whole(None, length),
                (true, None) if bytes.len() < 4 => Front::Part,
                (true, None) => Front::Whole(None, 1),
            }
        }
    }
}

fn first(text: &str) -> Front {
    let c = text.chars().next();
    Front::Whole(c.map(Key::Char), c.map_or(1, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keyboard = Keyboard::default();
        let mut keys = keyboard.read(bytes);
        keys.extend(keyboard.no_more());
        keys
    }

    #[test]
    fn keys_are_told_from_what_terminals_send() {
        for (bytes, key) in [
            (&b"\x1b[A"[..], Key::Up),
            (b"\x1bOA", Key::Up),
            (b"\x1b[1;2B", Key::Down),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6;5~", Key::PageDown),
            (b"\x1b[H", Key::Home),
            (b"\x1b[1~", Key::Home),
            (b"\x1b[7~", Key::Home),
            (b"\x1bOF", Key::End),
            (b"\x1b[4~", Key::End),
            (b"\x1b", Key::Escape),
            (b"\r", Key::Enter),
            (b"\n", Key::Enter),
            (b"\x7f", Key::Backspace),
            (b"\x08", Key::Backspace),
            (b"\x15", Key::Clear),
            (b"\x03", Key::Interrupt),
            (b"q", Key::Char('q')),
            ("é".as_bytes(), Key::Char('é')),
            ("京".as_bytes(), Key::Char('京')),
            ("👍".as_bytes(), Key::Char('👍')),
        ] {
            assert_eq!(keys(bytes), [key], "{bytes:?}");
        }
    }

    #[test]
    fn what_means_nothing_is_left_out_and_hides_nothing() {
        for bytes in [
            &b"\x1b[15~"[..],
            b"\x1b[[A",
            b"\x1b[?1;2c",
            b"\x1b[<0;10;10M",
            b"\x1bOP",
            b"\x1bx",
            b"\x00",
            b"\xff",
            b"\xc3(",
        ] {
            let all = [bytes, b"q"].concat();
            assert_eq!(keys(&all).last(), Some(&Key::Char('q')), "{bytes:?}");
        }
        assert_eq!(keys(b"\x1b\x1b"), [Key::Escape, Key::Escape]);
        assert_eq!(keys(b"\x1b["), [], "cut off");
        // A sequence without an end holds up nothing for ever.
        let endless = [&b"\x1b["[..], &[b'1'; 200], b"xq"].concat();
        assert_eq!(keys(&endless).last(), Some(&Key::Char('q')));
    }

    #[test]
    fn any_cut_gives_the_same_keys() {
        let bytes = "a\x1b[A京\x1bOB\x1b[6~é\r".as_bytes();
        let whole = keys(bytes);
        assert_eq!(whole.len(), 7);
        for size in 1..bytes.len() {
            let mut keyboard = Keyboard::default();
            let parts = bytes.chunks(size);
            let keys: Vec<Key> = parts.flat_map(|part| keyboard.read(part)).collect();
            assert_eq!(keys, whole, "in chunks of {size}");
            assert!(!keyboard.expects_more());
        }
    }
}
