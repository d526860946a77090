//! Credentials out of the person's own Docker config file. They go to the daemon with the
//! one request that needs them; the daemon keeps none.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use hearth_types::api::RegistryAuth;

use crate::output::Output;

/// The name under which Docker keeps the credentials of docker.io.
const DOCKER_HUB: &str = "index.docker.io";

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What the config says about one registry.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Auth(RegistryAuth),
    /// Kept where this program does not look.
    Elsewhere(String),
}

/// The credentials for the registry of `reference`, if the config file has some.
pub(crate) fn lookup(reference: &str, out: &Output) -> Option<RegistryAuth> {
    let path = config_path()?;
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            out.warn(format!(
                "cannot read {}: {error}; pulling without credentials",
                path.display()
            ));
            return None;
        }
    };
    let config: Config = match serde_json::from_str(&text) {
        Ok(config) => config,
        Err(error) => {
            // The line and column only: the message itself might quote a secret.
            out.warn(format!(
                "{} is not valid (line {}); pulling without credentials",
                path.display(),
                error.line()
            ));
            return None;
        }
    };
    let registry = registry_of(reference);
    match find(&config, &registry) {
        Found::Nothing => None,
        Found::Auth(auth) => Some(auth),
        Found::Elsewhere(place) => {
            out.warn(format!(
                "the credentials for {registry} are kept by {place}, which is not asked; pulling without"
            ));
            None
        }
    }
}

fn config_path() -> Option<PathBuf> {
    let folder = match std::env::var_os("DOCKER_CONFIG").filter(|v| !v.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

/// The registry's host as Docker keys it.
fn registry_of(reference: &str) -> String {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => {
            if matches!(host, "docker.io" | "registry-1.docker.io") {
                DOCKER_HUB.to_owned()
            } else {
                host.to_owned()
            }
        }
        _ => DOCKER_HUB.to_owned(),
    }
}

/// `https://index.docker.io/v1/` and `index.docker.io` name the same.
fn host_of_key(key: &str) -> &str {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    bare.split('/').next().unwrap_or_default()
}

fn find(config: &Config, registry: &str) -> Found {
    let helper = config
        .cred_helpers
        .iter()
        .find(|(k, _)| host_of_key(k) == registry);
    if let Some((_, helper)) = helper {
        return Found::Elsewhere(format!("docker-credential-{helper}"));
    }
    let entry = config
        .auths
        .iter()
        .find(|(k, _)| host_of_key(k) == registry);
    let Some((_, entry)) = entry else {
        return Found::Nothing;
    };
    if !entry.identitytoken.is_empty() {
        return Found::Elsewhere("an identity token".to_owned());
    }
    if !entry.username.is_empty() {
        return Found::Auth(RegistryAuth {
            username: entry.username.clone(),
            password: entry.password.clone(),
        });
    }
    let decoded = decode_base64(&entry.auth).and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((username, password)) => Found::Auth(RegistryAuth {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        }),
        // An empty entry says that a store has it.
        None => match &config.creds_store {
            Some(store) => Found::Elsewhere(format!("docker-credential-{store}")),
            None => Found::Nothing,
        },
    }
}

/// RFC 4648 base64, with or without padding; `None` for anything else.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let missing = 4 - group.len();
        if missing == 3 {
            return None;
        }
        bits <<= 6 * missing;
        bytes.extend_from_slice(&bits.to_be_bytes()[1..4 - missing]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    fn auth(username: &str, password: &str) -> Found {
        Found::Auth(RegistryAuth {
            username: username.to_owned(),
            password: password.to_owned(),
        })
    }

    #[test]
    fn base64_vectors_of_the_rfc() {
        for (text, plain) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(
                decode_base64(text).as_deref(),
                Some(plain.as_bytes()),
                "{text}"
            );
        }
        for bad in ["Z", "Zm9vY", "Z$==", "Zm 9v"] {
            assert_eq!(decode_base64(bad), None, "{bad:?} was accepted");
        }
    }

    #[test]
    fn registries_of_references() {
        for (reference, registry) in [
            ("debian:12", DOCKER_HUB),
            ("library/debian", DOCKER_HUB),
            ("docker.io/library/debian", DOCKER_HUB),
            ("localhost:5000/demo:1", "localhost:5000"),
            ("localhost/demo", "localhost"),
            ("ghcr.io/a/b", "ghcr.io"),
        ] {
            assert_eq!(registry_of(reference), registry, "{reference}");
        }
    }

    #[test]
    fn credentials_are_found_in_each_form() {
        let config = config(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"bWU6cGE6c3M="},
                "localhost:5000":{"username":"u","password":"p"},
                "token.example":{"identitytoken":"t"},
                "empty.example":{}},
              "credHelpers":{"helped.example":"pass"},"credsStore":"desktop","other":1}"#,
        );
        assert_eq!(find(&config, DOCKER_HUB), auth("me", "pa:ss"));
        assert_eq!(find(&config, "localhost:5000"), auth("u", "p"));
        assert_eq!(find(&config, "unknown.example"), Found::Nothing);
        for (registry, place) in [
            ("token.example", "an identity token"),
            ("helped.example", "docker-credential-pass"),
            ("empty.example", "docker-credential-desktop"),
        ] {
            assert_eq!(find(&config, registry), Found::Elsewhere(place.to_owned()));
        }
    }
}
