//! The shim as a detached process: it forks, and its child has a session of its own.

use std::process::Stdio;

use camino::Utf8Path;
use hearth_shim::Request;
use hearth_types::mark::OWNER_ENV;
use hearth_types::observe::{ProcessRole, ROLE_ENV};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::ANSWER_MAX;
use crate::VmmError;

/// Runs the shim and returns what it answers.
pub(super) async fn talk(shim: &Utf8Path, request: &Request) -> Result<Vec<u8>, VmmError> {
    run(shim, request).await.map_err(|source| VmmError::Io {
        operation: "run",
        path: shim.to_owned(),
        source,
    })
}

async fn run(shim: &Utf8Path, request: &Request) -> std::io::Result<Vec<u8>> {
    let request_text = serde_json::to_vec(request)?;
    let mut child = Command::new(shim)
        .args(["--id", &request.vm.to_string()])
        .env_clear()
        .env(OWNER_ENV, request.mark.to_string())
        .env(ROLE_ENV, ProcessRole::Shim.as_str())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A shim that ends early says why, or its silence does.
        drop(stdin.write_all(&request_text).await);
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    }
    // The child forked and ended at once; this only reaps it.
    child.wait().await?;
    Ok(answer)
}
