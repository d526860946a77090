//! Blobs: downloaded once, resumed where they broke off, verified before they get their name.

use std::fs::{self, File};
use std::io::{self, Read as _};

use camino::{Utf8Path, Utf8PathBuf};

use crate::download::Download;
use crate::manifest::Descriptor;
use crate::origin::Origin;
use crate::progress::Reporter;
use crate::{ImageError, ImageStore, digest};

/// An open blob.
pub(crate) struct Blob {
    pub(crate) file: File,
    /// Whether its digest was computed just now. One from an earlier time is verified again
    /// by whoever reads it.
    pub(crate) verified: bool,
}

/// Characters of a digest that people see.
pub(crate) fn short(digest: &str) -> String {
    digest
        .strip_prefix("sha256:")
        .unwrap_or(digest)
        .chars()
        .take(12)
        .collect()
}

/// Opens a blob, downloading it first if it is not here.
pub(crate) async fn ensure(
    store: &ImageStore,
    origin: &Origin,
    blob: &Descriptor,
    reporter: &Reporter,
) -> Result<Blob, ImageError> {
    let path = store.inner.blob_path(&blob.digest)?;
    let _turn = store.turn(&blob.digest).await;
    let shown = short(&blob.digest);
    if let Ok(file) = File::open(&path)
        && file.metadata().is_ok_and(|meta| meta.len() == blob.size)
    {
        reporter.item(&shown, "cached", blob.size, Some(blob.size));
        return Ok(Blob {
            file,
            verified: false,
        });
    }
    let partial = Utf8PathBuf::from(format!("{path}.partial"));
    let download = Download {
        fetch: origin.blob(blob)?,
        what: &blob.digest,
        shown: &shown,
        size: blob.size,
        partial: &partial,
        reporter,
        checker: None,
    };
    let mut came = download.run().await?;
    if came.digest != blob.digest && came.resumed {
        // What an earlier time had left may have been at fault: once more from the start.
        tracing::warn!(digest = %blob.digest, "resumed download has a wrong digest, starting again");
        drop(fs::remove_file(&partial));
        came = download.run().await?;
    }
    let what = format!("blob from {}", origin.shown());
    if let Err(error) = digest::check(&what, &blob.digest, came.digest) {
        drop(fs::remove_file(&partial));
        return Err(error);
    }
    fs::rename(&partial, &path).map_err(ImageError::file("create", &path))?;
    Ok(Blob {
        file: File::open(&path).map_err(ImageError::file("open", &path))?,
        verified: true,
    })
}

/// The bytes of a small blob, verified.
pub(crate) async fn document(
    store: &ImageStore,
    origin: &Origin,
    blob: &Descriptor,
) -> Result<Vec<u8>, ImageError> {
    let mut open = ensure(store, origin, blob, &Reporter::silent()).await?;
    let mut bytes = Vec::new();
    open.file.read_to_end(&mut bytes).map_err(ImageError::file(
        "read",
        store.inner.blob_path(&blob.digest)?,
    ))?;
    if let Err(error) = digest::check("a kept blob", &blob.digest, digest::of(&bytes)) {
        // Damaged on the disk: the next try downloads it again.
        drop(fs::remove_file(store.inner.blob_path(&blob.digest)?));
        return Err(error);
    }
    Ok(bytes)
}

/// Removes a kept blob whose bytes have another digest than its name; whether it did.
pub(crate) fn remove_if_damaged(path: &Utf8Path, digest: &str) -> Result<bool, ImageError> {
    let Ok(file) = File::open(path) else {
        return Ok(false);
    };
    let mut reader = digest::HashingReader::new(file);
    io::copy(&mut reader, &mut io::sink()).map_err(ImageError::file("read", path))?;
    if reader.finish() == digest {
        return Ok(false);
    }
    fs::remove_file(path).map_err(ImageError::file("remove", path))?;
    Ok(true)
}
