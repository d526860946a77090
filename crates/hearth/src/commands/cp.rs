//! `hearth cp`: docker's meaning of source and destination, over tar streams.
//!
//! ```text
//! VM:/etc/hosts  copy.txt      the file as copy.txt
//! VM:/etc        folder        folder/etc
//! VM:/etc/.      folder        what is in /etc, into folder
//! file           VM:/tmp       /tmp/file
//! VM:/etc        -             a tar stream on standard output
//! -              VM:/srv       a tar stream from standard input, into /srv
//! ```

mod pack;
pub(crate) mod pipe;
mod unpack;

use std::path::{Path, PathBuf};

use clap::Args;
use futures::TryStreamExt;
use tar::EntryType;

use hearth_client::ByteStream;

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::stdio::{self, RawOutput};

/// Copies files and folders between a VM and this machine
///
/// VM:PATH is in the guest. A source folder that ends in /. means what is in it; - means a
/// tar stream.
#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// Keep owners, not only modes and times (into the guest)
    #[arg(short, long)]
    archive: bool,

    /// VM:PATH, PATH or -
    #[arg(value_name = "SOURCE")]
    source: String,

    /// VM:PATH, PATH or -
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// One side of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Stream,
    Local(String),
    Guest { vm: String, path: String },
}

impl Place {
    /// A text with a slash before its first colon is a path of ours: `./a:b`.
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((vm, path)) if !vm.is_empty() && !vm.contains('/') && vm != "." => Self::Guest {
                vm: vm.to_owned(),
                // As docker: paths of the guest begin at its root.
                path: if path.starts_with('/') {
                    path.to_owned()
                } else {
                    format!("/{path}")
                },
            },
            _ => Self::Local(text.to_owned()),
        }
    }
}

pub(crate) async fn run(context: &Context, args: CpArgs) -> Outcome {
    let source = Place::parse(&args.source);
    let destination = Place::parse(&args.destination);
    match (source, destination) {
        (Place::Guest { vm, path }, Place::Stream) => to_stdout(context, &vm, &path).await,
        (Place::Guest { vm, path }, Place::Local(to)) => download(context, &vm, &path, &to).await,
        (Place::Stream, Place::Guest { vm, path }) => from_stdin(context, &vm, &path).await,
        (Place::Local(from), Place::Guest { vm, path }) => {
            upload(context, &from, &vm, &path, args.archive).await
        }
        _ => Err(
            Failure::usage("One of the two must be a path in a VM: VM:PATH")
                .hint("between two VMs: hearth cp A:PATH - | hearth cp - B:FOLDER"),
        ),
    }
}

async fn to_stdout(context: &Context, vm: &str, path: &str) -> Outcome {
    let mut stream = context.client.download(vm, source_path(path)).await?;
    let mut output = RawOutput::new();
    while let Some(bytes) = stream.try_next().await? {
        output.stdout(&bytes).await?;
    }
    Ok(exit_codes::OK)
}

async fn from_stdin(context: &Context, vm: &str, path: &str) -> Outcome {
    let stdin = pipe::stream(stdio::stdin());
    context.client.upload(vm, path, stdin).await?;
    Ok(exit_codes::OK)
}

/// Whether a source means what is in the folder.
fn means_contents(path: &str) -> bool {
    path.ends_with("/.") || path == "."
}

/// The source without the `/.` and slashes at its end.
fn source_path(path: &str) -> &str {
    let path = path
        .strip_suffix("/.")
        .unwrap_or(path)
        .trim_end_matches('/');
    if path.is_empty() { "/" } else { path }
}

/// The last part of a path, if it has one that names something.
fn base_name(path: &str) -> Option<String> {
    let name = source_path(path).rsplit('/').next()?;
    (!matches!(name, "" | "." | "..")).then(|| name.to_owned())
}

/// The folder and the name in it under which the first entry of an archive is to appear;
/// no name when the folder itself is the first entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    folder: PathBuf,
    name: Option<String>,
}

async fn download(context: &Context, vm: &str, path: &str, to: &str) -> Outcome {
    let target = local_target(path, to)?;
    let stream = context.client.download(vm, source_path(path)).await?;
    let must_be_folder = to.ends_with('/') && !Path::new(to).exists();
    let skipped = unpack_stream(stream, target, must_be_folder).await?;
    for entry in skipped {
        context
            .out
            .warn(format!("left out {entry}: not a file, folder or link"));
    }
    Ok(exit_codes::OK)
}

fn local_target(path: &str, to: &str) -> Result<Target, Failure> {
    let destination = Path::new(to);
    if destination.is_dir() {
        return Ok(Target {
            folder: destination.to_owned(),
            name: if means_contents(path) {
                None
            } else {
                base_name(path)
            },
        });
    }
    let name = base_name(to)
        .ok_or_else(|| Failure::usage(format!("{to:?} is not a usable destination")))?;
    let parent = Path::new(source_path(to)).parent();
    let folder = parent
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Failure::new(
            exit_codes::NOT_FOUND,
            format!("There is no folder {}", folder.display()),
        ));
    }
    Ok(Target {
        folder: folder.to_owned(),
        name: Some(name),
    })
}

