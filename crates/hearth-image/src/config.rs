//! An image's configuration document.

use std::collections::BTreeMap;

use hearth_types::image::{ImageConfig, ImageHealthcheck};
use hearth_types::units::Span;
use jiff::Timestamp;
use serde::Deserialize;

use crate::ImageError;

/// The longest time that a health check may ask for.
const DAY_MILLIS: u64 = 24 * 3600 * 1000;
/// The most failures that it may forgive.
const MAX_RETRIES: u32 = 100;

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
    healthcheck: Option<RawHealthcheck>,
}

/// Docker's addition to the configuration (moby: image/spec/specs-go/v1, `HealthcheckConfig`).
/// Times are in nanoseconds; 0 and an absent field say nothing.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    test: Option<Vec<String>>,
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    retries: Option<i64>,
}

impl RawHealthcheck {
    /// `None` when it says that there is none, or says it in words that are not docker's: an
    /// image is not refused for its health check.
    fn into_check(self) -> Option<ImageHealthcheck> {
        let mut test = self.test?.into_iter();
        let command = match (test.next()?.as_str(), test.collect::<Vec<_>>()) {
            ("CMD", words) if !words.is_empty() => words,
            ("CMD-SHELL", words) if words.len() == 1 => {
                let shell = ["/bin/sh", "-c"].map(str::to_owned);
                shell.into_iter().chain(words).collect()
            }
            _ => return None,
        };
        let span = |nanos: Option<i64>, least: u64| {
            let millis = u64::try_from(nanos?).ok()?.div_ceil(1_000_000);
            (millis > 0).then(|| Span::millis(millis.clamp(least, DAY_MILLIS)))
        };
        Some(ImageHealthcheck {
            command,
            interval: span(self.interval, 1000),
            timeout: span(self.timeout, 100),
            start_period: span(self.start_period, 0),
            retries: self
                .retries
                .and_then(|count| u32::try_from(count).ok())
                .filter(|count| *count > 0)
                .map(|count| count.min(MAX_RETRIES)),
        })
    }
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
                healthcheck: config.healthcheck.and_then(RawHealthcheck::into_check),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn healthcheck(text: &str) -> Option<ImageHealthcheck> {
        let document = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"diff_ids":[]}},"config":{{"Healthcheck":{text}}}}}"#
        );
        let details = Details::parse("x", document.as_bytes(), 0).unwrap();
        details.config.healthcheck
    }

    #[test]
    fn dockers_health_check_is_read() {
        let text = r#"{"Test":["CMD-SHELL","curl -f localhost"],"Interval":5000000000,"Timeout":1,"StartPeriod":0,"Retries":4}"#;
        assert_eq!(
            healthcheck(text),
            Some(ImageHealthcheck {
                command: ["/bin/sh", "-c", "curl -f localhost"]
                    .map(str::to_owned)
                    .to_vec(),
                interval: Some(Span::secs(5)),
                timeout: Some(Span::millis(100)),
                start_period: None,
                retries: Some(4),
            })
        );
        let words = healthcheck(r#"{"Test":["CMD","/check","-q"]}"#).unwrap();
        assert_eq!(words.command, ["/check", "-q"]);
    }

    #[test]
    fn none_and_strange_ones_are_none() {
        for text in [
            "null",
            "{}",
            r#"{"Test":[]}"#,
            r#"{"Test":["NONE"]}"#,
            r#"{"Test":["CMD"]}"#,
            r#"{"Test":["curl"]}"#,
        ] {
            assert_eq!(healthcheck(text), None, "{text}");
        }
        let odd = healthcheck(r#"{"Test":["CMD","x"],"Interval":-1,"Retries":-1}"#).unwrap();
        assert_eq!((odd.interval, odd.retries), (None, None));
    }
}
