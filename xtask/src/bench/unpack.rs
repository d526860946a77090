//! A root filesystem's layer into an ext4 volume, plain and gzip, beside `tar`, `zcat | tar` and
//! umoci. Each sample gets a file system of its own: ext4 slows down where much was deleted.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail, ensure};
use hearth_image::Limits;
use hearth_image::unpack::{EnoughRoom, Layer, Unpacker};

use super::{Case, Context, made_once, tool};

/// Room for a root filesystem of some hundred MB.
const VOLUME: u64 = 4 << 30;
/// A Debian with compilers: about 500 MB in 20,000 files. Another one by this variable.
const ROOT_FS: &str = "HEARTH_BENCH_ROOTFS";
/// How many layers an image of several has.
const LAYERS: usize = 8;
const PACKAGES: &str = "build-essential,python3,git,systemd";

/// The layer as a plain tar.
pub(crate) fn plain(context: &Context) -> anyhow::Result<Vec<Case>> {
    let tar = root_fs(context)?;
    let volume = Volume::new(context);
    let theirs = {
        let (tar, to) = (tar.clone(), volume.mount.clone());
        move || tool("tar", ["-x", "-f", text(&tar)?, "-C", text(&to)?])
    };
    Ok(vec![
        volume.case("hearth", ours(&tar, &volume, false)),
        volume.case("hearth, digest taken", ours(&tar, &volume, true)),
        volume.case("tar -x", theirs),
    ])
}

/// The layer as registries have it.
pub(crate) fn gzip(context: &Context) -> anyhow::Result<Vec<Case>> {
    let tar = root_fs(context)?;
    let packed = packed(context, &tar)?;
    let volume = Volume::new(context);
    let theirs = {
        let (packed, to) = (packed.clone(), volume.mount.clone());
        move || zcat_and_tar(&packed, &to)
    };
    let umoci = {
        let layout = layout(context, &tar);
        let to = volume.mount.join("rootfs");
        move || {
            let image = match &layout {
                Ok(layout) => format!("{}:latest", layout.display()),
                Err(error) => bail!("umoci cannot be used: {error:#}"),
            };
            tool("umoci", ["raw", "unpack", "--image", &image, text(&to)?])
        }
    };
    Ok(vec![
        volume.case("hearth", ours(&packed, &volume, false)),
        volume.case("hearth, digest taken", ours(&packed, &volume, true)),
        volume.case("zcat | tar -x", theirs),
        volume.case("umoci raw unpack", umoci),
    ])
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

fn ours(layer: &Path, volume: &Volume, hash: bool) -> impl FnMut() -> anyhow::Result<()> + use<> {
    let (layer, mount) = (layer.to_owned(), volume.mount.clone());
    move || {
        let root = File::open(&mount).context("cannot open the mounted volume")?;
        let (mut room, cancelled) = (EnoughRoom, AtomicBool::new(false));
        let mut unpacker = Unpacker::new(root.as_fd(), &Limits::default(), &mut room, &cancelled)?;
        unpacker.layer(Layer {
            name: "layer",
            source: Box::new(File::open(&layer)?),
            total: None,
            packed_digest: None,
            unpacked_digest: None,
            hash,
        })?;
        ensure!(unpacker.entries() > 1000, "the layer is almost empty");
        Ok(())
    }
}

fn zcat_and_tar(packed: &Path, to: &Path) -> anyhow::Result<()> {
    let mut zcat = Command::new("zcat")
        .arg(packed)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run zcat")?;
    let pipe = zcat.stdout.take().context("zcat has no output")?;
    let tar = Command::new("tar")
        .args(["-x", "-C"])
        .arg(to)
        .stdin(pipe)
        .status()
        .context("cannot run tar")?;
    let zcat = zcat.wait().context("cannot wait for zcat")?;
    ensure!(tar.success() && zcat.success(), "zcat | tar failed");
    Ok(())
}

/// A fresh ext4 on a loop device for each sample.
#[derive(Clone)]
pub(crate) struct Volume {
    image: PathBuf,
    pub(crate) mount: PathBuf,
}

impl Volume {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            image: context.folder.join("volume"),
            mount: context.folder.join("mount"),
        }
    }

    pub(crate) fn case(
        &self,
        name: &str,
        work: impl FnMut() -> anyhow::Result<()> + 'static,
    ) -> Case {
        let (before, after) = (self.clone(), self.clone());
        Case::new(name, work)
            .before(move || before.make())
            .after(move || after.remove())
    }

    /// Makes and mounts it.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        let (image, mount) = (text(&self.image)?, text(&self.mount)?);
        File::create(&self.image)?.set_len(VOLUME)?;
        std::fs::create_dir_all(&self.mount)?;
        let lazy = "lazy_itable_init=1,lazy_journal_init=1";
        tool("mke2fs", ["-q", "-F", "-t", "ext4", "-E", lazy, image])?;
        tool("mount", ["-o", "loop", image, mount])?;
        // What earlier samples left to be written back is not this one's work.
        rustix::fs::sync();
        Ok(())
    }

    /// Unmounts and removes it.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        let unmounted = tool("umount", [text(&self.mount)?]);
        std::fs::remove_file(&self.image)?;
        unmounted
    }
}

