//! The host images: each a Debian root file system as a disk, with its kernel beside it,
//! made once for each recipe and shared by all runs, which never write to it.
//!
//! ```text
//!  cache/<hash of the recipe>/root.ext4  kernel  initrd  packages
//!  cache/minimal-<hash>/                 the same of the other kind
//!  cache/<hash>.new-<pid>/               being made; renamed when whole
//!  cache/kernel/                         Debian's kernel package, for guests
//!  cache/lock                            held while an image is made
//! ```

mod make;
mod recipe;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::{paths, process};

/// Makes the package source of the minimal host.
const OFFER: &str = include_str!("image/offer.sh");
/// How long a look for a program may take.
const STEP_DEADLINE: Duration = Duration::from_mins(5);
/// Images of a kind kept beside the newest, for those who go back and forth between two branches.
const KEPT: usize = 1;

/// What a host has before a scenario begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All that Hearth needs, and what scenarios look at the host with.
    Equipped,
    /// A Debian that boots and can be reached, and a package source on its own disk
    /// (`/usr/share/hearth-testbed/apt`) with what Hearth's package wants.
    Minimal,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Equipped, Self::Minimal];

    /// What the names of its images begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Equipped => "",
            Self::Minimal => "minimal-",
        }
    }
}

/// A host image, ready to boot.
#[derive(Debug, Clone)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The root file system: a raw disk that must not be written to.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.ext4")
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// The initramfs.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// The kernel's command line.
    #[must_use]
    pub fn cmdline(&self) -> &'static str {
        recipe::CMDLINE
    }

    /// Its name: a hash of the recipe.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// The image of this kind: from the cache, or made now.
///
/// # Errors
/// When it cannot be made: not root, a program missing, no Debian mirror.
pub fn obtain(kind: Kind, say: &dyn Fn(&str)) -> anyhow::Result<Image> {
    let cache = paths::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let folder = cache.join(key(kind));
    if folder.is_dir() {
        return Ok(Image { folder });
    }
    let lock = fs::File::create(cache.join("lock")).context("cannot make the cache's lock")?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).context("cannot lock the cache")?;
    // Another run may have made it meanwhile.
    if !folder.is_dir() {
        preconditions()?;
        let begun = Instant::now();
        say("making the host image; it is kept for later runs");
        make(kind, &cache, &folder, say)?;
        prune(kind, &cache, &folder)?;
        say(&format!("made in {} s", begun.elapsed().as_secs()));
    }
    Ok(Image { folder })
}

/// Hash of all that the image is made from. Package versions are not in it: a new image
/// follows from a new recipe, or from removing the cache.
fn key(kind: Kind) -> String {
    let mut sources = vec![
        include_str!("image/recipe.rs"),
        include_str!("image/make.rs"),
    ];
    if kind == Kind::Minimal {
        sources.push(OFFER);
    }
    let mut hash = Sha256::new();
    for source in sources {
        hash.update(source);
        hash.update([0]);
    }
    let digest = hash.finalize();
    let digest = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
    kind.prefix().to_owned() + &digest.collect::<String>()
}

fn preconditions() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the host image is made by root: it holds device nodes and other users' files");
    }
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs")] {
        let found = process::run(Command::new("which").arg(program), STEP_DEADLINE)?;
        if !found.success() {
            bail!("{program} is not installed: apt-get install {package}");
        }
    }
    Ok(())
}

fn make(kind: Kind, cache: &Path, folder: &Path, say: &dyn Fn(&str)) -> anyhow::Result<()> {
    let fresh = folder.with_extension(format!("new-{}", std::process::id()));
    let result = make::files(kind, cache, &fresh, say).and_then(|()| {
        fs::rename(&fresh, folder).with_context(|| format!("cannot name {}", folder.display()))
    });
    if result.is_err() {
        // The error that matters is the one above.
        drop(fs::remove_dir_all(&fresh));
    }
    result
}

/// Removes images that no run has wanted for long, and what interrupted builds left.
fn prune(kind: Kind, cache: &Path, current: &Path) -> anyhow::Result<()> {
    let mut old = Vec::new();
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let minimal = name.starts_with(Kind::Minimal.prefix());
        if minimal != (kind == Kind::Minimal) {
            continue;
        }
        let path = entry.path();
        if !path.join("root.ext4").exists() && !path.to_string_lossy().contains(".new-") {
            continue;
        }
        if path != current {
            old.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    old.sort();
    let unfinished = |path: &Path| path.to_string_lossy().contains(".new-");
    let (left_over, mut whole): (Vec<_>, Vec<_>) =
        old.into_iter().partition(|(_, path)| unfinished(path));
    whole.truncate(whole.len().saturating_sub(KEPT));
    for (_, path) in left_over.iter().chain(&whole) {
        // A run may still boot from it: its files are open and stay until it ends.
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
