//! The last whole line of a stream, kept in a file for whoever wants to know.
//!
//! As with a log, the VM must not suffer: what cannot be written is lost.

/// Longest line that is kept, in bytes. Figures of a VMM with many devices have some 20 KiB.
const LINE_MAX: usize = 256 << 10;

/// Collects lines and keeps the newest.
#[derive(Debug)]
pub(crate) struct Latest {
    path: &'static str,
    line: Vec<u8>,
    overlong: bool,
}

impl Latest {
    /// Keeps the newest line in the file `path` of the working folder.
    pub(crate) fn new(path: &'static str) -> Self {
        // What the run before has said is not true any more.
        drop(std::fs::remove_file(path));
        Self {
            path,
            line: Vec::new(),
            overlong: false,
        }
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.overlong) && !line.is_empty() {
                    self.keep(&line);
                }
            } else if self.line.len() < LINE_MAX {
                self.line.push(byte);
            } else {
                self.overlong = true;
            }
        }
    }

    /// A reader sees the old line or the new one.
    fn keep(&self, line: &[u8]) {
        let draft = format!("{}.new", self.path);
        let written =
            std::fs::write(&draft, line).and_then(|()| std::fs::rename(&draft, self.path));
        if written.is_err() {
            drop(std::fs::remove_file(draft));
        }
    }
}
