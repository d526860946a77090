//! An image's configuration document.

use std::collections::BTreeMap;

use hearth_types::image::ImageConfig;
use jiff::Timestamp;
use serde::Deserialize;

use crate::ImageError;

/// What the configuration says that Hearth keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Details {
    pub(crate) architecture: String,
    pub(crate) created: Option<Timestamp>,
    pub(crate) config: ImageConfig,
    /// Digests of the layers' tars, lowest first.
    pub(crate) diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Raw {
    architecture: String,
    os: String,
    created: Option<String>,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl Details {
    /// Reads the document for an image of `layers` layers; `what` names it in errors.
    pub(crate) fn parse(what: &str, bytes: &[u8], layers: usize) -> Result<Self, ImageError> {
        let refuse = |why: String| ImageError::unsupported(format!("configuration of {what}"), why);
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|e| refuse(format!("it is not an image configuration ({e})")))?;
        if raw.os != "linux" {
            let os = raw.os;
            return Err(refuse(format!(
                "the image is for {os:?}; only linux images run here"
            )));
        }
        if raw.rootfs.diff_ids.len() != layers {
            let named = raw.rootfs.diff_ids.len();
            return Err(refuse(format!(
                "it names {named} layers, the manifest {layers}"
            )));
        }
        let config = raw.config.unwrap_or_default();
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            architecture: raw.architecture,
            // Only shown to people, so a strange date is no reason to refuse the image.
            created: raw.created.and_then(|text| text.parse().ok()),
            config: ImageConfig {
                entrypoint: config.entrypoint.unwrap_or_default(),
                cmd: config.cmd.unwrap_or_default(),
                env: config.env.unwrap_or_default(),
                user: text(config.user),
                workdir: text(config.working_dir),
                exposed_ports: config
                    .exposed_ports
                    .unwrap_or_default()
                    .into_keys()
                    .collect(),
                stop_signal: text(config.stop_signal),
                labels: config.labels.unwrap_or_default(),
            },
            diff_ids: raw.rootfs.diff_ids,
        })
    }

    /// For files that say nothing of themselves.
    pub(crate) fn unknown(architecture: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            created: None,
            config: ImageConfig::default(),
            diff_ids: Vec::new(),
        }
    }

    /// The host's architecture in OCI's words.
    pub(crate) fn host_architecture() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }
}
