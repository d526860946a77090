//! The bzImage: what distributions call vmlinuz.
//!
//! Offsets are those of the kernel's `Documentation/x86/boot.rst` (the setup header starts
//! at 0x1f1). The compressed kernel is found by `payload_offset` and `payload_length`, which
//! exist since boot protocol 2.08 (Linux 2.6.26).

use crate::compression::{Compression, expand};
use crate::elf::{Elf, is_elf};
use crate::format::{FormatError, slice_at, u16_at, u32_at};

const WHAT: &str = "bzImage";
const PAYLOAD: &str = "kernel inside the bzImage";
/// `boot_flag`: the last two bytes of the first sector.
const BOOT_FLAG: usize = 0x1fe;
const BOOT_FLAG_VALUE: u16 = 0xaa55;
/// `header`: the magic `HdrS`.
const HEADER: usize = 0x202;
/// `version` of the boot protocol.
const VERSION: usize = 0x206;
const VERSION_WITH_PAYLOAD: u16 = 0x0208;
/// `setup_sects`; 0 means 4.
const SETUP_SECTORS: usize = 0x1f1;
/// `kernel_version`: where the version text is, less 0x200.
const KERNEL_VERSION: usize = 0x20e;
/// `payload_offset`, counted from the start of the protected-mode code.
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// No distribution's kernel expands to more than a fraction of this.
const ELF_LIMIT: u64 = 512 << 20;

/// A checked bzImage.
#[derive(Debug, Clone)]
pub struct BzImage<'a> {
    /// The first word of the version text, such as `6.1.0-39-cloud-amd64`.
    pub version: Option<String>,
    /// The compressed kernel with the four bytes of its expanded size.
    pub payload: &'a [u8],
}

/// Whether the bytes have the setup header's two magic numbers.
#[must_use]
pub fn is_bzimage(bytes: &[u8]) -> bool {
    u16_at(bytes, BOOT_FLAG, WHAT).is_ok_and(|flag| flag == BOOT_FLAG_VALUE)
        && slice_at(bytes, HEADER, 4, WHAT).is_ok_and(|magic| magic == b"HdrS")
}

/// Reads the setup header.
///
/// # Errors
/// Not a bzImage, too old, or cut off.
pub fn parse(bytes: &[u8]) -> Result<BzImage<'_>, FormatError> {
    if !is_bzimage(bytes) {
        return Err(FormatError::damaged(WHAT, "the setup header is missing"));
    }
    let version = u16_at(bytes, VERSION, WHAT)?;
    if version < VERSION_WITH_PAYLOAD {
        return Err(FormatError::damaged(
            WHAT,
            format!(
                "boot protocol {}.{:02} is older than 2.08",
                version >> 8,
                version & 0xff
            ),
        ));
    }
    let sectors = match bytes.get(SETUP_SECTORS) {
        None => return Err(FormatError::Truncated { what: WHAT }),
        Some(0) => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let index = |offset| -> Result<usize, FormatError> {
        usize::try_from(u32_at(bytes, offset, WHAT)?)
            .map_err(|_| FormatError::Truncated { what: WHAT })
    };
    let start = index(PAYLOAD_OFFSET)?
        .checked_add((sectors + 1) * SECTOR)
        .ok_or(FormatError::Truncated { what: WHAT })?;
    Ok(BzImage {
        version: version_text(bytes)?,
        payload: slice_at(bytes, start, index(PAYLOAD_LENGTH)?, PAYLOAD)?,
    })
}

fn version_text(bytes: &[u8]) -> Result<Option<String>, FormatError> {
    let at = usize::from(u16_at(bytes, KERNEL_VERSION, WHAT)?);
    if at == 0 {
        return Ok(None);
    }
    let text = bytes
        .get(at + 0x200..)
        .ok_or(FormatError::Truncated { what: WHAT })?;
    let word: Vec<u8> = text
        .iter()
        .take(128)
        .copied()
        .take_while(u8::is_ascii_graphic)
        .collect();
    Ok(String::from_utf8(word).ok().filter(|word| !word.is_empty()))
}

/// The ELF kernel inside.
///
/// # Errors
/// An unsupported compression, damaged data, or something else than a kernel inside.
pub fn extract_elf(image: &BzImage<'_>) -> Result<Vec<u8>, FormatError> {
    if is_elf(image.payload) {
        Elf::parse(image.payload)?.check_kernel()?;
        return Ok(image.payload.to_vec());
    }
    let compression = Compression::detect(image.payload, PAYLOAD)?
        .ok_or_else(|| FormatError::damaged(PAYLOAD, "its compression is not known"))?;
    let elf = expand(compression, image.payload, ELF_LIMIT, PAYLOAD)?;
    check_size(image.payload, elf.len())?;
    Elf::parse(&elf)?.check_kernel()?;
    Ok(elf)
}

/// The last four bytes of the payload are the expanded size (for gzip, its own trailer).
fn check_size(payload: &[u8], expanded: usize) -> Result<(), FormatError> {
    let at = payload
        .len()
        .checked_sub(4)
        .ok_or(FormatError::Truncated { what: PAYLOAD })?;
    let said = u32_at(payload, at, PAYLOAD)?;
    if u64::from(said) != expanded as u64 {
        return Err(FormatError::damaged(
            PAYLOAD,
            format!("it should expand to {said} bytes and expands to {expanded}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