/// The tar of a root filesystem, made once.
pub(crate) fn root_fs(context: &Context) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(ROOT_FS) {
        return Ok(path.into());
    }
    let tar = context.cache.join("rootfs.tar");
    made_once(&tar, |fresh| {
        let include = format!("--include={PACKAGES}");
        tool(
            "mmdebstrap",
            [
                "--quiet",
                "--variant=minbase",
                &include,
                "--format=tar",
                "bookworm",
                text(fresh)?,
            ],
        )
    })
    .with_context(|| format!("cannot make a root filesystem; {ROOT_FS} may name one"))?;
    Ok(tar)
}

fn packed(context: &Context, tar: &Path) -> anyhow::Result<PathBuf> {
    let packed = context.cache.join("rootfs.tar.gz");
    made_once(&packed, |fresh| {
        let output = File::create(fresh)?;
        let status = Command::new("gzip")
            .args(["-6", "-c"])
            .arg(tar)
            .stdout(output)
            .status()
            .context("cannot run gzip")?;
        ensure!(status.success(), "gzip failed");
        Ok(())
    })?;
    Ok(packed)
}

/// The same layer in an OCI layout, as umoci wants it.
pub(crate) fn layout(context: &Context, tar: &Path) -> anyhow::Result<PathBuf> {
    let layout = context.cache.join("oci");
    made_once(&layout, |fresh| {
        let image = format!("{}:latest", fresh.display());
        tool("umoci", ["init", "--layout", text(fresh)?])?;
        tool("umoci", ["new", "--image", &image])?;
        tool("umoci", ["raw", "add-layer", "--image", &image, text(tar)?])
    })?;
    Ok(layout)
}

/// The same root filesystem in an OCI layout of several layers, each with as many of its entries.
pub(crate) fn layered(context: &Context, tar: &Path) -> anyhow::Result<PathBuf> {
    let layout = context.cache.join("oci-layers");
    made_once(&layout, |fresh| {
        let (tree, part) = (context.folder.join("tree"), context.folder.join("part"));
        std::fs::create_dir_all(&tree)?;
        tool("tar", ["-xpf", text(tar)?, "-C", text(&tree)?])?;
        let list = ["--quoting-style=literal", "-tf"];
        let listed = Command::new("tar").args(list).arg(tar).output()?;
        ensure!(listed.status.success(), "tar cannot list {}", tar.display());
        let names: Vec<&[u8]> = listed
            .stdout
            .split_inclusive(|byte| *byte == b'\n')
            .collect();
        let image = format!("{}:latest", fresh.display());
        tool("umoci", ["init", "--layout", text(fresh)?])?;
        tool("umoci", ["new", "--image", &image])?;
        for (at, names) in names.chunks(names.len().div_ceil(LAYERS)).enumerate() {
            std::fs::write(&part, names.concat())?;
            let layer = context.folder.join(format!("layer-{at}.tar"));
            let [only, verbatim] = ["--no-recursion", "--verbatim-files-from"];
            let (file, from, list) = (text(&layer)?, text(&tree)?, text(&part)?);
            tool("tar", ["-cf", file, "-C", from, only, verbatim, "-T", list])?;
            tool(
                "umoci",
                ["raw", "add-layer", "--image", &image, text(&layer)?],
            )?;
            std::fs::remove_file(layer)?;
        }
        Ok(std::fs::remove_dir_all(tree)?)
    })?;
    Ok(layout)
}
