//! Manifests and indexes, as much of them as Hearth needs.

use serde::Deserialize;

use crate::{ImageError, Limits, digest};

/// Media types that are asked for, docker's and OCI's.
pub(crate) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Layers that are tars, plain or packed. How they are packed is read from their first bytes.
const LAYERS: [&str; 7] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/x-tar",
];

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// What an index says an image is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

/// One image.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What a reference can lead to.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    Image(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads a document; `what` names it in errors. One that could be read as an image and as
    /// an index is refused: two tools could see two different images.
    pub(crate) fn parse(what: &str, bytes: &[u8], limits: &Limits) -> Result<Self, ImageError> {
        let refuse = |why: String| ImageError::unsupported(what, why);
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|e| refuse(format!("it is not a manifest ({e})")))?;
        if raw.schema_version != 2 {
            let version = raw.schema_version;
            return Err(refuse(format!(
                "manifest schema {version} is not supported; push the image again with a current tool"
            )));
        }
        let document = match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => {
                let manifest = Manifest { config, layers };
                manifest.check(what, limits)?;
                Self::Image(manifest)
            }
            (None, None, Some(manifests)) => Self::Index(manifests),
            _ => return Err(refuse("it is neither an image nor an index".to_owned())),
        };
        let fits = match (raw.media_type.as_deref(), &document) {
            (None | Some(""), _) => true,
            (Some(kind), Self::Index(_)) => ACCEPTED[..2].contains(&kind),
            (Some(kind), Self::Image(_)) => ACCEPTED[2..].contains(&kind),
        };
        if !fits {
            let kind = raw.media_type.unwrap_or_default();
            return Err(refuse(format!(
                "media type {kind:?} does not fit its content"
            )));
        }
        Ok(document)
    }
}

impl Manifest {
    fn check(&self, what: &str, limits: &Limits) -> Result<(), ImageError> {
        let limit = |limit: u64, unit| ImageError::Limit {
            what: what.to_owned(),
            limit,
            unit,
        };
        if self.layers.is_empty() {
            return Err(ImageError::unsupported(what, "the image has no layers"));
        }
        if self.layers.len() > limits.layers {
            return Err(limit(limits.layers as u64, "layers"));
        }
        if self.config.size > limits.document {
            return Err(limit(limits.document, "bytes of configuration"));
        }
        digest::hex(&self.config.digest)?;
        let mut sum = 0_u64;
        for layer in &self.layers {
            digest::hex(&layer.digest)?;
            sum = sum.saturating_add(layer.size);
            if !LAYERS.contains(&layer.media_type.as_str()) {
                let kind = &layer.media_type;
                let why = format!("layers of media type {kind:?} are not supported");
                return Err(ImageError::unsupported(what, why));
            }
        }
        if sum > limits.download {
            return Err(limit(limits.download, "bytes of layers"));
        }
        Ok(())
    }

    /// Bytes of all layers as they are transferred.
    pub(crate) fn packed_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// A guess at the bytes of all layers unpacked: what gzip makes of system files. A wrong
    /// guess costs a few steps of growth.
    pub(crate) fn expected_size(&self) -> u64 {
        self.packed_size().saturating_mul(5) / 2
    }
}

/// An `os/architecture[/variant]` that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted(Platform);

impl Wanted {
    /// Reads the platform; the host's when none is given.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, ImageError> {
        let host = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let Some(text) = text else {
            return Ok(Self(Platform {
                os: "linux".to_owned(),
                architecture: host.to_owned(),
                variant: None,
            }));
        };
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        match (os, architecture, parts.next()) {
            (Some("linux"), Some(architecture), None) if !architecture.is_empty() => {
                Ok(Self(Platform {
                    os: "linux".to_owned(),
                    architecture: architecture.to_owned(),
                    variant: variant.map(str::to_owned),
                }))
            }
            _ => Err(ImageError::unsupported(
                format!("platform {text:?}"),
                "expected linux/ARCHITECTURE, such as linux/amd64",
            )),
        }
    }

    /// The first image for the platform.
    pub(crate) fn choose<'a>(
        &self,
        what: &str,
        manifests: &'a [Descriptor],
    ) -> Result<&'a Descriptor, ImageError> {
        let fits = |descriptor: &&Descriptor| {
            descriptor.platform.as_ref().is_some_and(|platform| {
                platform.os == self.0.os
                    && platform.architecture == self.0.architecture
                    && (self.0.variant.is_none() || platform.variant == self.0.variant)
            })
        };
        if let Some(descriptor) = manifests.iter().find(fits) {
            return Ok(descriptor);
        }
        let available = manifests
            .iter()
            .filter_map(|descriptor| descriptor.platform.as_ref())
            .map(|platform| format!("{}/{}", platform.os, platform.architecture))
            .collect::<Vec<_>>();
        Err(ImageError::Platform {
            what: what.to_owned(),
            platform: format!("{}/{}", self.0.os, self.0.architecture),
            available: if available.is_empty() {
                "nothing that names a platform".to_owned()
            } else {
                available.join(", ")
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_and_old_documents_are_refused() {
        let limits = Limits::default();
        let blob = format!(r#"{{"digest":"sha256:{}","size":1}}"#, "a".repeat(64));
        let foreign = blob.replace(
            '{',
            r#"{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","#,
        );
        for bad in [
            r#"{"schemaVersion":1,"name":"x"}"#.to_owned(),
            format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[],"manifests":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{foreign}]}}"#),
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#.to_owned(),
        ] {
            assert!(Document::parse("x", bad.as_bytes(), &limits).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms() {
        assert!(Wanted::parse(Some("windows/amd64")).is_err());
        assert!(Wanted::parse(Some("linux")).is_err());
        let entry = |architecture: &str| Descriptor {
            media_type: String::new(),
            digest: architecture.to_owned(),
            size: 0,
            platform: Some(Platform {
                os: "linux".to_owned(),
                architecture: architecture.to_owned(),
                variant: Some("v8".to_owned()),
            }),
            annotations: std::collections::BTreeMap::new(),
        };
        let index = [entry("amd64"), entry("arm64")];
        let choose = |text| Wanted::parse(Some(text)).unwrap().choose("x", &index);
        assert_eq!(choose("linux/arm64/v8").unwrap().digest, "arm64");
        let error = choose("linux/riscv64").unwrap_err().to_string();
        assert!(error.contains("linux/amd64, linux/arm64"), "{error}");
    }
}
