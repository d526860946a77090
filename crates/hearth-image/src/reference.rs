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

/// The registry of names that have none.
const HUB: &str = "docker.io";
/// Its other name, in old references.
const HUB_LEGACY: &str = "index.docker.io";
/// Longest repository in bytes (distribution/reference, `RepositoryNameTotalLengthMax`).
const REPOSITORY_MAX: usize = 255;
/// Longest tag in bytes (OCI distribution specification, "Pulling manifests").
const TAG_MAX: usize = 128;

impl FromStr for Reference {
    type Err = ImageError;

    /// By hand: the regular expression that `oci_client` has for this takes 20 MB and tens of
    /// milliseconds when it is first used, and every start of a VM looks up a reference.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let refused = |why: &str| ImageError::Reference {
            reference: text.to_owned(),
            why: why.to_owned(),
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before a slash is a registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = split_registry(name);
        if !is_registry(registry) {
            return Err(refused("the registry is not HOST or HOST:PORT"));
        }
        if !repository.split('/').all(is_component) {
            return Err(refused(
                "a name has parts of a-z, 0-9 and single '.', '_', '__' or '-' between them",
            ));
        }
        let repository = match registry {
            HUB if !repository.contains('/') => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        if repository.len() > REPOSITORY_MAX {
            return Err(refused("the name is longer than 255 characters"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refused(
                "a tag has 1 to 128 letters, digits, '_', '.' or '-' and begins with none of the last two",
            ));
        }
        if digest.is_some_and(|digest| digest.parse::<hearth_types::ImageId>().is_err()) {
            return Err(refused("only sha256 digests are accepted"));
        }
        let (registry, tag) = (registry.to_owned(), tag.map(str::to_owned));
        Ok(Self(match (tag, digest.map(str::to_owned)) {
            (Some(tag), Some(digest)) => {
                oci_client::Reference::with_tag_and_digest(registry, repository, tag, digest)
            }
            (None, Some(digest)) => {
                oci_client::Reference::with_digest(registry, repository, digest)
            }
            (tag, None) => {
                let tag = tag.unwrap_or_else(|| "latest".to_owned());
                oci_client::Reference::with_tag(registry, repository, tag)
            }
        }))
    }
}

/// The first part is a registry if it can be no user's name: it has a dot or a port, or is
/// `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((HUB_LEGACY, rest)) => (HUB, rest),
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (HUB, name),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Letters and digits with separators between them: one dot, one or two underscores, or any
/// number of dashes.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    let mut separators = bytes.split(|b| word(*b)).filter(|run| !run.is_empty());
    ends && separators
        .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=TAG_MAX).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with(['.', '-'])
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

    /// Whatever is accepted means the same to the registry's client; what it accepts beyond
    /// that is no name that a registry serves.
    #[test]
    fn as_the_client_reads_them() {
        let pieces = [
            "a",
            "0",
            "Z",
            "a.b",
            "a..b",
            "a_b",
            "a__b",
            "a___b",
            "a--b",
            "-a",
            "a-",
            ".",
            "",
            "é",
            "localhost",
            "index.docker.io",
            "docker.io",
            "h:5000",
            "h:",
            "[::1]:1",
            "A.b",
            "a.-b",
        ];
        let tags = ["", ":1", ":", ":v_1.-", ":.1", ":-1", ":a/b", ":é"];
        let mut accepted = 0;
        for first in pieces {
            for second in pieces {
                for third in ["", "/c", "/c/d", "/C", "//c", "/"] {
                    for tag in tags {
                        let text = format!("{first}/{second}{third}{tag}");
                        let theirs = text.parse::<oci_client::Reference>();
                        match (text.parse::<Reference>(), theirs) {
                            (Ok(ours), Ok(theirs)) => {
                                assert_eq!(ours.0, theirs, "{text}");
                                accepted += 1;
                            }
                            (Ok(_), Err(error)) => panic!("{text}: {error}"),
                            (Err(_), Ok(theirs)) => assert!(
                                theirs.repository().bytes().any(|b| b.is_ascii_uppercase())
                                    || text.contains('é'),
                                "{text} was refused"
                            ),
                            (Err(_), Err(_)) => {}
                        }
                    }
                }
            }
        }
        assert!(accepted > 100, "{accepted}");
    }

    #[test]
    fn lengths() {
        let tag = format!("x:{}", "t".repeat(128));
        assert!(tag.parse::<Reference>().is_ok());
        assert!(format!("{tag}t").parse::<Reference>().is_err());
        let name = format!("h.io/{}", "n".repeat(255));
        assert!(name.parse::<Reference>().is_ok());
        assert!(format!("{name}n").parse::<Reference>().is_err());
    }
}
