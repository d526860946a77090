//! What can go wrong with an image.

use std::io;

use camino::Utf8PathBuf;
use hearth_host::loopdev::LoopError;
use hearth_host::mount::MountError;
use hearth_s3::S3Error;
use hearth_types::problem::{Code, Problem};
use oci_client::errors::OciDistributionError;

use crate::registry::transient;

/// An image that could not be pulled, imported, found, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is not an image reference.
    #[error(
        "{reference:?} is not an image reference ({why}); expected forms: debian, debian:12, localhost:5000/app:1, name@sha256:…"
    )]
    Reference {
        /// The text.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such image here.
    #[error("there is no image {0:?} here")]
    NotFound(String),
    /// No such job.
    #[error("there is no job {0:?}: no id, no beginning or end of one, and no image's name")]
    NoJob(String),
    /// A prefix of an id fits several images.
    #[error("{prefix:?} fits {count} images; give more digits")]
    Ambiguous {
        /// The prefix.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// The registry could not be reached or refused.
    #[error("cannot {action} {what}")]
    Registry {
        /// What was tried.
        action: &'static str,
        /// On what: a reference or a digest.
        what: String,
        /// Why.
        #[source]
        source: Box<OciDistributionError>,
    },
    /// The registry does not give the image to this asker.
    #[error("{registry} does not give {repository} to {asker}")]
    Login {
        /// The registry's host and port.
        registry: String,
        /// The image's repository.
        repository: String,
        /// Who asked, in words: `nobody who has not logged in`, `user "me"`.
        asker: String,
        /// What went wrong at the service that the registry sends logins to.
        #[source]
        source: Option<Box<OciDistributionError>>,
    },
    /// No secure connection to the registry.
    #[error("{registry} {why}")]
    Tls {
        /// The registry's host and port.
        registry: String,
        /// What is wrong with its side.
        why: &'static str,
        /// What to do about it.
        hint: &'static str,
        /// How the handshake failed.
        #[source]
        source: Box<OciDistributionError>,
    },
    /// A download kept breaking off.
    #[error("download of {what} broke off {attempts} times without progress at byte {offset}")]
    Download {
        /// The blob or object.
        what: String,
        /// Attempts in a row that brought nothing.
        attempts: u32,
        /// How far it came.
        offset: u64,
        /// The last failure.
        #[source]
        source: io::Error,
    },
    /// The content is not what its digest says.
    #[error("{what} has digest {actual}, expected {expected}")]
    Digest {
        /// What was read.
        what: String,
        /// The digest asked for.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// A manifest, index, configuration or archive that Hearth does not accept.
    #[error("{what} is not usable: {why}")]
    Unsupported {
        /// What was read.
        what: String,
        /// Why not, and what to do.
        why: String,
    },
    /// The index has nothing for the platform.
    #[error("{what} has no image for {platform}; it has: {available}")]
    Platform {
        /// The reference or file.
        what: String,
        /// What was asked for.
        platform: String,
        /// What there is.
        available: String,
    },
    /// An entry of an archive is refused, and the whole archive with it.
    #[error("{archive}: entry {entry:?} is refused: {why}")]
    Entry {
        /// The layer or file.
        archive: String,
        /// The entry's path as the archive has it.
        entry: String,
        /// Why.
        why: String,
    },
    /// An entry of an archive could not be written.
    #[error("{archive}: cannot write entry {entry:?}")]
    Write {
        /// The layer or file.
        archive: String,
        /// The entry's path as the archive has it.
        entry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An archive cannot be read.
    #[error("cannot read {archive}")]
    Archive {
        /// The layer or file.
        archive: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A limit is exceeded.
    #[error("{what} exceeds the limit of {limit} {unit}")]
    Limit {
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A file of the store or of the user.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document of the store cannot be read back.
    #[error("{path} is damaged; remove the image and pull it again")]
    Damaged {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An object of S3 could not be had.
    #[error(transparent)]
    S3(Box<S3Error>),
    /// The volume could not be made.
    #[error("cannot make the volume")]
    Volume(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A snapshot that is to become an image cannot.
    #[error("{}", .0.detail)]
    Snapshot(Box<Problem>),
    /// What holds layers failed.
    #[error("{}", .0.detail)]
    Layers(Box<Problem>),
    /// The asker went away.
    #[error("the operation was cancelled")]
    Cancelled,
}

impl ImageError {
    /// The stable code for the API.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Reference { .. }
            | Self::Unsupported { .. }
            | Self::Platform { .. }
            | Self::Entry { .. }
            | Self::Archive { .. }
            | Self::Limit { .. }
            | Self::Ambiguous { .. } => Code::Invalid,
            Self::NotFound(_) | Self::NoJob(_) => Code::NotFound,
            Self::S3(error) => match **error {
                S3Error::Location { .. }
                | S3Error::Endpoint { .. }
                | S3Error::Credentials { .. }
                | S3Error::File { .. } => Code::Invalid,
                S3Error::Client { .. } => Code::Internal,
                _ => Code::Upstream,
            },
            Self::Registry { .. }
            | Self::Login { .. }
            | Self::Tls { .. }
            | Self::Download { .. }
            | Self::Digest { .. } => Code::Upstream,
            Self::Write { source, .. } | Self::File { source, .. } => io_code(source),
            Self::Damaged { .. } | Self::Volume(_) => Code::Internal,
            Self::Snapshot(problem) | Self::Layers(problem) => problem.code,
            Self::Cancelled => Code::Unavailable,
        }
    }

    /// Whether the same may go better a little later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Registry { source, .. } => transient(source),
            // The service that checks logins has failed, not the login.
            Self::Login { source, .. } => source.is_some(),
            Self::Download { .. } => true,
            Self::S3(error) => error.is_temporary(),
            // The host may have been too busy; what the snapshot itself lacks stays as it is.
            Self::Snapshot(problem) | Self::Layers(problem) => {
                matches!(problem.code, Code::Internal | Code::Unavailable)
            }
            _ => false,
        }
    }

    /// A word for the kind of cause: few, so that they can be counted.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::NoJob(_) => "not_found",
            Self::Login { .. } => "login",
            Self::Digest { .. } => "digest",
            Self::Limit { .. } => "limit",
            Self::Reference { .. }
            | Self::Ambiguous { .. }
            | Self::Unsupported { .. }
            | Self::Platform { .. }
            | Self::Entry { .. }
            | Self::Archive { .. } => "refused",
            Self::Registry { source, .. } if is_missing(source) => "not_found",
            Self::Registry { .. } | Self::Tls { .. } | Self::Download { .. } => "network",
            Self::S3(error) => match **error {
                S3Error::NotFound { .. } => "not_found",
                S3Error::Refused { .. } | S3Error::Credentials { .. } => "login",
                S3Error::Location { .. } | S3Error::Endpoint { .. } => "refused",
                _ => "network",
            },
            Self::Write { source, .. } | Self::File { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => "disk_full",
                io::ErrorKind::NotFound => "not_found",
                _ => "internal",
            },
            Self::Snapshot(problem) | Self::Layers(problem) => match problem.code {
                Code::NotFound => "not_found",
                Code::Exhausted => "disk_full",
                Code::Conflict | Code::InUse | Code::Invalid => "refused",
                _ => "internal",
            },
            Self::Damaged { .. } | Self::Volume(_) | Self::Cancelled => "internal",
        }
    }

    /// What to do next, where there is advice beyond the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Login {
                source: Some(_), ..
            } => Some(
                "the service that checks logins for this registry has failed; try again later"
                    .to_owned(),
            ),
            Self::Login { registry, .. } => Some(format!(
                "check the name, and log in with an account that may read it: docker login {registry}"
            )),
            Self::Tls { hint, .. } => Some((*hint).to_owned()),
            Self::S3(error) => error.hint(),
            Self::Snapshot(problem) | Self::Layers(problem) => problem.hint.clone(),
            _ => None,
        }
    }

    pub(crate) fn file(
        action: &'static str,
        path: impl Into<Utf8PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            why: why.into(),
        }
    }
}

/// Whether a registry says that there is no such image.
fn is_missing(error: &OciDistributionError) -> bool {
    use oci_client::errors::OciErrorCode;
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|e| {
            matches!(
                e.code,
                OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
                    | OciErrorCode::BlobUnknown
            )
        }),
        _ => false,
    }
}

fn io_code(source: &io::Error) -> Code {
    match source.kind() {
        io::ErrorKind::StorageFull => Code::Exhausted,
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::Invalid,
        _ => Code::Internal,
    }
}

impl From<S3Error> for ImageError {
    fn from(error: S3Error) -> Self {
        Self::S3(Box::new(error))
    }
}

impl From<LoopError> for ImageError {
    fn from(error: LoopError) -> Self {
        Self::Volume(Box::new(error))
    }
}

impl From<MountError> for ImageError {
    fn from(error: MountError) -> Self {
        Self::Volume(Box::new(error))
    }
}
