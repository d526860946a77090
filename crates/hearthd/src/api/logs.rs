//! `/v1/vms/{vm}/logs`: the console log as a stream of bytes.
//!
//! The log is written by the VM's shim and rotated by size; following it means following
//! the file of that name, over rotations, until the VM has ended.

mod present;

use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures::Stream;
use hearth_host::dirwatch::DirWatch;
use hearth_types::VmId;
use hearth_types::problem::{Code, Problem};
use hearth_vmm::{CONSOLE_LOG, VMM_LOG};
use serde::Deserialize;

use present::Present;

use super::error::{ApiError, ApiResult, InPath, Params, at_most};
use super::{Api, view};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// The most lines that can be asked for; without a number all come.
const MOST_LINES: u32 = 1_000_000;

/// Which log.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// What the guest wrote to its console.
    #[default]
    Console,
    /// What the VMM itself said.
    Vmm,
}

/// Options of `logs`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// Go on until the VM has ended.
    follow: Option<bool>,
    /// Only so many lines of what is there; all when absent.
    #[param(minimum = 0, maximum = 1000000)]
    tail: Option<u32>,
    /// Which log.
    #[serde(default)]
    #[param(inline)]
    source: Source,
}

/// Shows a log, and follows it if asked.
#[utoipa::path(get, path = "/v1/vms/{vm}/logs", tag = "vms", params(("vm" = String, Path), LogParams),
    responses((status = 200, content_type = "text/plain", body = String), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn logs(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Params(params): Params<LogParams>,
) -> ApiResult<Response> {
    at_most("tail", params.tail, MOST_LINES)?;
    let row = view::find(&api.engine, &vm).await?;
    let name = match params.source {
        Source::Console => CONSOLE_LOG,
        Source::Vmm => VMM_LOG,
    };
    let folder = api.engine.paths.vm(row.id);
    let (path, tail) = (folder.join(name), params.tail);
    let opened = tokio::task::spawn_blocking(move || Present::open(&path, tail));
    let (present, newest) = opened
        .await
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?
        .map_err(|error| {
            ApiError::new(
                Code::Internal,
                format!("the log of {} cannot be read: {error}", row.spec.name),
            )
        })?;
    let body = if params.follow.unwrap_or(false) {
        let follower = Follower::new(folder, name, newest).map_err(|error| {
            ApiError::new(
                Code::Internal,
                format!("the log cannot be followed: {error}"),
            )
        })?;
        HttpBody::from_stream(futures::StreamExt::chain(
            present.stream(),
            follow(api, row.id, follower),
        ))
    } else {
        HttpBody::from_stream(present.stream())
    };
    Ok((
        [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        body,
    )
        .into_response())
}

/// Opens a log without following links: the folder belongs to the VMM's user.
fn open(path: &Utf8Path) -> std::io::Result<Option<std::fs::File>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    match std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
    {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(std::io::Error::other(format!("{path} is not a file"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a growing log over rotations, woken by inotify.
struct Follower {
    folder: Utf8PathBuf,
    name: &'static str,
    file: Option<std::fs::File>,
    watch: DirWatch,
}

impl Follower {
    /// Goes on in the newest file, from this place in it.
    fn new(
        folder: Utf8PathBuf,
        name: &'static str,
        newest: Option<(std::fs::File, u64)>,
    ) -> std::io::Result<Self> {
        let watch = DirWatch::new(&folder)?;
        let mut file = None;
        if let Some((mut newest, from)) = newest {
            newest.seek(SeekFrom::Start(from))?;
            file = Some(newest);
        }
        Ok(Self {
            folder,
            name,
            file,
            watch,
        })
    }

    /// What was added since the last read. At the end of a file that was rotated away it
    /// goes on with the new one.
    fn read(&mut self) -> std::io::Result<Vec<u8>> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let newest = open(&self.folder.join(self.name))?;
            let Some(file) = self.file.as_mut() else {
                self.file = newest;
                if self.file.is_none() {
                    return Ok(Vec::new());
                }
                continue;
            };
            let length = file.read(&mut chunk)?;
            if length > 0 {
                chunk.truncate(length);
                return Ok(chunk);
            }
            let rotated = match &newest {
                Some(newest) => newest.metadata()?.ino() != file.metadata()?.ino(),
                None => false,
            };
            if !rotated {
                let truncated = file.metadata()?.len() < file.stream_position()?;
                if truncated {
                    file.seek(SeekFrom::Start(0))?;
                    continue;
                }
                return Ok(Vec::new());
            }
            self.file = newest;
        }
    }
}

/// What is added to the log, until the VM has ended and everything was read.
fn follow(api: Api, vm: VmId, follower: Follower) -> impl Stream<Item = std::io::Result<Bytes>> {
    let changes = api.engine.changes();
    futures::stream::unfold(
        (api, follower, changes),
        move |(mut api, mut follower, mut changes)| async move {
            loop {
                changes.mark_unchanged();
                let ended = !is_alive(&api, vm).await;
                match follower.read() {
                    Ok(added) if !added.is_empty() => {
                        return Some((Ok(Bytes::from(added)), (api, follower, changes)));
                    }
                    Ok(_) if ended => return None,
                    Ok(_) => {}
                    Err(error) => return Some((Err(error), (api, follower, changes))),
                }
                tokio::select! {
                    _ = follower.watch.changed() => {}
                    _ = changes.changed() => {}
                    _ = api.stopping.changed() => return None,
                }
            }
        },
    )
}

/// A VM that runs, or that will start again by itself.
async fn is_alive(api: &Api, vm: VmId) -> bool {
    api.engine.parts.store.vm(vm).await.is_some_and(|row| {
        row.status.vmm.is_some()
            || row.status.next_start.is_some()
            || row.status.observed_generation < row.generation
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn following_goes_on_over_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let log = folder.join("console.log");
        std::fs::write(&log, "old\n").unwrap();
        let (_, newest) = Present::open(&log, None).unwrap();
        let mut follower = Follower::new(folder.to_owned(), "console.log", newest).unwrap();
        assert_eq!(follower.read().unwrap(), b"");
        std::fs::rename(&log, folder.join("console.log.1")).unwrap();
        std::fs::write(&log, "new\n").unwrap();
        follower.watch.changed().await.unwrap();
        assert_eq!(follower.read().unwrap(), b"new\n");
        assert_eq!(follower.read().unwrap(), b"");
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("console.log")).unwrap();
        assert!(Present::open(&folder.join("console.log"), None).is_err());
    }
}
