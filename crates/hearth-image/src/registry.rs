//! Talking to a registry: one client for one pull, with bounded retries.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use oci_client::RegistryOperation;
use oci_client::client::{BlobResponse, Certificate, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth as Secret;

use crate::manifest::{ACCEPTED, Descriptor};
use crate::tls::{self, Handshake};
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
    ca: Vec<Certificate>,
    /// Plain HTTP comes next if the registry does not speak TLS: it is on this machine.
    may_be_plain: bool,
}

/// A blob's bytes from some offset on.
pub(crate) struct Answer {
    /// Where the bytes start: at the offset asked for, or at 0 if the registry ignored it.
    pub(crate) offset: u64,
    pub(crate) stream: std::pin::Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
}

impl Registry {
    pub(crate) fn new(request: PullRequest, reference: Reference) -> Result<Self, ImageError> {
        let ca = request.ca.as_deref().map(tls::roots).transpose()?;
        let ca = ca.unwrap_or_default();
        let protocol = if request.plain_http {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        let auth = match request.auth {
            Some(auth) => Secret::Basic(auth.username, auth.password),
            None => Secret::Anonymous,
        };
        Ok(Self {
            client: client(&reference, protocol, ca.clone())?,
            may_be_plain: !request.plain_http && reference.is_loopback(),
            reference,
            auth,
            ca,
        })
    }

    /// A manifest or an index by the reference, or by a digest in the same repository, and
    /// its digest. The first one also finds out whether a registry on this machine speaks TLS.
    pub(crate) async fn manifest(
        &mut self,
        by: Option<&str>,
        limit: u64,
    ) -> Result<(Bytes, String), ImageError> {
        let reference = match by {
            Some(digest) => self.reference.with_digest(digest),
            None => self.reference.clone(),
        };
        let bytes = self.raw_manifest(&reference).await?;
        let what = reference.to_string();
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

    async fn raw_manifest(&mut self, reference: &Reference) -> Result<Bytes, ImageError> {
        let mut attempt = 0;
        loop {
            let answer = self
                .client
                .pull_manifest_raw(reference.oci(), &self.auth, &ACCEPTED)
                .await;
            match answer {
                Ok((bytes, _)) => {
                    self.may_be_plain = false;
                    return Ok(bytes);
                }
                Err(error) if self.may_be_plain && no_connection(&error) => {
                    self.may_be_plain = false;
                    let ca = self.ca.clone();
                    self.client = client(&self.reference, ClientProtocol::Http, ca)?;
                }
                Err(error) if transient(&error) && attempt + 1 < ATTEMPTS => {
                    attempt += 1;
                    pause(attempt).await;
                }
                Err(error) => {
                    let action = "get the manifest of";
                    return Err(self.failed(action, reference.to_string(), error).await);
                }
            }
        }
    }

    /// What a request's failure means to a person.
    pub(crate) async fn failed(
        &self,
        action: &'static str,
        what: String,
        error: OciDistributionError,
    ) -> ImageError {
        let registry = self.reference.registry().to_owned();
        if let Some(handshake) = tls::handshake(&error) {
            return handshake_failed(registry, handshake, error);
        }
        if !is_refusal(&error) {
            return failed(action, what)(error);
        }
        ImageError::Login {
            registry,
            repository: self.reference.oci().repository().to_owned(),
            asker: match &self.auth {
                Secret::Basic(username, _) => format!("user {username:?}"),
                _ => "anybody who has not logged in".to_owned(),
            },
            source: self.login_service_failure().await.map(Box::new),
        }
    }

    /// The client keeps it to itself when it gets no token. So ask again: a service that
    /// cannot be reached is another thing than a wrong password.
    async fn login_service_failure(&self) -> Option<OciDistributionError> {
        let asked = self
            .client
            .auth(self.reference.oci(), &self.auth, RegistryOperation::Pull);
        // Its answers are not repeated: nobody knows what they quote.
        let error = asked.await.err()?;
        matches!(error, OciDistributionError::RequestError(_)).then_some(error)
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

fn client(
    reference: &Reference,
    protocol: ClientProtocol,
    ca: Vec<Certificate>,
) -> Result<oci_client::Client, ImageError> {
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT),
        read_timeout: Some(SILENCE),
        platform_resolver: None,
        user_agent: concat!("hearth/", env!("CARGO_PKG_VERSION")),
        extra_root_certificates: ca,
        ..ClientConfig::default()
    };
    oci_client::Client::try_from(config)
        .map_err(|e| failed("make a client for", reference.to_string())(e))
}

fn handshake_failed(
    registry: String,
    handshake: Handshake,
    source: OciDistributionError,
) -> ImageError {
    let (why, hint) = match handshake {
        Handshake::Untrusted => (
            "shows a certificate of an authority that is not trusted here",
            "if the authority is yours, put its certificate into a PEM file and name that as REGISTRY_CA in the daemon's configuration",
        ),
        Handshake::BadCertificate => (
            "shows a certificate that is not valid for it",
            "it must be in date, name the host as it is written in the reference, and not be an authority's own",
        ),
        Handshake::NotTls => (
            "does not speak TLS",
            "if everybody on the way to it may read and change what goes over it, allow plain HTTP: --plain-http",
        ),
    };
    ImageError::Tls {
        registry,
        why,
        hint,
        source: Box::new(source),
    }
}

/// Whether no secure connection came about for a reason that plain HTTP might not have.
fn no_connection(error: &OciDistributionError) -> bool {
    let connecting = matches!(error, OciDistributionError::RequestError(e) if e.is_connect());
    connecting && matches!(tls::handshake(error), None | Some(Handshake::NotTls))
}

/// Whether the registry wants a login, or another one. Some say "denied" for it.
fn is_refusal(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::UnauthorizedError { .. } => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|e| matches!(e.code, OciErrorCode::Denied | OciErrorCode::Unauthorized)),
        _ => false,
    }
}

/// Waits before repetition number `attempt`, counted from one.
pub(crate) async fn pause(attempt: u32) {
    tokio::time::sleep(FIRST_WAIT * 2_u32.pow(attempt.min(6) - 1)).await;
}

/// Whether the same request may succeed a little later.
pub(crate) fn transient(error: &OciDistributionError) -> bool {
    match error {
        _ if tls::handshake(error).is_some() => false,
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

fn failed(action: &'static str, what: String) -> impl FnOnce(OciDistributionError) -> ImageError {
    move |source| ImageError::Registry {
        action,
        what,
        source: Box::new(source),
    }
}
