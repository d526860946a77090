//! Docker's credential helpers: `docker-credential-NAME get` reads a registry from its standard
//! input and writes the credentials, as JSON, to its standard output
//! (<https://github.com/docker/docker-credential-helpers>).

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use hearth_types::api::RegistryAuth;
use serde::Deserialize;

/// The longest answer that is read, in bytes. Tokens have a few kilobytes.
const MOST: u64 = 64 << 10;
/// The user name under which helpers keep an identity token in place of a password.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper about a registry; `None` if it knows nothing of it. The helper may ask the person
/// for a passphrase, so it has the terminal and as much time as it takes.
///
/// # Errors
/// Words for the person, without secrets: no such program, it failed, or its answer is unusable.
pub(super) fn ask(name: &str, registry: &str) -> Result<Option<RegistryAuth>, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err("its name is no program's name".to_owned());
    }
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input answers, or fails, all the same.
        stdin.write_all(registry.as_bytes()).ok();
    }
    let mut text = Vec::new();
    let read = child
        .stdout
        .take()
        .map_or(Ok(0), |stdout| stdout.take(MOST + 1).read_to_end(&mut text));
    let status = child.wait().map_err(|error| error.to_string())?;
    read.map_err(|error| error.to_string())?;
    if !status.success() {
        return unknown_to(&text, status);
    }
    if text.len() as u64 > MOST {
        return Err("its answer is too long".to_owned());
    }
    // The parser's own words might quote the secret.
    let answer: Answer =
        serde_json::from_slice(&text).map_err(|_| "its answer cannot be understood".to_owned())?;
    if answer.username == TOKEN_USER {
        return Err("it has an identity token, which is not used".to_owned());
    }
    Ok(Some(RegistryAuth {
        username: answer.username,
        password: answer.secret,
    }))
}

/// Helpers fail with these words, on their standard output, for what they do not know.
fn unknown_to(
    text: &[u8],
    status: std::process::ExitStatus,
) -> Result<Option<RegistryAuth>, String> {
    let text = String::from_utf8_lossy(text);
    if text.contains("credentials not found") {
        return Ok(None);
    }
    Err(format!("it ended with {status}"))
}
