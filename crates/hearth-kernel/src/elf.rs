//! As much of ELF as kernels and modules need: 64-bit, little endian, sections by name.

use crate::format::{FormatError, index64_at, slice_at, u16_at, u32_at};

/// `EM_X86_64` of the ELF specification.
const MACHINE_X86_64: u16 = 62;
/// `ET_REL`: a module.
const TYPE_REL: u16 = 1;
/// `ET_EXEC`: a kernel.
const TYPE_EXEC: u16 = 2;
/// `ET_DYN`: a position-independent kernel.
const TYPE_DYN: u16 = 3;
/// `SHT_NOBITS`: a section without data in the file.
const SECTION_NOBITS: u32 = 8;
/// Size of `Elf64_Phdr` and `Elf64_Shdr`.
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

/// Whether the bytes start like an ELF file.
#[must_use]
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// A checked header of an ELF file for x86-64.
#[derive(Debug, Clone, Copy)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    kind: u16,
}

impl<'a> Elf<'a> {
    /// Checks the file header.
    ///
    /// # Errors
    /// Not an ELF file, or one for another machine.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "ELF header";
        if !is_elf(bytes) {
            return Err(FormatError::damaged(WHAT, "the magic number is missing"));
        }
        // Class 2 is 64-bit, data encoding 1 is little endian.
        if slice_at(bytes, 4, 2, WHAT)? != [2, 1] {
            return Err(FormatError::damaged(WHAT, "not 64-bit little endian"));
        }
        let machine = u16_at(bytes, 18, WHAT)?;
        if machine != MACHINE_X86_64 {
            return Err(FormatError::damaged(
                WHAT,
                format!("made for machine {machine}, not for x86-64 ({MACHINE_X86_64})"),
            ));
        }
        Ok(Self {
            bytes,
            kind: u16_at(bytes, 16, WHAT)?,
        })
    }

    /// Checks that this is a kernel that a VMM can load: executable, with segments that lie
    /// inside the file.
    ///
    /// # Errors
    /// An object file, no segments, or segments beyond the end of the file.
    pub fn check_kernel(&self) -> Result<(), FormatError> {
        const WHAT: &str = "ELF kernel";
        if self.kind != TYPE_EXEC && self.kind != TYPE_DYN {
            return Err(FormatError::damaged(
                WHAT,
                "it is an object file, not an executable",
            ));
        }
        let table = index64_at(self.bytes, 32, WHAT)?;
        let count = usize::from(u16_at(self.bytes, 56, WHAT)?);
        if count == 0 {
            return Err(FormatError::damaged(WHAT, "it has no segments"));
        }
        for index in 0..count {
            let header = entry(self.bytes, table, index, PROGRAM_HEADER, WHAT)?;
            let offset = index64_at(header, 8, WHAT)?;
            let size = index64_at(header, 32, WHAT)?;
            slice_at(self.bytes, offset, size, WHAT)?;
        }
        Ok(())
    }

    /// The data of the section `name`; `None` when there is no such section.
    ///
    /// # Errors
    /// A damaged section table.
    pub fn section(&self, name: &str) -> Result<Option<&'a [u8]>, FormatError> {
        const WHAT: &str = "ELF section table";
        let table = index64_at(self.bytes, 40, WHAT)?;
        let count = usize::from(u16_at(self.bytes, 60, WHAT)?);
        let names = usize::from(u16_at(self.bytes, 62, WHAT)?);
        if count == 0 {
            return Ok(None);
        }
        let names = self.section_data(entry(self.bytes, table, names, SECTION_HEADER, WHAT)?)?;
        for index in 0..count {
            let header = entry(self.bytes, table, index, SECTION_HEADER, WHAT)?;
            let at = usize::try_from(u32_at(header, 0, WHAT)?)
                .map_err(|_| FormatError::Truncated { what: WHAT })?;
            let tail = names
                .get(at..)
                .ok_or(FormatError::Truncated { what: WHAT })?;
            if tail.split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                return self.section_data(header).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether this is a relocatable object, as modules are.
    #[must_use]
    pub const fn is_object(&self) -> bool {
        self.kind == TYPE_REL
    }

    fn section_data(&self, header: &[u8]) -> Result<&'a [u8], FormatError> {
        const WHAT: &str = "ELF section";
        if u32_at(header, 4, WHAT)? == SECTION_NOBITS {
            return Ok(&[]);
        }
        let offset = index64_at(header, 24, WHAT)?;
        let size = index64_at(header, 32, WHAT)?;
        slice_at(self.bytes, offset, size, WHAT)
    }
}

/// Entry `index` of a table whose entries have `size` bytes.
fn entry<'a>(
    bytes: &'a [u8],
    table: usize,
    index: usize,
    size: usize,
    what: &'static str,
) -> Result<&'a [u8], FormatError> {
    let offset = index
        .checked_mul(size)
        .and_then(|distance| table.checked_add(distance))
        .ok_or(FormatError::Truncated { what })?;
    slice_at(bytes, offset, size, what)
}

/// The version of an ELF kernel: the word after its `Linux version ` banner.
#[must_use]
pub fn kernel_version(bytes: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = bytes;
    while let Some(at) = find(rest, BANNER) {
        rest = &rest[at + BANNER.len()..];
        let word: Vec<u8> = rest
            .iter()
            .take(128)
            .copied()
            .take_while(u8::is_ascii_graphic)
            .collect();
        // The same words stand in format strings ("Linux version %s").
        if word.first().is_some_and(u8::is_ascii_digit) {
            return String::from_utf8(word).ok();
        }
    }
    None
}

/// Whether the kernel has a built-in driver of this name: drivers carry their module's name
/// as a string of its own.
#[must_use]
pub fn names_driver(bytes: &[u8], name: &str) -> bool {
    let needle = [b"\0", name.as_bytes(), b"\0"].concat();
    find(bytes, &needle).is_some()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = 0;
    while let Some(step) = haystack.get(at..)?.iter().position(|byte| *byte == first) {
        at += step;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests;
