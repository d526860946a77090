//! Removing names, images and the blobs that nobody needs any more.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use hearth_types::ids::ImageId;

use crate::store::{Inner, Turn, sync_folder};
use crate::{ImageError, ImageStore};

/// So long a download that no image needs is kept: a pull that is tried again goes on with it.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// An image that is gone.
#[derive(Debug)]
pub struct Removed {
    _turn: Turn,
}

impl ImageStore {
    /// Removes a reference, and the image with its blobs when that was the last one. An id
    /// removes the image with all its references. Whether the image is in use is the caller's
    /// to know. Returns whether the image itself is gone.
    ///
    /// # Errors
    /// When there is no such image or a file cannot be removed.
    pub async fn remove(&self, name: &str) -> Result<bool, ImageError> {
        Ok(self.take(name).await?.is_some())
    }

    /// The same for who has more to remove when the image itself is gone: until what is returned is
    /// dropped nobody makes the same image again.
    ///
    /// # Errors
    /// As with [`ImageStore::remove`].
    pub async fn take(&self, name: &str) -> Result<Option<Removed>, ImageError> {
        let wanted = name.to_owned();
        let (id, _) = self.blocking(move |inner| inner.resolve(&wanted)).await?;
        // Not while a pull of the same image is about to find it here.
        let turn = self.turn(id.as_str()).await;
        let name = name.to_owned();
        self.blocking(move |inner| {
            let (id, reference) = inner.resolve(&name)?;
            if let Some(reference) = reference {
                inner.change_references(|refs| {
                    refs.remove(&reference);
                })?;
                if !inner.references(&id).is_empty() {
                    return Ok(None);
                }
            }
            inner.remove_image(&id)?;
            Ok(Some(Removed { _turn: turn }))
        })
        .await
    }
}

impl Inner {
    fn remove_image(&self, id: &ImageId) -> Result<(), ImageError> {
        // A damaged record names no blobs; the image must be removable all the same.
        let blobs = self.read(id).map(|sealed| sealed.blobs).unwrap_or_default();
        self.change_references(|refs| refs.retain(|_, other| other != id))?;
        let folder = self.image_dir(id);
        // Under a temporary name first: an image is there as a whole or not at all.
        let doomed = self.temporary()?;
        let target = doomed.path().join("image");
        fs::rename(&folder, &target).map_err(ImageError::file("remove", &folder))?;
        doomed
            .close()
            .map_err(ImageError::file("remove", &folder))?;
        if let Some(parent) = folder.parent() {
            sync_folder(parent)?;
        }
        self.remove_blobs(blobs)
    }

    /// The digests that images name; a failure if one of them cannot be read.
    pub(crate) fn used_blobs(&self) -> Result<HashSet<String>, ImageError> {
        let sealed = self.all()?.into_iter();
        Ok(sealed.flat_map(|sealed| sealed.blobs).collect())
    }

    /// Removes whole and partial downloads of pulls that were refused or given up a day before
    /// `now`. Called while nobody pulls. If an image's record cannot be read, nothing is removed.
    pub(crate) fn remove_stale_blobs(&self, now: SystemTime) {
        let removed = self
            .used_blobs()
            .and_then(|used| self.remove_older(&used, now));
        match removed {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "downloads that no image needs are removed"),
            Err(error) => tracing::warn!(%error, "downloads that no image needs may stay"),
        }
    }

    fn remove_older(&self, used: &HashSet<String>, now: SystemTime) -> Result<u64, ImageError> {
        let folder = self.blobs_dir();
        let failed = || ImageError::file("clean up", &folder);
        let mut count = 0;
        for entry in fs::read_dir(&folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let digest = format!("sha256:{}", name.strip_suffix(".partial").unwrap_or(&name));
            let meta = entry.metadata().map_err(failed())?;
            let age = meta
                .modified()
                .ok()
                .and_then(|at| now.duration_since(at).ok());
            let stale = age.is_some_and(|age| age > KEPT) && meta.is_file();
            // Only what has the name of a blob: another file is not ours.
            if stale && crate::digest::hex(&digest).is_ok() && !used.contains(&digest) {
                fs::remove_file(entry.path()).map_err(failed())?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Removes blobs that no image names.
    pub(crate) fn remove_blobs(&self, blobs: Vec<String>) -> Result<(), ImageError> {
        let used = self.used_blobs()?;
        for digest in blobs.iter().filter(|digest| !used.contains(*digest)) {
            let path = self.blob_path(digest)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ImageError::file("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;
    use crate::Limits;

    /// A file of so many hours ago among the blobs.
    fn blob(store: &Utf8Path, name: &str, hours: u64) {
        let path = store.join("blobs/sha256").join(name);
        let file = fs::File::create(&path).unwrap();
        let age = Duration::from_secs(hours * 3600);
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    fn blobs(store: &Utf8Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(store.join("blobs/sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn downloads_that_no_image_needs_go_after_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let store = Utf8Path::from_path(dir.path()).unwrap();
        drop(ImageStore::open(store, Limits::default()).unwrap());
        let [stale, fresh] = ["a".repeat(64), "b".repeat(64)];
        blob(store, &stale, 25);
        blob(store, &format!("{stale}.partial"), 25);
        blob(store, &fresh, 23);
        blob(store, "somebody's notes", 1000);
        drop(ImageStore::open(store, Limits::default()).unwrap());
        assert_eq!(blobs(store), [fresh, "somebody's notes".to_owned()]);
    }

    #[test]
    fn where_an_image_cannot_be_read_no_download_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Utf8Path::from_path(dir.path()).unwrap();
        drop(ImageStore::open(store, Limits::default()).unwrap());
        let stale = "a".repeat(64);
        blob(store, &stale, 25);
        let image = store.join("images").join("c".repeat(64));
        fs::create_dir(&image).unwrap();
        fs::write(image.join("image.json"), "{").unwrap();
        drop(ImageStore::open(store, Limits::default()).unwrap());
        assert_eq!(blobs(store), [stale]);
    }
}
