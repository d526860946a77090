//! Paths of entries: relative to the root, without `.`, `..` and empty parts.

use super::problem::{Problem, refuse};

/// Longest path the kernel takes, with its end mark.
pub(super) const MAX_PATH: usize = 4096;
/// Longest name in a folder on ext4 and nearly everywhere else.
const MAX_NAME: usize = 255;

/// A place below the root.
#[derive(Debug)]
pub(super) struct Place {
    path: Vec<u8>,
    /// Where the last component starts.
    name: usize,
}

impl Place {
    /// Normalises a path. A leading `/` and `.` parts go, `..` is refused.
    pub(super) fn of(raw: &[u8], depth: usize) -> Result<Self, Problem> {
        if raw.contains(&0) {
            return refuse("its path holds a NUL");
        }
        let mut path = Vec::with_capacity(raw.len());
        let mut name = 0;
        let mut parts = 0;
        for part in raw.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return refuse("its path goes up with .."),
                _ if part.len() > MAX_NAME => {
                    return refuse(format!(
                        "a part of its path is longer than {MAX_NAME} bytes"
                    ));
                }
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            name = path.len();
            path.extend_from_slice(part);
            parts += 1;
        }
        if path.len() >= MAX_PATH {
            return refuse(format!("its path is longer than {MAX_PATH} bytes"));
        }
        if parts > depth {
            return refuse(format!("its path is deeper than {depth} folders"));
        }
        Ok(Self { path, name })
    }

    /// The last component; none for the root itself.
    pub(super) fn name(&self) -> Option<&[u8]> {
        (!self.path.is_empty()).then(|| &self.path[self.name..])
    }

    /// The path of the folder it is in; empty for the root.
    pub(super) fn parent(&self) -> &[u8] {
        &self.path[..self.name.saturating_sub(1)]
    }

    pub(super) fn full(&self) -> &[u8] {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_forms() {
        for (raw, parent, name) in [
            ("a", "", Some("a")),
            ("./a/b", "a", Some("b")),
            ("/etc//passwd/", "etc", Some("passwd")),
            ("./", "", None),
            ("", "", None),
            ("/", "", None),
            ("a/b/c", "a/b", Some("c")),
        ] {
            let place = Place::of(raw.as_bytes(), 10).unwrap();
            assert_eq!(place.parent(), parent.as_bytes(), "{raw}");
            assert_eq!(place.name(), name.map(str::as_bytes), "{raw}");
        }
        for bad in ["..", "a/../b", "a\0b", &"x".repeat(256), &"a/".repeat(11)] {
            assert!(Place::of(bad.as_bytes(), 10).is_err(), "{bad}");
        }
        assert!(Place::of("abc/".repeat(2000).as_bytes(), 100_000).is_err());
    }
}
