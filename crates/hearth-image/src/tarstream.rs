//! A tar stream, entry by entry, without trust.
//!
//! The `tar` crate reads the fields of single headers; the walk over the stream is ours, so
//! that long names, PAX records and sparse maps are bounded before they are read, values that
//! hold newlines survive, and everything that other tools disagree about is refused.

mod pax;
mod sparse;

use std::io::{self, BufRead};

use tar::{EntryType, Header};

pub(crate) use pax::Records;
pub(crate) use sparse::Segment;

const BLOCK: usize = 512;
const BLOCK_U64: u64 = 512;

/// A stream that cannot be read on.
#[derive(Debug)]
pub(crate) enum TarError {
    /// The source failed or ended too early.
    Io(io::Error),
    /// An entry is refused.
    Refused { entry: String, why: String },
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
}

/// One entry, names as the archive has them.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Size of the file in bytes, holes included.
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes, if not simply from the start to the end.
    pub(crate) sparse: Option<Vec<Segment>>,
    /// Where the entry's data starts in the stream.
    pub(crate) offset: u64,
}

/// The walk over a stream.
pub(crate) struct TarStream<R> {
    reader: R,
    /// Bytes consumed of the stream.
    position: u64,
    /// Data of the current entry not yet read.
    data: u64,
    /// Zeros after it up to the next block.
    padding: u64,
    /// Most bytes of headers for one entry.
    limit: u64,
}

impl<R: BufRead> TarStream<R> {
    /// `limit` bounds the bytes of headers in front of one entry.
    pub(crate) fn new(reader: R, limit: u64) -> Self {
        Self {
            reader,
            position: 0,
            data: 0,
            padding: 0,
            limit,
        }
    }

