//! Talking to a registry: one client for one pull, with bounded retries.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth as Secret;

use crate::manifest::{ACCEPTED, Descriptor};
use crate::{ImageError, PullRequest, Reference, digest};

/// Attempts in a row that may fail without bringing a byte.
pub(crate) const ATTEMPTS: u32 = 5;
/// Wait before the first repetition; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a registry may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// A registry and what is asked of it.
pub(crate) struct Registry {
    client: oci_client::Client,
    reference: Reference,
    auth: Secret,
}

/// A blob's bytes from some offset on.
pub(crate) struct Answer {
    /// Where the bytes start: at the offset asked for, or at 0 if the registry ignored it.
    pub(crate) offset: u64,
    pub(crate) stream: std::pin::Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
}

impl Registry {
    pub(crate) fn new(request: &PullRequest, reference: Reference) -> Result<Self, ImageError> {
        let plain = request.plain_http || reference.is_loopback();
        let config = ClientConfig {
            protocol: if plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            platform_resolver: None,
            user_agent: concat!("hearth/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config)
            .map_err(|e| failed("make a client for", reference.to_string())(e))?;
        let auth = match &request.auth {
            Some(auth) => Secret::Basic(auth.username.clone(), auth.password.clone()),
            None => Secret::Anonymous,
        };
        Ok(Self {
            client,
            reference,
            auth,
        })
    }

    /// A manifest or an index by the reference, or by a digest in the same repository, and
    /// its digest.
    pub(crate) async fn manifest(
        &self,
        by: Option<&str>,
        limit: u64,
    ) -> Result<(Bytes, String), ImageError> {
        let reference = match by {
            Some(digest) => self.reference.with_digest(digest),
            None => self.reference.clone(),
        };
        let what = reference.to_string();
        let mut attempt = 0;
        let (bytes, _) = loop {
            let answer = self
                .client
                .pull_manifest_raw(reference.oci(), &self.auth, &ACCEPTED)
                .await;
            match answer {
                Ok(answer) => break answer,
                Err(error) if transient(&error) && attempt + 1 < ATTEMPTS => {
                    attempt += 1;
                    pause(attempt).await;
                }
                Err(error) => return Err(failed("get the manifest of", what)(error)),
            }
        };
        if bytes.len() as u64 > limit {
            return Err(ImageError::Limit {
                what,
                limit,
                unit: "bytes of manifest",
            });
        }
        let actual = digest::of(&bytes);
        if let Some(expected) = reference.digest() {
            digest::check(&format!("manifest of {what}"), expected, actual.clone())?;
        }
        Ok((bytes, actual))
    }

    /// A blob from `offset` on.
    pub(crate) async fn blob(
        &self,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<Answer, OciDistributionError> {
        self.client
            .store_auth_if_needed(self.reference.oci().resolve_registry(), &self.auth)
            .await;
        let answer = self
            .client
            .pull_blob_stream_partial(self.reference.oci(), blob.digest.as_str(), offset, None)
            .await?;
        Ok(match answer {
            BlobResponse::Full(stream) => Answer {
                offset: 0,
                stream: stream.stream,
            },
            BlobResponse::Partial(stream) => Answer {
                offset,
                stream: stream.stream,
            },
        })
    }
}

/// Waits before repetition number `attempt`, counted from one.
pub(crate) async fn pause(attempt: u32) {
    tokio::time::sleep(FIRST_WAIT * 2_u32.pow(attempt.min(6) - 1)).await;
}

/// Whether the same request may succeed a little later.
pub(crate) fn transient(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::RequestError(error) => {
            !error.is_builder() && !error.is_redirect() && !error.is_decode()
        }
        OciDistributionError::IoError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| error.code == OciErrorCode::Toomanyrequests),
        _ => false,
    }
}

pub(crate) fn failed(
    action: &'static str,
    what: String,
) -> impl FnOnce(OciDistributionError) -> ImageError {
    move |source| ImageError::Registry {
        action,
        what,
        source: Box::new(source),
    }
}
