//! A file or folder of this machine as a tar stream.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::pipe::ChunkWriter;
use crate::exit_codes;
use crate::failure::Failure;

/// Why a stream was not made whole.
#[derive(Debug)]
pub(super) enum PackError {
    /// The receiver has gone.
    HungUp,
    /// A source could not be read.
    Source { path: PathBuf, error: io::Error },
}

impl PackError {
    pub(super) fn into_failure(self, from: &str) -> Failure {
        match self {
            Self::HungUp => {
                Failure::new(exit_codes::FAILURE, format!("Copying {from} was cut off"))
            }
            Self::Source { path, error } => Failure::because(
                exit_codes::FAILURE,
                format!("Cannot read {}", path.display()),
                &error,
            ),
        }
    }
}

/// Writes `root` under `name`; links stay links, sockets and devices are left out.
pub(super) fn pack(
    writer: ChunkWriter,
    root: &Path,
    name: &str,
    owners: bool,
) -> Result<(), PackError> {
    let mut builder = Builder::new(writer);
    match walk(&mut builder, root, Path::new(name), owners) {
        Ok(()) => builder
            .into_inner()
            .and_then(|mut writer| writer.flush())
            .map_err(|_| PackError::HungUp),
        Err(error) => {
            if let PackError::Source { .. } = error {
                builder.get_ref().fail();
            }
            Err(error)
        }
    }
}

fn walk(
    builder: &mut Builder<ChunkWriter>,
    root: &Path,
    name: &Path,
    owners: bool,
) -> Result<(), PackError> {
    // A stack of our own: the depth of folders must not be ours.
    let mut waiting = vec![(root.to_owned(), name.to_owned())];
    while let Some((path, name)) = waiting.pop() {
        append(builder, &path, &name, owners).map_err(|error| classify(error, &path))?;
        let meta = fs::symlink_metadata(&path).map_err(|error| classify(error, &path))?;
        if meta.is_dir() {
            let entries = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut entries = entries.map_err(|error| classify(error, &path))?;
            entries.sort_by_key(fs::DirEntry::file_name);
            let rest = entries.iter().rev();
            waiting.extend(rest.map(|e| (e.path(), name.join(e.file_name()))));
        }
    }
    Ok(())
}

fn classify(error: io::Error, path: &Path) -> PackError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        PackError::HungUp
    } else {
        PackError::Source {
            path: path.to_owned(),
            error,
        }
    }
}

fn append(
    builder: &mut Builder<ChunkWriter>,
    path: &Path,
    name: &Path,
    owners: bool,
) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&meta);
    if !owners {
        header.set_uid(0);
        header.set_gid(0);
    }
    let kind = meta.file_type();
    if kind.is_dir() {
        header.set_size(0);
        builder.append_data(&mut header, name, io::empty())
    } else if kind.is_symlink() {
        header.set_size(0);
        header.set_entry_type(EntryType::Symlink);
        builder.append_link(&mut header, name, fs::read_link(path)?)
    } else if kind.is_file() {
        let file = Exactly {
            file: File::open(path)?,
            left: meta.len(),
        };
        builder.append_data(&mut header, name, file)
    } else {
        crate::output::stderr(&format!(
            "left out {}: not a file, folder or link",
            path.display()
        ));
        Ok(())
    }
}

/// As many bytes as the header promised, whatever happens to the file meanwhile.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let length = self.file.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.left -= length as u64;
        Ok(length)
    }
}
