//! Credentials out of the person's own Docker config file, or from the credential helper that it
//! names. They go to the daemon with the one request that needs them; the daemon keeps none.

mod helper;

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use serde::Deserialize;

use hearth_types::api::RegistryAuth;

use crate::output::Output;

/// The name under which Docker keeps the credentials of docker.io.
const DOCKER_HUB: &str = "index.docker.io";
/// The same, as Docker asks its credential helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

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
    /// Kept by `docker-credential-NAME`.
    Helper(String),
    /// In a form that is not used here.
    Unusable(&'static str),
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
        Found::Helper(name) => {
            let key = if registry == DOCKER_HUB {
                DOCKER_HUB_KEY
            } else {
                &registry
            };
            helper::ask(&name, key).unwrap_or_else(|problem| {
                out.warn(format!(
                    "docker-credential-{name} gives no credentials for {registry}: {problem}; pulling without"
                ));
                None
            })
        }
        Found::Unusable(what) => {
            out.warn(format!(
                "the Docker config has {what} for {registry}, which is not used; pulling without credentials"
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
        return Found::Helper(helper.clone());
    }
    let entry = config
        .auths
        .iter()
        .find(|(k, _)| host_of_key(k) == registry);
    // Docker asks the store whether or not the file has an (empty) entry for the registry.
    let stored = || {
        let store = config.creds_store.clone();
        store.map_or(Found::Nothing, Found::Helper)
    };
    let Some((_, entry)) = entry else {
        return stored();
    };
    if !entry.identitytoken.is_empty() {
        return Found::Unusable("an identity token");
    }
    if !entry.username.is_empty() {
        return Found::Auth(RegistryAuth {
            username: entry.username.clone(),
            password: entry.password.clone(),
        });
    }
    let decoded = BASE64.decode(entry.auth.trim()).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((username, password)) => Found::Auth(RegistryAuth {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        }),
        None => stored(),
    }
}

/// With or without padding.
const BASE64: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

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
                "bare.example":{"auth":"bWU6cA"},
                "empty.example":{},
                "odd.example":{"auth":"Z$=="}},
              "credHelpers":{"helped.example":"pass"},"credsStore":"desktop","other":1}"#,
        );
        assert_eq!(find(&config, DOCKER_HUB), auth("me", "pa:ss"));
        assert_eq!(find(&config, "localhost:5000"), auth("u", "p"));
        assert_eq!(find(&config, "bare.example"), auth("me", "p"));
        for (registry, helper) in [
            ("helped.example", "pass"),
            ("empty.example", "desktop"),
            ("odd.example", "desktop"),
            ("unknown.example", "desktop"),
        ] {
            assert_eq!(find(&config, registry), Found::Helper(helper.to_owned()));
        }
        assert_eq!(
            find(&config, "token.example"),
            Found::Unusable("an identity token")
        );
    }

    #[test]
    fn without_a_store_what_is_not_named_has_no_credentials() {
        let config = config(r#"{"auths":{"empty.example":{}}}"#);
        for registry in ["empty.example", "unknown.example"] {
            assert_eq!(find(&config, registry), Found::Nothing);
        }
    }
}
