//! Removing names, images and the blobs that nobody needs any more.

use std::collections::HashSet;
use std::fs;

use hearth_types::ids::ImageId;

use crate::store::{Inner, sync_folder};
use crate::{ImageError, ImageStore};

impl ImageStore {
    /// Removes a reference, and the image with its blobs when that was the last one. An id
    /// removes the image with all its references. Whether the image is in use is the caller's
    /// to know. Returns whether the image itself is gone.
    ///
    /// # Errors
    /// When there is no such image or a file cannot be removed.
    pub async fn remove(&self, name: &str) -> Result<bool, ImageError> {
        let wanted = name.to_owned();
        let (id, _) = self.blocking(move |inner| inner.resolve(&wanted)).await?;
        // Not while a pull of the same image is about to find it here.
        let turn = self.turn(id.as_str()).await;
        let name = name.to_owned();
        self.blocking(move |inner| {
            let _turn = turn;
            let (id, reference) = inner.resolve(&name)?;
            if let Some(reference) = reference {
                inner.change_references(|refs| {
                    refs.remove(&reference);
                })?;
                if !inner.references(&id).is_empty() {
                    return Ok(false);
                }
            }
            inner.remove_image(&id)?;
            Ok(true)
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

    fn remove_blobs(&self, blobs: Vec<String>) -> Result<(), ImageError> {
        let used: HashSet<String> = self
            .all()?
            .into_iter()
            .flat_map(|sealed| sealed.blobs)
            .collect();
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
