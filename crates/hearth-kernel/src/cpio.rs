//! Writing cpio archives in the `newc` form that the kernel unpacks as initramfs.
//!
//! Form (kernel `Documentation/driver-api/early-userspace/buffer-format.rst`): a header of
//! 110 ASCII bytes, the name with its NUL, padding to 4, the data, padding to 4. The end is
//! an entry named `TRAILER!!!`. Archives may follow each other, zeros between them, as long
//! as each starts at a multiple of 4. Output depends on the input only (mtime 0).

/// File type bits of `st_mode`.
const TYPE_DIR: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_CHAR: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";
/// Headers, names and data start at multiples of this.
pub const ALIGNMENT: usize = 4;

/// A file that does not fit into the format's 32-bit sizes.
#[derive(Debug, thiserror::Error)]
#[error("{name} has {size} bytes; a cpio archive takes less than 4 GiB per file")]
pub struct TooBig {
    /// The entry's name.
    pub name: String,
    /// Its size.
    pub size: usize,
}

/// An archive that is being written into memory.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    inode: u32,
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl Writer {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder. Parents must have been added before.
    pub fn dir(&mut self, name: &str, mode: u32) {
        self.put(
            &Entry {
                name,
                mode: TYPE_DIR | mode,
                links: 2,
                device: (0, 0),
                data: &[],
            },
            0,
        );
    }

    /// Adds a file.
    ///
    /// # Errors
    /// A file of 4 GiB or more.
    pub fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<(), TooBig> {
        let size = u32::try_from(data.len()).map_err(|_| TooBig {
            name: name.to_owned(),
            size: data.len(),
        })?;
        self.put(
            &Entry {
                name,
                mode: TYPE_FILE | mode,
                links: 1,
                device: (0, 0),
                data,
            },
            size,
        );
        Ok(())
    }

    /// Adds a character device.
    pub fn char_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) {
        self.put(
            &Entry {
                name,
                mode: TYPE_CHAR | mode,
                links: 1,
                device: (major, minor),
                data: &[],
            },
            0,
        );
    }

    /// Ends the archive and returns it, padded with zeros to a multiple of `align` bytes.
    #[must_use]
    pub fn finish(mut self, align: usize) -> Vec<u8> {
        self.inode = 0;
        self.put(
            &Entry {
                name: TRAILER,
                mode: 0,
                links: 1,
                device: (0, 0),
                data: &[],
            },
            0,
        );
        pad(&mut self.out, align);
        self.out
    }

    fn put(&mut self, entry: &Entry<'_>, size: u32) {
        let name = entry.name.trim_start_matches('/');
        let name_size = name.len() + 1;
        // Fields: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor
        // namesize check.
        let header = format!(
            "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.inode,
            entry.mode,
            0,
            0,
            entry.links,
            0,
            size,
            0,
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            0
        );
        self.inode += 1;
        self.out.extend_from_slice(header.as_bytes());
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        pad(&mut self.out, ALIGNMENT);
        self.out.extend_from_slice(entry.data);
        pad(&mut self.out, ALIGNMENT);
    }
}

fn pad(out: &mut Vec<u8>, align: usize) {
    out.resize(out.len().next_multiple_of(align), 0);
}

#[cfg(test)]
mod tests;
