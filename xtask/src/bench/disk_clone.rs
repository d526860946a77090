//! A VM's root disk from an image's volume: ours beside `cp --sparse=always` and `cp --reflink`.

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::{FileVolumes, Volumes};
use hearth_types::units::Bytes;

use super::{Case, Context, tool};

/// Like a small root filesystem: 256 MiB of data in a volume of 2 GiB.
const DATA: usize = 256 << 20;
const VOLUME: Bytes = Bytes::gib(2);
const GROWN: Bytes = Bytes::gib(8);

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    let folder = Utf8PathBuf::from_path_buf(context.folder.clone())
        .ok()
        .context("the build folder's path is not UTF-8")?;
    let source = folder.join("source");
    make_source(&source)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let (from, to) = (source.clone(), folder.join("ours"));
    let ours = Case::new("hearth", move || {
        runtime
            .block_on(FileVolumes::default().clone_from(&from, &to, GROWN, 0))
            .map(drop)
            .context("the clone failed")
    });
    let mut cases = vec![removing(ours, folder.join("ours"))];
    for (name, options) in [
        (
            "cp --sparse=always, sync",
            ["--sparse=always", "--reflink=never"],
        ),
        (
            "cp --reflink=auto, sync",
            ["--sparse=auto", "--reflink=auto"],
        ),
    ] {
        let (from, to) = (source.clone(), folder.join("theirs"));
        let case = Case::new(name, move || {
            tool("cp", [options[0], options[1], from.as_str(), to.as_str()])?;
            tool("truncate", ["-s", &GROWN.0.to_string(), to.as_str()])?;
            // Ours is durable when it is done.
            tool("sync", [to.as_str()])
        });
        cases.push(removing(case, folder.join("theirs")));
    }
    Ok(cases)
}

fn removing(case: Case, path: Utf8PathBuf) -> Case {
    // What earlier samples left to be written back is not this one's work.
    case.before(|| {
        rustix::fs::sync();
        Ok(())
    })
    .after(move || match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    })
}

fn make_source(path: &Utf8Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).with_context(|| format!("cannot create {path}"))?;
    let chunk: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    file.set_len(VOLUME.0)?;
    // In pieces with holes between them, as a file system lies in its volume.
    for piece in 0..(DATA / chunk.len()) as u64 {
        file.write_all_at(&chunk, piece * (7 << 20))?;
    }
    file.sync_all().context("cannot sync the source")
}
