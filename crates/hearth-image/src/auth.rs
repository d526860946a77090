//! Credentials from the user's Docker configuration file. For the command line: the daemon
//! reads no user's files.

use std::collections::BTreeMap;
use std::fs;

use camino::Utf8Path;
use hearth_types::api::RegistryAuth;
use serde::Deserialize;

use crate::ImageError;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// The credentials for a registry (`docker.io`, `localhost:5000`) in a Docker `config.json`;
/// none when the file or the entry is not there.
///
/// # Errors
/// When the file cannot be read, or the credentials are kept by a helper program, which Hearth
/// does not run.
pub fn docker_config_auth(
    config: &Utf8Path,
    registry: &str,
) -> Result<Option<RegistryAuth>, ImageError> {
    let bytes = match fs::read(config) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::file("read", config)(error)),
    };
    let parsed: DockerConfig = serde_json::from_slice(&bytes)
        .map_err(|e| ImageError::Auth(format!("{config} is not a Docker configuration: {e}")))?;
    let names = names(registry);
    if let Some(helper) = names.iter().find_map(|name| parsed.cred_helpers.get(name)) {
        return Err(by_helper(config, registry, helper));
    }
    let Some(entry) = names.iter().find_map(|name| parsed.auths.get(name)) else {
        return Ok(None);
    };
    if entry.identitytoken.is_some() {
        return Err(ImageError::Auth(format!(
            "{config} has an identity token for {registry}, which is not supported; log in with a user name and a password or access token"
        )));
    }
    if let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        return decode(auth).map(Some).ok_or_else(|| {
            ImageError::Auth(format!("the entry for {registry} in {config} is malformed"))
        });
    }
    if let (Some(username), Some(password)) = (&entry.username, &entry.password) {
        return Ok(Some(RegistryAuth {
            username: username.clone(),
            password: password.clone(),
        }));
    }
    match &parsed.creds_store {
        // docker leaves an empty entry behind where a helper has the secret.
        Some(helper) => Err(by_helper(config, registry, helper)),
        None => Ok(None),
    }
}

fn by_helper(config: &Utf8Path, registry: &str, helper: &str) -> ImageError {
    ImageError::Auth(format!(
        "{config} leaves the credentials for {registry} to docker-credential-{helper}, which is not run; put an \"auth\" entry into a configuration of its own and point DOCKER_CONFIG at its folder"
    ))
}

/// The keys under which docker keeps a registry.
fn names(registry: &str) -> Vec<String> {
    let mut names = vec![
        registry.to_owned(),
        format!("https://{registry}"),
        format!("https://{registry}/v1/"),
        format!("https://{registry}/v2/"),
    ];
    if registry == "docker.io" {
        names.push("https://index.docker.io/v1/".to_owned());
        names.push("index.docker.io".to_owned());
    }
    names
}

/// `base64(user:password)`.
fn decode(auth: &str) -> Option<RegistryAuth> {
    let text = String::from_utf8(base64(auth)?).ok()?;
    let (username, password) = text.trim_end_matches('\0').split_once(':')?;
    Some(RegistryAuth {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').bytes();
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff).to_le_bytes()[0]);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(json: &str, registry: &str) -> Result<Option<RegistryAuth>, ImageError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), json).unwrap();
        docker_config_auth(Utf8Path::from_path(file.path()).unwrap(), registry)
    }

    #[test]
    fn entries_are_found_and_decoded() {
        // "me:s:cret" and "Aladdin:open sesame".
        let json = r#"{"auths":{"localhost:5000":{"auth":"bWU6czpjcmV0"},
            "https://index.docker.io/v1/":{"auth":"QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}}}"#;
        let auth = ask(json, "localhost:5000").unwrap().unwrap();
        assert_eq!(
            (auth.username.as_str(), auth.password.as_str()),
            ("me", "s:cret")
        );
        let auth = ask(json, "docker.io").unwrap().unwrap();
        assert_eq!(auth.password, "open sesame");
        assert_eq!(ask(json, "quay.io").unwrap(), None);
    }

    #[test]
    fn helpers_are_named_not_run() {
        for json in [
            r#"{"credHelpers":{"quay.io":"pass"}}"#,
            r#"{"auths":{"quay.io":{}},"credsStore":"pass"}"#,
        ] {
            let error = ask(json, "quay.io").unwrap_err().to_string();
            assert!(error.contains("docker-credential-pass"), "{error}");
        }
        assert!(ask(r#"{"auths":{"q.io":{"auth":"!"}}}"#, "q.io").is_err());
        let missing = docker_config_auth(Utf8Path::new("/no/such/file"), "q.io");
        assert_eq!(missing.unwrap(), None);
    }
}
