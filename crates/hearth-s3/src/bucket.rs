//! Asking a server for one bucket's objects.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, GetResult, ObjectStore as _, RetryConfig};

use crate::access::{Access, Credentials};
use crate::transport::{Connector, Headers, NoSuccess, Whole};
use crate::{Checksums, Environment, Location, S3Error, Settings};

/// A bucket on a server, and who asks.
#[derive(Debug)]
pub struct Bucket {
    store: AmazonS3,
    name: String,
    endpoint: String,
    region: String,
    asker: String,
}

/// What a server says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Bytes.
    pub size: u64,
    /// Changes with the object.
    pub etag: Option<String>,
    /// Its checksums.
    pub checksums: Checksums,
}

/// An object's bytes from some offset on.
pub struct Reading {
    /// The object, as it was when the reading began.
    pub object: Object,
    /// The bytes. An error is one of the connection: the same question may be asked again.
    pub stream: Pin<Box<dyn Stream<Item = Result<Bytes, S3Error>> + Send>>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = f.debug_struct("Reading");
        text.field("object", &self.object).finish_non_exhaustive()
    }
}

impl Bucket {
    /// The bucket of a location. Nothing is asked yet.
    ///
    /// # Errors
    /// When the settings or the credentials are not usable.
    pub fn of(
        location: &Location,
        settings: &Settings,
        host: &dyn Environment,
    ) -> Result<Self, S3Error> {
        let access = Access::find(settings, host)?;
        let name = location.bucket().to_owned();
        let http = access.endpoint.as_deref().map(is_http).transpose()?;
        let shown = access.endpoint.clone();
        let shown = shown.unwrap_or_else(|| format!("S3 in {}", access.region));
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| S3Error::Client {
            endpoint: shown.clone(),
            source,
        };
        let ca = match &settings.ca {
            Some(path) => authorities(path, host)?,
            None => Vec::new(),
        };
        let options = ClientOptions::new()
            .with_allow_http(http.unwrap_or(false))
            // Without it no checksums are told. It has to be signed, so it cannot come later.
            .with_default_headers(HeaderMap::from_iter([(
                HeaderName::from_static("x-amz-checksum-mode"),
                HeaderValue::from_static("ENABLED"),
            )]));
        // Whoever reads repeats: with what it has, and as long as it wants.
        let never = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let builder = AmazonS3Builder::new()
            .with_bucket_name(&name)
            .with_region(&access.region)
            .with_retry(never)
            .with_client_options(options)
            .with_http_connector(Connector { ca });
        let builder = addressed(builder, &access, &name, settings.path_style);
        let store = signed(builder, access.credentials, host).build();
        Ok(Self {
            store: store.map_err(|error| failed(Box::new(error)))?,
            name,
            endpoint: shown.clone(),
            region: access.region,
            asker: access.asker,
        })
    }

    /// The server, as shown to people.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What the server says of an object.
    ///
    /// # Errors
    /// When it is not there, not given, or there is no answer.
    pub async fn head(&self, key: &str) -> Result<Object, S3Error> {
        let head = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.get(key, head).await {
            Ok(answer) => Ok(object(&answer)),
            // An answer without a body has no code: one with a body says why.
            Err(S3Error::Refused { code: None, .. } | S3Error::Answer { code: None, .. }) => {
                let first = GetOptions {
                    range: Some(GetRange::Bounded(0..1)),
                    ..GetOptions::default()
                };
                self.get(key, first).await.map(|answer| object(&answer))
            }
            Err(error) => Err(error),
        }
    }

