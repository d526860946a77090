//! Where blobs come from: a registry, or a layout in a bucket.

use std::io;

use futures::StreamExt as _;
use hearth_s3::{Bucket, Location, S3Error};

use crate::ImageError;
use crate::download::Attempt;
use crate::manifest::Descriptor;
use crate::registry::{Answer, Registry, transient};

/// A place with blobs.
pub(crate) enum Origin {
    Registry(Box<Registry>),
    /// An OCI layout below a key.
    Layout(Bucket, Location),
}

impl Origin {
    /// How a blob is fetched from there.
    pub(crate) fn blob<'a>(&'a self, blob: &'a Descriptor) -> Result<Fetch<'a>, ImageError> {
        Ok(match self {
            Self::Registry(registry) => Fetch::Registry(registry, blob),
            Self::Layout(bucket, folder) => {
                let name = format!("blobs/sha256/{}", crate::digest::hex(&blob.digest)?);
                Fetch::Object {
                    bucket,
                    key: folder.below(&name).key().to_owned(),
                    // The digest binds it.
                    etag: None,
                }
            }
        })
    }

    /// The place, in errors.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Registry(_) => "the registry".to_owned(),
            Self::Layout(_, folder) => folder.to_string(),
        }
    }
}

/// One thing that is fetched.
pub(crate) enum Fetch<'a> {
    Registry(&'a Registry, &'a Descriptor),
    Object {
        bucket: &'a Bucket,
        key: String,
        etag: Option<String>,
    },
}

impl Fetch<'_> {
    /// Its bytes from `offset` on, or from the beginning.
    pub(crate) async fn open(&self, offset: u64) -> Result<Answer, Attempt> {
        match self {
            Self::Registry(registry, blob) => match registry.blob(blob, offset).await {
                Ok(answer) => Ok(answer),
                Err(error) if transient(&error) => Err(Attempt::Transient(io::Error::other(error))),
                Err(error) => {
                    let what = blob.digest.clone();
                    let error = registry.failed("download", what, error).await;
                    Err(Attempt::Fatal(error))
                }
            },
            Self::Object { bucket, key, etag } => {
                match object(bucket, key, etag.as_deref(), offset).await {
                    // A server without ranges: all of it, then.
                    Err(S3Error::NoRanges { .. }) => {
                        object(bucket, key, etag.as_deref(), 0).await.map_err(why)
                    }
                    answer => answer.map_err(why),
                }
            }
        }
    }
}

async fn object(
    bucket: &Bucket,
    key: &str,
    etag: Option<&str>,
    offset: u64,
) -> Result<Answer, S3Error> {
    let reading = bucket.read(key, offset, etag).await?;
    let stream = reading.stream.map(|piece| piece.map_err(io::Error::other));
    Ok(Answer {
        offset,
        stream: Box::pin(stream),
    })
}

fn why(error: S3Error) -> Attempt {
    if error.is_temporary() {
        Attempt::Transient(io::Error::other(error))
    } else {
        Attempt::Fatal(ImageError::S3(Box::new(error)))
    }
}
