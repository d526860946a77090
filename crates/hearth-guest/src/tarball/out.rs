//! A path as a tar stream. Its top entry is called like the path's last component.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::error::{Context, Failure};

/// Writes `path` to `tar`. Sockets are left out; a final link is a link.
pub(crate) fn pack(path: &str, tar: impl Write) -> Result<(), Failure> {
    let source = Path::new(path);
    let top = match source.file_name() {
        Some(name) => PathBuf::from(name),
        None => PathBuf::from("."),
    };
    let mut builder = Builder::new(io::BufWriter::with_capacity(64 * 1024, tar));
    let mut waiting = vec![(source.to_owned(), top)];
    while let Some((path, name)) = waiting.pop() {
        append(&mut builder, &path, &name).context("copy", path.display())?;
        let folder = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        if folder {
            let entries = fs::read_dir(&path).context("list", path.display())?;
            for entry in entries.flatten() {
                waiting.push((entry.path(), name.join(entry.file_name())));
            }
        }
    }
    let mut writer = builder.into_inner().context("end", "the tar stream")?;
    writer.flush().context("end", "the tar stream")
}

fn append(builder: &mut Builder<impl Write>, path: &Path, name: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let kind = found.file_type();
    let mut header = Header::new_gnu();
    header.set_mode(found.mode() & 0o7777);
    header.set_uid(u64::from(found.uid()));
    header.set_gid(u64::from(found.gid()));
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(0);
    if kind.is_file() {
        header.set_entry_type(EntryType::Regular);
        return append_file(builder, &mut header, path, name);
    }
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        return builder.append_link(&mut header, name, fs::read_link(path)?);
    }
    if kind.is_socket() {
        return Ok(());
    }
    header.set_entry_type(if kind.is_dir() {
        EntryType::Directory
    } else if kind.is_char_device() {
        EntryType::Char
    } else if kind.is_block_device() {
        EntryType::Block
    } else {
        EntryType::Fifo
    });
    if kind.is_char_device() || kind.is_block_device() {
        header.set_device_major(rustix::fs::major(found.rdev()))?;
        header.set_device_minor(rustix::fs::minor(found.rdev()))?;
    }
    builder.append_data(&mut header, name, io::empty())
}

/// A file may grow or shrink while it is read: the stream keeps the size it began with.
fn append_file(
    builder: &mut Builder<impl Write>,
    header: &mut Header,
    path: &Path,
    name: &Path,
) -> io::Result<()> {
    let file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    header.set_size(size);
    builder.append_data(header, name, file.chain(io::repeat(0)).take(size))
}
