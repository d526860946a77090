//! Sparse files: GNU's old format (type `S`) and its PAX format 1.0. The PAX formats 0.0 and
//! 0.1, which GNU tar has not written by default since 2006, are refused.

use std::io::BufRead;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::pax::{Records, decimal};
use super::{BLOCK_U64, Entry, Kind, TarError, TarStream, refused};

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl<R: BufRead> TarStream<R> {
    /// Reads the map of a sparse file, if the entry is one, and puts the file's real size in.
    pub(super) fn sparse(
        &mut self,
        header: &Header,
        entry: &mut Entry,
        records: &Records,
        budget: u64,
    ) -> Result<(), TarError> {
        if entry.kind != Kind::File {
            return Ok(());
        }
        let stored = self.data;
        let (segments, size) = if header.as_bytes()[156] == b'S' {
            let gnu = header
                .as_gnu()
                .ok_or_else(|| refused(&entry.path, "a sparse entry without a GNU header"))?;
            let size = gnu
                .real_size()
                .map_err(|_| refused(&entry.path, "its real size is not a number"))?;
            let first = gnu.is_extended();
            let mut segments = Vec::new();
            collect(&gnu.sparse, &mut segments, &entry.path)?;
            self.extended(first, &mut segments, &entry.path, budget)?;
            (segments, size)
        } else if records.sparse_major == Some(1) && records.sparse_minor == Some(0) {
            let size = records
                .sparse_size
                .ok_or_else(|| refused(&entry.path, "a sparse entry without its real size"))?;
            (self.map(&entry.path, budget)?, size)
        } else if records.sparse_old
            || records.sparse_major.is_some()
            || records.sparse_name.is_some()
        {
            return Err(refused(&entry.path, "this sparse format is not supported"));
        } else {
            return Ok(());
        };
        let data = self.data;
        check(&segments, size, data).map_err(|why| refused(&entry.path, why))?;
        debug_assert!(data <= stored);
        entry.size = size;
        entry.sparse = Some(segments);
        Ok(())
    }

    /// Further blocks of the old format's map; they stand before the data.
    fn extended(
        &mut self,
        mut more: bool,
        segments: &mut Vec<Segment>,
        path: &[u8],
        mut budget: u64,
    ) -> Result<(), TarError> {
        while more {
            budget = budget
                .checked_sub(BLOCK_U64)
                .ok_or_else(|| refused(path, "its sparse map is too long"))?;
            let mut block = GnuExtSparseHeader::new();
            self.reader.read_exact(block.as_mut_bytes())?;
            self.position += BLOCK_U64;
            collect(&block.sparse, segments, path)?;
            more = block.is_extended();
        }
        Ok(())
    }

    /// The map of PAX format 1.0: decimal lines at the start of the data, padded to a block.
    fn map(&mut self, path: &[u8], budget: u64) -> Result<Vec<Segment>, TarError> {
        let bad = || refused(path, "its sparse map is malformed");
        let mut used = 0_u64;
        let count = self.line(path, &mut used, budget)?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let offset = self.line(path, &mut used, budget)?;
            let length = self.line(path, &mut used, budget)?;
            segments.push(Segment { offset, length });
        }
        let rest = (BLOCK_U64 - used % BLOCK_U64) % BLOCK_U64;
        let mut padding = vec![0; usize::try_from(rest).unwrap_or(0)];
        self.reader.read_exact(&mut padding)?;
        used += rest;
        self.position += used;
        self.data = self.data.checked_sub(used).ok_or_else(bad)?;
        Ok(segments)
    }

    fn line(&mut self, path: &[u8], used: &mut u64, budget: u64) -> Result<u64, TarError> {
        let mut digits = Vec::new();
        loop {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            *used += 1;
            if *used > budget {
                return Err(refused(path, "its sparse map is too long"));
            }
            if byte[0] == b'\n' {
                break;
            }
            digits.push(byte[0]);
            if digits.len() > 20 {
                return Err(refused(path, "its sparse map is malformed"));
            }
        }
        decimal(&digits).ok_or_else(|| refused(path, "its sparse map is malformed"))
    }
}

fn collect(
    headers: &[GnuSparseHeader],
    segments: &mut Vec<Segment>,
    path: &[u8],
) -> Result<(), TarError> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        let bad = |_| refused(path, "its sparse map is malformed");
        segments.push(Segment {
            offset: header.offset().map_err(bad)?,
            length: header.length().map_err(bad)?,
        });
    }
    Ok(())
}

/// Ascending, inside the file, and exactly as much data as the entry holds.
fn check(segments: &[Segment], size: u64, data: u64) -> Result<(), &'static str> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in segments {
        if segment.offset < end {
            return Err("its sparse map goes backwards");
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .filter(|end| *end <= size)
            .ok_or("its sparse map goes past the end")?;
        sum += segment.length;
    }
    if sum != data {
        return Err("its sparse map does not fit its data");
    }
    Ok(())
}