    /// An object's bytes from `offset` on, which must lie within it; with an ETag only those of
    /// that object.
    ///
    /// # Errors
    /// When it is not there, not given, another one, or there is no answer.
    pub async fn read(
        &self,
        key: &str,
        offset: u64,
        etag: Option<&str>,
    ) -> Result<Reading, S3Error> {
        let options = GetOptions {
            if_match: etag.map(str::to_owned),
            range: (offset > 0).then_some(GetRange::Offset(offset)),
            ..GetOptions::default()
        };
        let answer = self.get(key, options).await?;
        let object = object(&answer);
        // A server that knows no If-Match gives what it has now.
        if etag.is_some() && object.etag.as_deref() != etag {
            return Err(S3Error::Changed {
                object: self.shown(key),
            });
        }
        let (endpoint, shown) = (self.endpoint.clone(), self.shown(key));
        let stream = answer.into_stream().map(move |piece| {
            piece.map_err(|error| S3Error::Unreachable {
                endpoint: endpoint.clone(),
                object: shown.clone(),
                source: plain(error),
            })
        });
        Ok(Reading {
            object,
            stream: Box::pin(stream),
        })
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<GetResult, S3Error> {
        let path = Path::parse(key).map_err(|_| S3Error::Location {
            text: self.shown(key),
            why: "its key cannot be asked for",
        })?;
        let answer = self.store.get_opts(&path, options).await;
        answer.map_err(|error| self.failed(key, error))
    }

    fn shown(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    fn failed(&self, key: &str, error: object_store::Error) -> S3Error {
        let (endpoint, object) = (self.endpoint.clone(), self.shown(key));
        if find::<Whole>(&error).is_some() {
            return S3Error::NoRanges { endpoint, object };
        }
        let Some(answer) = find::<NoSuccess>(&error).cloned() else {
            return S3Error::Unreachable {
                endpoint,
                object,
                source: plain(error),
            };
        };
        let code = answer.code;
        match answer.status {
            404 => S3Error::NotFound {
                endpoint,
                object,
                code,
            },
            401 | 403 => S3Error::Refused {
                endpoint,
                object,
                asker: self.asker.clone(),
                code,
            },
            412 => S3Error::Changed { object },
            301 | 302 | 307 => self.elsewhere(object, answer.region),
            400 if answer.region.as_ref().is_some_and(|r| *r != self.region) => {
                self.elsewhere(object, answer.region)
            }
            status => S3Error::Answer {
                endpoint,
                object,
                status,
                code,
            },
        }
    }

    fn elsewhere(&self, object: String, region: Option<String>) -> S3Error {
        S3Error::Region {
            object,
            asked: self.region.clone(),
            region,
        }
    }
}

/// Where the bucket is asked for. AWS's own names have the bucket in front, if certificates are
/// made for such names: those of buckets with dots are not.
fn addressed(
    builder: AmazonS3Builder,
    access: &Access,
    bucket: &str,
    path_style: bool,
) -> AmazonS3Builder {
    match &access.endpoint {
        None => builder.with_virtual_hosted_style_request(!bucket.contains('.')),
        Some(endpoint) if path_style => builder
            .with_endpoint(endpoint.trim_end_matches('/'))
            .with_virtual_hosted_style_request(false),
        Some(endpoint) => {
            let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", endpoint));
            builder
                .with_endpoint(format!(
                    "{scheme}://{bucket}.{}",
                    host.trim_end_matches('/')
                ))
                .with_virtual_hosted_style_request(true)
        }
    }
}

fn signed(
    builder: AmazonS3Builder,
    credentials: Credentials,
    host: &dyn Environment,
) -> AmazonS3Builder {
    match credentials {
        Credentials::None => builder.with_skip_signature(true),
        Credentials::Keys {
            key_id,
            secret,
            token,
        } => {
            let builder = builder
                .with_access_key_id(key_id)
                .with_secret_access_key(secret);
            match token {
                Some(token) => builder.with_token(token),
                None => builder,
            }
        }
        Credentials::Instance => instance(builder, host),
    }
}

/// The variables by which containers are told of a metadata service of their own.
fn instance(builder: AmazonS3Builder, host: &dyn Environment) -> AmazonS3Builder {
    let known = [
        (
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        ),
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            AmazonS3ConfigKey::ContainerCredentialsFullUri,
        ),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
        ),
        (
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            AmazonS3ConfigKey::MetadataEndpoint,
        ),
    ];
    known
        .into_iter()
        .fold(builder, |builder, (name, key)| match host.variable(name) {
            Some(value) => builder.with_config(key, value),
            None => builder,
        })
}

/// Whether the endpoint says plain HTTP; nothing else does.
fn is_http(endpoint: &str) -> Result<bool, S3Error> {
    let refused = |why| S3Error::Endpoint {
        // What stands before an @ may be a password.
        endpoint: endpoint.rsplit('@').next().unwrap_or_default().to_owned(),
        why,
    };
    let (http, rest) = match endpoint.split_once("://") {
        Some(("http", rest)) => (true, rest),
        Some(("https", rest)) => (false, rest),
        _ => return Err(refused("it begins neither with https:// nor with http://")),
    };
    if rest.contains(['@', '?', '#', ' ']) || rest.is_empty() {
        return Err(refused("it is more or less than a host and a port"));
    }
    Ok(http)
}

fn authorities(path: &str, host: &dyn Environment) -> Result<Vec<reqwest::Certificate>, S3Error> {
    let failed = |source| S3Error::File {
        path: path.to_owned(),
        source,
    };
    let text = host.file(path).map_err(failed)?;
    let text = text.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    reqwest::Certificate::from_pem_bundle(text.as_bytes())
        .map_err(|error| failed(std::io::Error::other(error)))
}

fn object(answer: &GetResult) -> Object {
    let headers = answer.extensions.get::<Headers>();
    Object {
        size: answer.meta.size,
        etag: answer.meta.e_tag.clone(),
        checksums: headers
            .map(|headers| Checksums::of(&headers.0))
            .unwrap_or_default(),
    }
}

/// The cause of a kind below an error.
fn find<T: std::error::Error + 'static>(error: &object_store::Error) -> Option<&T> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// What is below the layers that repeat each other, without the address.
fn plain(error: object_store::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let mut text: Option<String> = None;
    let mut cause: Option<&(dyn std::error::Error + 'static)> =
        find::<HttpError>(&error).and_then(std::error::Error::source);
    while let Some(error) = cause {
        let here = error.to_string();
        text = Some(match text {
            Some(text) if text.contains(&here) => text,
            Some(text) => format!("{text}: {here}"),
            None => here,
        });
        cause = error.source();
    }
    match text {
        Some(text) => text.into(),
        // Not of the connection: of an answer that cannot be read.
        None => "the answer is not one that S3 gives".into(),
    }
}
