//! PAX records: `LENGTH key=value\n`, where a value may hold anything.

/// What Hearth takes from an extended header. Unknown keys are ignored, bad values of known
/// ones refused.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse_name: Option<Vec<u8>>,
    pub(crate) sparse_size: Option<u64>,
    pub(crate) sparse_major: Option<u64>,
    pub(crate) sparse_minor: Option<u64>,
    /// A key of the older sparse formats 0.0 and 0.1.
    pub(crate) sparse_old: bool,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Records {
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = split(bytes).ok_or("a PAX record is malformed")?;
            bytes = rest;
            let equals = record
                .iter()
                .position(|b| *b == b'=')
                .filter(|at| *at > 0)
                .ok_or("a PAX record has no key")?;
            records.take(&record[..equals], &record[equals + 1..])?;
        }
        Ok(records)
    }

    /// A global header may only hold what Hearth ignores: tools disagree about the rest.
    pub(crate) fn check_global(&self) -> Result<(), String> {
        let honoured = self.path.is_some()
            || self.link.is_some()
            || self.size.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || self.sparse_name.is_some()
            || self.sparse_size.is_some()
            || !self.xattrs.is_empty();
        if honoured {
            return Err("a global PAX header sets names, sizes, owners or attributes".to_owned());
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let bad = || {
            format!(
                "PAX record {:?} has a bad value",
                String::from_utf8_lossy(key)
            )
        };
        let number = || decimal(value).ok_or_else(bad);
        let name = || {
            let fits = !value.is_empty() && !value.contains(&0);
            fits.then(|| value.to_vec()).ok_or_else(bad)
        };
        match key {
            b"path" => self.path = Some(name()?),
            b"linkpath" => self.link = Some(name()?),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(bad)?),
            b"GNU.sparse.name" => self.sparse_name = Some(name()?),
            b"GNU.sparse.realsize" => self.sparse_size = Some(number()?),
            b"GNU.sparse.major" => self.sparse_major = Some(number()?),
            b"GNU.sparse.minor" => self.sparse_minor = Some(number()?),
            _ if key.starts_with(b"GNU.sparse.") => self.sparse_old = true,
            _ => {
                if let Some(attribute) = key.strip_prefix(XATTR) {
                    if attribute.is_empty() || attribute.contains(&0) {
                        return Err(bad());
                    }
                    // The last of several records for one name holds.
                    self.xattrs.retain(|(name, _)| name != attribute);
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The first record without its length and newline, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return None;
    }
    Some((&bytes[space + 1..length - 1], &bytes[length..]))
}

/// A decimal number without sign or blanks.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`, towards the past for negative times, digits after the ninth cut.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let nanos = (0..9).fold(0_u32, |sum, at| {
        sum * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'))
    });
    if !negative {
        return Some((seconds, nanos));
    }
    if nanos == 0 {
        return Some((-seconds, 0));
    }
    Some((-seconds - 1, 1_000_000_000 - nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_newlines_and_equals_survive() {
        let records = Records::parse(b"30 SCHILY.xattr.user.a=x\ny=z\0\n14 path=a=b/c\n9 foo=ba\n");
        let records = records.unwrap();
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), b"x\ny=z\0".to_vec())]);
        assert_eq!(records.path.as_deref(), Some(&b"a=b/c"[..]));
    }

    #[test]
    fn bad_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"99 path=a\n",
            b"0 path=a\n",
            b"x path=a\n",
            b"4 =\n\n",
            b"8 path=\n",
            b"10 path=a\0\n",
            b"11 size=-1\n",
            b"11 size=0x\n",
            b"12 mtime=x\n",
            b"14 mtime=1.x\n",
            b"18446744073709551616 path=a\n",
        ] {
            assert!(
                Records::parse(bad).is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn times() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("12.5", 12, 500_000_000),
            ("12.1234567899", 12, 123_456_789),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("7.", 7, 0),
        ] {
            assert_eq!(time(text.as_bytes()), Some((seconds, nanos)), "{text}");
        }
    }
}
