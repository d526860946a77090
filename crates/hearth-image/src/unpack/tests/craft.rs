//! Tars made byte by byte, so that they can be wrong in every way.

use tar::Header;

/// A tar in the making.
#[derive(Clone, Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The archive with its end mark.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.extend([0; 1024]);
        bytes
    }

    /// The archive without its end mark.
    pub(super) fn unfinished(&self) -> Vec<u8> {
        self.0.clone()
    }

    /// Any entry; `change` may spoil the header before its checksum is taken.
    pub(super) fn raw(
        mut self,
        kind: u8,
        path: &str,
        link: &str,
        data: &[u8],
        change: impl Fn(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_size(data.len() as u64);
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.as_mut_bytes()[156] = kind;
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.data(data)
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, path: &str, data: &str) -> Self {
        self.raw(b'0', path, "", data.as_bytes(), |_| {})
    }

    pub(super) fn dir(self, path: &str) -> Self {
        self.raw(b'5', path, "", b"", |_| {})
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(b'2', path, target, b"", |_| {})
    }

    pub(super) fn hardlink(self, path: &str, target: &str) -> Self {
        self.raw(b'1', path, target, b"", |_| {})
    }

    /// A PAX header for the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', &records_of(records))
    }

    /// A header of kind `x`, `g`, `L` or `K` with any content.
    pub(super) fn extended(self, kind: u8, content: &[u8]) -> Self {
        self.raw(kind, "meta", "", content, |_| {})
    }
}

/// Well-formed PAX records.
pub(super) fn records_of(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length += 1;
        }
        bytes.extend(format!("{length} {key}=").as_bytes());
        bytes.extend(*value);
        bytes.push(b'\n');
    }
    bytes
}
