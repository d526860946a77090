//! A folder or a tar file with documents and layers in it, read in place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};

use camino::{Utf8Path, Utf8PathBuf};

use crate::tarstream::{Kind, TarError, TarStream};
use crate::{ImageError, Limits};

/// Most files in a bundle; an image has a few dozen.
const FILES: usize = 100_000;
/// Links followed from one name to another in a tar, as old `docker save` writes them.
const LINKS: usize = 8;

/// The bundle.
pub(crate) enum Bundle {
    Folder(Utf8PathBuf),
    Tar {
        path: Utf8PathBuf,
        files: HashMap<String, Place>,
    },
}

/// Where a name's bytes are in the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    At { offset: u64, length: u64 },
    Link(String),
}

impl Bundle {
    /// Opens a folder, or reads the names in a tar file.
    pub(crate) fn open(path: &Utf8Path, limits: &Limits) -> Result<Self, ImageError> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let file = File::open(path).map_err(ImageError::file("open", path))?;
        let mut tar = TarStream::new(BufReader::with_capacity(1 << 20, file), limits.metadata);
        let mut files = HashMap::new();
        while let Some(entry) = tar.next().map_err(|e| unreadable(path, e))? {
            let Ok(name) = String::from_utf8(entry.path) else {
                continue;
            };
            let name = name.trim_start_matches("./").to_owned();
            let place = match entry.kind {
                Kind::File if entry.sparse.is_none() => Place::At {
                    offset: entry.offset,
                    length: entry.size,
                },
                Kind::Symlink | Kind::HardLink => match String::from_utf8(entry.link) {
                    Ok(target) if entry.kind == Kind::Symlink => {
                        Place::Link(beside(&name, &target))
                    }
                    Ok(target) => Place::Link(target),
                    Err(_) => continue,
                },
                _ => continue,
            };
            files.insert(name, place);
            if files.len() > FILES {
                return Err(ImageError::Limit {
                    what: path.to_string(),
                    limit: FILES as u64,
                    unit: "files",
                });
            }
        }
        Ok(Self::Tar {
            path: path.to_owned(),
            files,
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).is_file(),
            Self::Tar { files, .. } => files.contains_key(name),
        }
    }

    /// Opens a file of the bundle; also its size.
    pub(crate) fn read(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), ImageError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                let failed = || ImageError::file("open", &path);
                let file = File::open(&path).map_err(failed())?;
                let size = file.metadata().map_err(failed())?.len();
                Ok((Box::new(file), size))
            }
            Self::Tar { path, files } => {
                let mut place = files.get(name);
                for _ in 0..LINKS {
                    match place {
                        Some(Place::Link(target)) => place = files.get(target.as_str()),
                        _ => break,
                    }
                }
                let Some(Place::At { offset, length }) = place else {
                    let why = format!("it has no file {name:?}");
                    return Err(ImageError::unsupported(path.as_str(), why));
                };
                let mut file = File::open(path).map_err(ImageError::file("open", path))?;
                file.seek(SeekFrom::Start(*offset))
                    .map_err(ImageError::file("read", path))?;
                Ok((Box::new(file.take(*length)), *length))
            }
        }
    }

    /// The bytes of a small file.
    pub(crate) fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let (reader, size) = self.read(name)?;
        if size > limit {
            return Err(ImageError::Limit {
                what: name.to_owned(),
                limit,
                unit: "bytes",
            });
        }
        let mut bytes = Vec::new();
        reader
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(ImageError::file("read", name))?;
        Ok(bytes)
    }
}

/// The name that a link in `name`'s folder leads to.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

fn unreadable(path: &Utf8Path, error: TarError) -> ImageError {
    match error {
        TarError::Io(source) => ImageError::Archive {
            archive: path.to_string(),
            source,
        },
        TarError::Refused { entry, why } => ImageError::Entry {
            archive: path.to_string(),
            entry,
            why,
        },
    }
}
