//! Copies of the metadata as text, compressed: `pool/backups/metadata-20261122T013000Z-t17.xml.zst`. The
//! names tell when, and at which transaction.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::pool::PoolBackup;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::error::PoolError;
use crate::files;
use crate::ground::Place;

const BEFORE: &str = "metadata-";
const AFTER: &str = ".xml.zst";
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// Text compresses to a tenth at the fastest level already.
const LEVEL: i32 = 3;
/// A name tells when by its first so many characters.
const TIME_LENGTH: usize = "20261122T013000Z".len();

/// Of the time and the transaction.
pub(crate) fn name(at: Timestamp, transaction: u64) -> String {
    let at = at.to_zoned(TimeZone::UTC).strftime(TIME).to_string();
    format!("{BEFORE}{at}-t{transaction}{AFTER}")
}

/// A time as names have it.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime(TIME).to_string()
}

/// What a name tells; `None` if it is none of ours.
fn parse(name: &str) -> Option<(Timestamp, u64)> {
    let middle = name.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    let (at, transaction) = (middle.get(..TIME_LENGTH)?, middle.get(TIME_LENGTH..)?);
    let at = jiff::civil::DateTime::strptime(TIME, at).ok()?;
    let at = at.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some((at, transaction.strip_prefix("-t")?.parse().ok()?))
}

/// All of them, the newest first. Other files there are not told.
pub(crate) fn list(place: &Place) -> Result<Vec<PoolBackup>, PoolError> {
    let folder = place.backups();
    let io = |error| PoolError::io("list", &folder)(error);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io)?;
        let Ok(file) = entry.file_name().into_string() else {
            continue;
        };
        if let Some((at, transaction_id)) = parse(&file) {
            let bytes = entry.metadata().map_err(io)?.len();
            found.push(PoolBackup {
                at,
                transaction_id,
                bytes,
                file,
            });
        }
    }
    found.sort_by_key(|backup| std::cmp::Reverse((backup.at, backup.transaction_id)));
    Ok(found)
}

/// Where the text is written before it is compressed. One that was left is begun anew.
pub(crate) fn draft(place: &Place) -> Result<Utf8PathBuf, PoolError> {
    let folder = place.backups();
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&folder)
        .map_err(PoolError::io("make", &folder))?;
    let draft = folder.join("draft.xml");
    files::forget(&draft)?;
    Ok(draft)
}

/// Makes a backup of the text, and removes the oldest of those that are too many.
pub(crate) fn keep(
    place: &Place,
    draft: &Utf8Path,
    at: Timestamp,
    transaction: u64,
    most: usize,
) -> Result<PoolBackup, PoolError> {
    let folder = place.backups();
    let (name, new) = (name(at, transaction), folder.join("draft.xml.zst"));
    compress(draft, &new).map_err(PoolError::io("write", &new))?;
    let path = folder.join(&name);
    std::fs::rename(&new, &path).map_err(PoolError::io("write", &path))?;
    files::forget(draft)?;
    files::sync_folder(&folder)?;
    let all = list(place)?;
    for old in all.iter().skip(most.max(1)) {
        files::forget(&folder.join(&old.file))?;
    }
    all.into_iter()
        .find(|backup| backup.file == name)
        .ok_or_else(|| PoolError::File {
            path,
            what: "is gone".to_owned(),
        })
}

/// Writes the text of a backup.
pub(crate) fn unpack(backup: &Utf8Path, to: &Utf8Path) -> Result<(), PoolError> {
    let unpack = || -> std::io::Result<()> {
        let mut from = zstd::Decoder::new(File::open(backup)?)?;
        std::io::copy(&mut from, &mut create(to)?).map(drop)
    };
    unpack().map_err(PoolError::io("unpack", backup))
}

fn compress(from: &Utf8Path, to: &Utf8Path) -> std::io::Result<()> {
    files::forget(to).map_err(std::io::Error::other)?;
    let mut packed = zstd::Encoder::new(create(to)?, LEVEL)?;
    packed.include_checksum(true)?;
    std::io::copy(&mut File::open(from)?, &mut packed)?;
    let mut file = packed.finish()?;
    file.flush()?;
    file.sync_all()
}

fn create(path: &Utf8Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use hearth_types::InstallationId;

    use super::*;

    fn place(folder: &tempfile::TempDir) -> Place {
        let dir = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        Place::new(&dir, InstallationId::new())
    }

    #[test]
    fn names_tell_when_and_what() {
        let at = "2026-11-22T01:30:00Z".parse().unwrap();
        let name = name(at, 17);
        assert_eq!(name, "metadata-20261122T013000Z-t17.xml.zst");
        assert_eq!(parse(&name), Some((at, 17)));
        for other in [
            "",
            "metadata-.xml.zst",
            "metadata-20261122T013000Z.xml.zst",
            "metadata-20261322T013000Z-t17.xml.zst",
            "metadata-20261122T013000Z-tx.xml.zst",
            "metadata-ä0261122T013000Z-t1.xml.zst",
            "draft.xml.zst",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_newest_are_kept_and_what_is_not_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(&folder);
        let text = "<superblock/>".repeat(1000);
        for day in 0..5 {
            let draft = draft(&place).unwrap();
            std::fs::write(&draft, &text).unwrap();
            std::fs::write(place.backups().join("notes"), "theirs").unwrap();
            let at = Timestamp::from_second(86_400 * day).unwrap();
            let kept = keep(&place, &draft, at, day.unsigned_abs(), 3).unwrap();
            assert!(kept.bytes < 1000, "{kept:?}");
        }
        let all = list(&place).unwrap();
        let kept: Vec<u64> = all.iter().map(|backup| backup.transaction_id).collect();
        assert_eq!(kept, [4, 3, 2]);
        assert!(place.backups().join("notes").exists());
        let out = place.backups().join("out");
        unpack(&place.backups().join(&all[0].file), &out).unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), text);
    }
}