    /// The next entry, or none at the end of the archive. What is left of the current one is
    /// skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip()?;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        let mut records: Option<Records> = None;
        let mut budget = self.limit;
        loop {
            let Some(header) = self.header()? else {
                if long_name.is_some() || long_link.is_some() || records.is_some() {
                    return Err(refused(
                        long_name.as_deref().unwrap_or_default(),
                        "the archive ends after a header that announces an entry",
                    ));
                }
                return Ok(None);
            };
            let name = header.path_bytes();
            let size = header
                .entry_size()
                .map_err(|_| refused(&name, "its size is not a number"))?;
            let slot = match header.entry_type() {
                EntryType::GNULongName => &mut long_name,
                EntryType::GNULongLink => &mut long_link,
                EntryType::XHeader => {
                    if records.is_some() {
                        return Err(refused(&name, "two PAX headers for one entry"));
                    }
                    let bytes = self.metadata(&name, size, &mut budget)?;
                    records = Some(Records::parse(&bytes).map_err(|why| refused(&name, why))?);
                    continue;
                }
                EntryType::XGlobalHeader => {
                    let bytes = self.metadata(&name, size, &mut budget)?;
                    let records = Records::parse(&bytes).map_err(|why| refused(&name, why))?;
                    records.check_global().map_err(|why| refused(&name, why))?;
                    continue;
                }
                _ => {
                    let records = records.unwrap_or_default();
                    return self
                        .entry(&header, long_name, long_link, records, budget)
                        .map(Some);
                }
            };
            if slot.is_some() {
                return Err(refused(&name, "two long names for one entry"));
            }
            let mut bytes = self.metadata(&name, size, &mut budget)?;
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            bytes.truncate(end);
            *slot = Some(bytes);
        }
    }

    /// Hands the current entry's data to `sink`, piece by piece with its offset in the file.
    /// The outer result is the stream's, the inner one the sink's.
    pub(crate) fn data(
        &mut self,
        entry: &Entry,
        sink: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>, TarError> {
        let whole = [Segment {
            offset: 0,
            length: entry.size,
        }];
        for segment in entry.sparse.as_deref().unwrap_or(&whole) {
            let mut offset = segment.offset;
            let mut left = segment.length;
            while left > 0 {
                let available = self.reader.fill_buf()?;
                if available.is_empty() {
                    return Err(TarError::Io(io::ErrorKind::UnexpectedEof.into()));
                }
                let n = available
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                if let Err(error) = sink(offset, &available[..n]) {
                    return Ok(Err(error));
                }
                self.reader.consume(n);
                self.position += n as u64;
                offset += n as u64;
                left -= n as u64;
                self.data -= n as u64;
            }
        }
        Ok(Ok(()))
    }

    /// Reads what follows the archive's end (padding of the last record) and gives the
    /// reader back. More than `limit` bytes there are refused.
    pub(crate) fn into_rest(mut self, limit: u64) -> Result<R, TarError> {
        let mut rest = 0;
        loop {
            let n = self.reader.fill_buf()?.len();
            if n == 0 {
                return Ok(self.reader);
            }
            self.reader.consume(n);
            rest += n as u64;
            if rest > limit {
                return Err(refused(b"", "too many bytes after the archive's end"));
            }
        }
    }

    /// Access to the reader, for progress.
    pub(crate) fn reader(&self) -> &R {
        &self.reader
    }

    fn skip(&mut self) -> io::Result<()> {
        let mut left = self.data + self.padding;
        while left > 0 {
            let available = self.reader.fill_buf()?.len();
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let n = available.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.reader.consume(n);
            self.position += n as u64;
            left -= n as u64;
        }
        self.data = 0;
        self.padding = 0;
        Ok(())
    }

    /// One header block; none at the end: a block of zeros, or the end of the stream between
    /// two entries, which GNU tar and Go accept too.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut have = 0;
        while have < BLOCK {
            match self.reader.read(&mut block[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(TarError::Io(io::ErrorKind::UnexpectedEof.into())),
                n => have += n,
            }
        }
        self.position += BLOCK_U64;
        let block = &*block;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|byte| u32::from(*byte))
            .sum::<u32>()
            + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(sum) {
            let at = self.position - BLOCK_U64;
            return Err(refused(
                &header.path_bytes(),
                format!("the header at byte {at} has a wrong checksum (not a tar, or damaged)"),
            ));
        }
        fill_blanks(&mut header);
        Ok(Some(header))
    }

    fn metadata(&mut self, name: &[u8], size: u64, budget: &mut u64) -> Result<Vec<u8>, TarError> {
        *budget = budget
            .checked_sub(size)
            .ok_or_else(|| refused(name, format!("more than {} bytes of headers", self.limit)))?;
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        self.reader.read_exact(&mut bytes)?;
        self.position += size;
        self.padding = padding(size);
        self.skip()?;
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &Header,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        mut records: Records,
        budget: u64,
    ) -> Result<Entry, TarError> {
        let path = records
            .sparse_name
            .take()
            .or(records.path.take())
            .or(long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let no = |why: &str| refused(&path, why);
        let link = records
            .link
            .take()
            .or(long_link)
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let kind = kind(header, &path)?;
        let stored = if kind == Kind::File {
            match records.size {
                Some(size) => size,
                None => header
                    .entry_size()
                    .map_err(|_| no("its size is not a number"))?,
            }
        } else {
            // As Go's reader, and so docker and containerd: these kinds carry no data.
            0
        };
        let id = |record: Option<u64>, field: io::Result<u64>, what: &str| {
            let id = record.map_or(field, Ok).map_err(|_| no(what))?;
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| no(what))
        };
        let mtime = match records.mtime {
            Some(mtime) => mtime,
            None => (
                header
                    .mtime()
                    .map_err(|_| no("its time is not a number"))?
                    .cast_signed(),
                0,
            ),
        };
        let mut entry = Entry {
            kind,
            mode: header.mode().map_err(|_| no("its mode is not a number"))? & 0o7777,
            uid: id(
                records.uid,
                header.uid(),
                "its owner is not a 32-bit number",
            )?,
            gid: id(
                records.gid,
                header.gid(),
                "its group is not a 32-bit number",
            )?,
            mtime,
            size: stored,
            device: device(header, kind).map_err(no)?,
            xattrs: std::mem::take(&mut records.xattrs),
            sparse: None,
            offset: self.position,
            link,
            path,
        };
        self.data = stored;
        self.padding = padding(stored);
        self.sparse(header, &mut entry, &records, budget)?;
        entry.offset = self.position;
        Ok(entry)
    }
}

/// Where the numbers of a header are: mode, owner, group, size, time.
const NUMBERS: [std::ops::Range<usize>; 5] = [100..108, 108..116, 116..124, 124..136, 136..148];

/// Numbers that are left blank mean zero, as GNU tar and Go read them.
fn fill_blanks(header: &mut Header) {
    let block = header.as_mut_bytes();
    for range in NUMBERS {
        let field = &mut block[range];
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            field[0] = b'0';
        }
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK_U64 - size % BLOCK_U64) % BLOCK_U64
}

fn kind(header: &Header, path: &[u8]) -> Result<Kind, TarError> {
    let flag = header.as_bytes()[156];
    Ok(match flag {
        // Before POSIX, a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            let why = format!("entries of type {:?} are not supported", char::from(other));
            return Err(refused(path, why));
        }
    })
}

fn device(header: &Header, kind: Kind) -> Result<(u32, u32), &'static str> {
    if !matches!(kind, Kind::Char | Kind::Block) {
        return Ok((0, 0));
    }
    let number = |field: io::Result<Option<u32>>| {
        field
            .ok()
            .flatten()
            .ok_or("its device number is not a number")
    };
    Ok((
        number(header.device_major())?,
        number(header.device_minor())?,
    ))
}

/// Makes a refusal that names the entry.
pub(crate) fn refused(entry: &[u8], why: impl Into<String>) -> TarError {
    TarError::Refused {
        entry: shown(entry),
        why: why.into(),
    }
}

/// A name for messages: no invalid text, not too long.
pub(crate) fn shown(name: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(name);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}
