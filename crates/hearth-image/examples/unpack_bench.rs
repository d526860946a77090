//! Times imports and pulls into a fresh store, stage by stage.
//!
//! `cargo run --release -p hearth-image --example unpack_bench -- FOLDER FILE|pull:REFERENCE…`
//! makes a store in a new folder below FOLDER for each argument, runs it, prints one line and
//! removes the store. `unpack:FILE` only unpacks, into a plain folder, without a volume.

use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_image::unpack::{EnoughRoom, Layer, Unpacker};
use hearth_image::{ImageError, ImageStore, Limits, ProgressSink, PullRequest};
use hearth_types::api::Progress;

/// Notes when each stage began.
struct Stages(Instant, Mutex<Vec<(f64, String)>>);

impl ProgressSink for Stages {
    fn report(&self, progress: Progress) {
        if let Progress::Stage { message } = progress
            && let Ok(mut stages) = self.1.lock()
        {
            stages.push((self.0.elapsed().as_secs_f64(), message));
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        say("usage: unpack_bench FOLDER FILE|pull:REFERENCE|unpack:FILE…");
        return ExitCode::FAILURE;
    };
    for what in arguments {
        if let Err(error) = one(Utf8Path::new(&folder), &what).await {
            say(&format!("{what}: {error:?}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn one(folder: &Utf8Path, what: &str) -> Result<(), ImageError> {
    let temporary = tempfile::tempdir_in(folder).map_err(|e| ImageError::Volume(Box::new(e)))?;
    let dir = Utf8PathBuf::try_from(temporary.path().to_owned())
        .map_err(|e| ImageError::Volume(Box::new(e)))?;
    if let Some(path) = what.strip_prefix("unpack:") {
        return plain(&dir, path);
    }
    let store = ImageStore::open(&dir, Limits::default())?;
    let stages = Stages(Instant::now(), Mutex::default());
    let record = match what.strip_prefix("pull:") {
        Some(reference) => {
            let request = PullRequest {
                reference: reference.to_owned(),
                ..PullRequest::default()
            };
            store.pull(request, &stages).await?
        }
        None => {
            store
                .import(Utf8Path::new(what), "bench:latest", None, &stages)
                .await?
        }
    };
    let total = stages.0.elapsed().as_secs_f64();
    let mib = |bytes: u64| bytes >> 20;
    say(&format!(
        "{what}: {total:.3} s, volume {} MiB, on disk {} MiB",
        mib(record.volume_bytes),
        mib(record.disk_bytes)
    ));
    for (at, stage) in stages.1.lock().iter().flat_map(|stages| stages.iter()) {
        say(&format!("  {at:8.3} s {stage}"));
    }
    Ok(())
}

fn plain(dir: &Utf8Path, path: &str) -> Result<(), ImageError> {
    let failed = |e: std::io::Error| ImageError::Volume(Box::new(e));
    let begin = Instant::now();
    let root = std::fs::File::open(dir).map_err(failed)?;
    let source = std::fs::File::open(path).map_err(failed)?;
    let (mut room, cancelled) = (EnoughRoom, AtomicBool::new(false));
    let mut unpacker = Unpacker::new(root.as_fd(), &Limits::default(), &mut room, &cancelled)?;
    unpacker.layer(Layer {
        name: path,
        source: Box::new(source),
        total: None,
        packed_digest: None,
        unpacked_digest: None,
        hash: false,
    })?;
    let took = begin.elapsed().as_secs_f64();
    say(&format!(
        "unpack {path}: {took:.3} s, {} entries",
        unpacker.entries()
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program's output")]
fn say(line: &str) {
    println!("{line}");
}
