//! Names of images, by docker.io's conventions.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::ImageError;

/// A reference in full form: registry, repository, tag or digest.
///
/// `debian` means `docker.io/library/debian:latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(oci_client::Reference);

impl Reference {
    /// The registry's host and port, such as `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The digest, if the reference names one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// The tag, if the reference names one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// Whether the registry is on this machine, so that plain HTTP harms nobody.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let registry = self.registry();
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        host == "localhost"
            || host.ends_with(".localhost")
            || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    pub(crate) fn oci(&self) -> &oci_client::Reference {
        &self.0
    }

    pub(crate) fn with_digest(&self, digest: &str) -> Self {
        Self(self.0.clone_with_digest(digest.to_owned()))
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let refused = |why: String| ImageError::Reference {
            reference: text.to_owned(),
            why,
        };
        let reference: oci_client::Reference = text
            .parse()
            .map_err(|e: oci_client::ParseError| refused(e.to_string()))?;
        if let Some(digest) = reference.digest()
            && digest.parse::<hearth_types::ImageId>().is_err()
        {
            return Err(refused("only sha256 digests are accepted".to_owned()));
        }
        Ok(Self(reference))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_conventions() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (short, full, loopback) in [
            ("debian", "docker.io/library/debian:latest", false),
            ("debian:12", "docker.io/library/debian:12", false),
            ("me/app", "docker.io/me/app:latest", false),
            ("quay.io/a/b:1", "quay.io/a/b:1", false),
            ("localhost:5000/x", "localhost:5000/x:latest", true),
            ("localhost/x", "localhost/x:latest", true),
            ("127.0.0.1:5000/x/y:z", "127.0.0.1:5000/x/y:z", true),
            (
                "127.0.0.1.example.com/x",
                "127.0.0.1.example.com/x:latest",
                false,
            ),
            (
                "localhost.example.com/x",
                "localhost.example.com/x:latest",
                false,
            ),
            (
                &format!("debian@{digest}"),
                &format!("docker.io/library/debian@{digest}"),
                false,
            ),
        ] {
            let reference: Reference = short.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{short}");
            assert_eq!(reference.is_loopback(), loopback, "{short}");
        }
        for bad in ["", "A", "a b", "x@sha256:12", "-x", "x:", "http://x/y"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} was accepted");
        }
    }
}