async fn unpack_stream(
    mut stream: ByteStream,
    target: Target,
    must_be_folder: bool,
) -> Result<Vec<String>, Failure> {
    let (sender, reader) = pipe::reader();
    let unpacking =
        tokio::task::spawn_blocking(move || unpack::unpack(reader, &target, must_be_folder));
    // A failed stream must not look like a whole archive: its error comes before its end.
    let mut broken = None;
    loop {
        match stream.try_next().await {
            Ok(Some(bytes)) => {
                if sender.send(Ok(bytes)).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                let told = std::io::Error::other("the stream broke");
                drop(sender.send(Err(told)).await);
                broken = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let unpacked = unpacking
        .await
        .map_err(|e| Failure::because(exit_codes::FAILURE, "Unpacking ended early", &e))?;
    match broken {
        Some(error) => Err(error.into()),
        None => unpacked,
    }
}

/// What is at a path of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Folder,
    Link,
    Other,
}

/// What a copy to `path` finds there. As with docker, a link to a folder is that folder.
async fn destination(context: &Context, vm: &str, path: &str) -> Result<There, Failure> {
    match look(context, vm, path).await? {
        There::Link => match look(context, vm, &format!("{path}/.")).await {
            Ok(There::Folder) => Ok(There::Folder),
            // A link to a file, or to nothing: it is replaced as a file is.
            Ok(_) | Err(_) => Ok(There::Other),
        },
        there => Ok(there),
    }
}

/// Looks at the first entry of the path's archive; the rest is not fetched.
async fn look(context: &Context, vm: &str, path: &str) -> Result<There, Failure> {
    let mut stream = match context.client.download(vm, path).await {
        Ok(stream) => stream,
        // 404 may also mean the VM: its caller finds out.
        Err(error) if error.is_not_found() => return Ok(There::Nothing),
        Err(error) => return Err(error.into()),
    };
    let (sender, reader) = pipe::reader();
    let looking = tokio::task::spawn_blocking(move || unpack::first_kind(reader));
    while let Some(bytes) = stream.try_next().await? {
        if sender.send(Ok(bytes)).await.is_err() {
            break;
        }
    }
    drop(sender);
    match looking.await {
        Ok(Ok(EntryType::Directory)) => Ok(There::Folder),
        Ok(Ok(EntryType::Symlink)) => Ok(There::Link),
        Ok(Ok(_)) => Ok(There::Other),
        Ok(Err(e)) => Err(Failure::because(
            exit_codes::FAILURE,
            format!("Cannot tell what is at {vm}:{path}"),
            &e,
        )),
        Err(e) => Err(Failure::because(
            exit_codes::FAILURE,
            "The look ended early",
            &e,
        )),
    }
}

async fn upload(context: &Context, from: &str, vm: &str, path: &str, owners: bool) -> Outcome {
    let source = PathBuf::from(from);
    let meta = std::fs::symlink_metadata(source_path(from)).map_err(|e| {
        let code = if e.kind() == std::io::ErrorKind::NotFound {
            exit_codes::NOT_FOUND
        } else {
            exit_codes::FAILURE
        };
        Failure::because(code, format!("Cannot read {from}"), &e)
    })?;
    let folder = meta.is_dir();
    if means_contents(from) && !folder {
        return Err(Failure::usage(format!("{from} is not a folder")));
    }
    let to = source_path(path);
    let there = destination(context, vm, to).await?;
    let (into, name) = match there {
        There::Folder if means_contents(from) => (to.to_owned(), ".".to_owned()),
        There::Folder => (to.to_owned(), name_of(&source)?),
        There::Link | There::Other if folder => {
            return Err(Failure::new(
                exit_codes::CONFLICT,
                format!("Cannot copy the folder {from} onto {vm}:{path}: it is not a folder"),
            ));
        }
        There::Nothing if path.ends_with('/') && !folder => {
            return Err(Failure::new(
                exit_codes::NOT_FOUND,
                format!("There is no folder {vm}:{path}"),
            ));
        }
        There::Link | There::Other | There::Nothing => {
            let (parent, name) = to.rsplit_once('/').unwrap_or(("", to));
            let parent = if parent.is_empty() { "/" } else { parent };
            // Asked before anything is sent: an answer in the middle of a body can get lost.
            if there == There::Nothing && destination(context, vm, parent).await? != There::Folder {
                context.client.vm(vm).await?;
                return Err(Failure::new(
                    exit_codes::NOT_FOUND,
                    format!("There is no folder {vm}:{parent}"),
                ));
            }
            (parent.to_owned(), name.to_owned())
        }
    };
    let (writer, receiver) = pipe::writer();
    let root = PathBuf::from(source_path(from));
    let packing = tokio::task::spawn_blocking(move || pack::pack(writer, &root, &name, owners));
    let sent = context
        .client
        .upload(vm, &into, pipe::stream(receiver))
        .await;
    let packed = packing
        .await
        .map_err(|e| Failure::because(exit_codes::FAILURE, "Packing ended early", &e))?;
    // When packing failed by itself, the broken request is only its echo; when the other
    // side hung up, its answer says why.
    match (sent, packed) {
        (Ok(()), Ok(())) => Ok(exit_codes::OK),
        (Err(error), Err(pack::PackError::HungUp) | Ok(())) => Err(error.into()),
        (_, Err(error)) => Err(error.into_failure(from)),
    }
}

/// The name a local source has by itself, also for `..` and the like.
fn name_of(source: &Path) -> Result<String, Failure> {
    let whole = source.canonicalize();
    let name = match source.file_name() {
        Some(name) => Some(name.to_owned()),
        None => whole
            .ok()
            .and_then(|path| path.file_name().map(ToOwned::to_owned)),
    };
    name.and_then(|name| name.into_string().ok())
        .ok_or_else(|| Failure::usage(format!("{} has no usable name", source.display())))
}

#[cfg(test)]
mod tests;
