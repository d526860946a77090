//! Dumps of guests' memory, on demand and when a guest's kernel panics, and where VMMs' cores go.
//!
//! ```text
//!  hearth dump ─────────────────────────────┐
//!  VMM has kept a guest that panicked ──────┤  looked at every 5 s where it is asked for
//!    └► the loop sees it off: before `quit` ─┴─► room? ─► file for the VMM ─► dump ─► size? ─► dumps/, mode 0600
//! ```
//! The folder lies in the VM's own: it goes with the VM. A dump that fails is told and holds up nothing: the
//! VMM is ended and its restart policy asked as ever.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::aside::aside;
use hearth_host::process::Condition;
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::history::{Dump, DumpKind};
use hearth_types::ids::VmId;
use hearth_types::observe::RunState;
use hearth_types::units::Bytes;
use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use tokio::sync::watch;

use crate::engine::Engine;

/// The folder of a VM's dumps, in the VM's own.
const FOLDER: &str = "dumps";
/// What the VMM writes into, in the VM's folder.
pub(crate) const UNFINISHED: &str = "guest.dump";
/// How a finished dump's name begins and ends: what `crash` and `makedumpfile` read, or a debugger.
const NAMES: [(DumpKind, &str, &str); 2] = [
    (DumpKind::GuestMemory, "guest-", ".kdump"),
    (DumpKind::VmmCore, "vmm-", ".core"),
];
/// How long a dump may take at most; a slow disk writes 4 GiB in less.
const DEADLINE: Duration = Duration::from_secs(540);
/// How often VMs are asked whether their guest has panicked.
const LOOK: Duration = Duration::from_secs(5);
/// How long such an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

impl Engine {
    /// The dumps that are kept of a VM, the newest first.
    ///
    /// # Errors
    /// When its folder cannot be read.
    pub async fn dumps(&self, vm: VmId) -> anyhow::Result<Vec<Dump>> {
        let folder = self.paths.vm(vm).join(FOLDER);
        tokio::task::spawn_blocking(move || list(&folder)).await?
    }

    /// Writes a guest's memory into a file now. `why` is said in the event.
    ///
    /// # Errors
    /// When the VMM cannot, there is no room, or it is larger than the VM's specification allows.
    pub async fn dump_guest(&self, row: &VmRow, why: &str) -> anyhow::Result<Dump> {
        let _dumping = Dumping::begin(self, row.id)?;
        let dir = self.paths.vm(row.id);
        self.room_for_dump(row, &dir).await?;
        let owner = if self.settings.unprivileged {
            row.leases.uid
        } else {
            0
        };
        let unfinished = dir.join(UNFINISHED);
        let path = unfinished.clone();
        tokio::task::spawn_blocking(move || make(&path, owner)).await??;
        let vmm = &self.parts.vmm;
        let dumped = vmm.dump_memory(row.id, &dir, UNFINISHED, DEADLINE).await;
        let (most, keep, now) = (
            row.spec.crash_dump.max_size,
            row.spec.crash_dump.keep,
            self.now(),
        );
        let finished = tokio::task::spawn_blocking(move || {
            let finished = dumped
                .map_err(anyhow::Error::from)
                .and_then(|()| finish(&unfinished, &dir.join(FOLDER), most, keep, now));
            if finished.is_err() {
                drop(std::fs::remove_file(&unfinished));
            }
            finished
        });
        let dump = finished.await??;
        let name = &row.spec.name;
        let message = format!(
            "{name}: its memory is in {} ({}): {why}",
            dump.file, dump.size
        );
        let details = serde_json::json!({ "file": dump.file, "size": dump.size });
        let event = NewEvent::info("vm.memory_dumped", message).vm(row.id, name);
        self.tell(event.details(details)).await;
        Ok(dump)
    }

    /// A pass has seen these: whose guests are kept when they panic.
    pub(crate) fn keep_guests(&self, rows: &[VmRow]) {
        let kept = rows
            .iter()
            .filter(|row| row.spec.crash_dump.guest_memory && row.status.vmm.is_some());
        *self.kept_guests.lock() = kept.map(|row| row.id).collect();
    }

    /// Takes the core that a VMM of this VM left into the VM's folder.
    ///
    /// # Errors
    /// When it is nobody's of this VM, or on another file system.
    pub(crate) async fn keep_core(&self, row: &VmRow, core: Utf8PathBuf) -> anyhow::Result<Dump> {
        let folder = self.paths.vm(row.id).join(FOLDER);
        let (uid, keep, now) = (row.leases.uid, row.spec.crash_dump.keep, self.now());
        aside(move || take_core(&core, uid, &folder, keep, now)).await?
    }

    async fn room_for_dump(&self, row: &VmRow, dir: &Utf8Path) -> anyhow::Result<()> {
        let room = self.parts.disks.room(dir).await?;
        let reserve = self.settings.policy.reserve.of(room.size);
        let (free, need) = (room.free.saturating_sub(reserve), row.spec.memory);
        if free < need.0 {
            let free = Bytes(free).human();
            bail!(
                "there is no room for a dump: it may take {need}, and {free} are free below {dir}"
            );
        }
        Ok(())
    }

    /// A VMM is about to be asked to quit: if its guest has panicked and its memory is wanted, this is
    /// the last chance.
    pub(crate) async fn dump_if_panicked(&self, row: &VmRow) {
        if !row.spec.crash_dump.guest_memory {
            return;
        }
        let dir = self.paths.vm(row.id);
        match self.parts.vmm.panicked(row.id, &dir).await {
            Ok(true) => {}
            // Nobody can be asked, so nobody can be dumped.
            Ok(false) | Err(_) => return,
        }
        if let Err(error) = self.dump_guest(row, "its kernel has panicked").await {
            let message = format!(
                "{}: its memory could not be dumped: {error:#}",
                row.spec.name
            );
            let event = NewEvent::info("vm.dump_failed", message).severity(Severity::Warning);
            self.tell(event.vm(row.id, &row.spec.name)).await;
        }
    }

    /// Nothing ends when a guest that is kept panics, so nobody is woken: it is asked for.
    pub(crate) async fn watch_for_panics(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let kept = self.kept_guests.lock().clone();
            for vm in kept {
                let Some(row) = self.parts.store.vm(vm).await else {
                    continue;
                };
                let Some(vmm) = row.status.vmm else {
                    continue;
                };
                let alive = self.parts.processes.condition(&vmm);
                if !matches!(alive, Ok(Condition::Runs)) {
                    continue;
                }
                let dir = self.paths.vm(row.id);
                let state = self.parts.vmm.run_state(row.id, &dir, ANSWER).await;
                if matches!(state, Ok(RunState::Ended)) {
                    self.look_at(row.id);
                }
            }
        }
    }
}

/// One dump of a VM at a time: they share a file.
struct Dumping<'a> {
    engine: &'a Engine,
    vm: VmId,
}

impl<'a> Dumping<'a> {
    fn begin(engine: &'a Engine, vm: VmId) -> anyhow::Result<Self> {
        if !engine.dumping.lock().insert(vm) {
            bail!("a dump of its memory is under way");
        }
        Ok(Self { engine, vm })
    }
}

impl Drop for Dumping<'_> {
    fn drop(&mut self) {
        self.engine.dumping.lock().remove(&self.vm);
    }
}

/// Where the kernel puts the core of a VMM, for people (core(5)).
#[must_use]
pub fn where_cores_go() -> String {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern");
    of_pattern(pattern.unwrap_or_default().trim())
}

fn of_pattern(pattern: &str) -> String {
    if let Some(program) = pattern.strip_prefix('|') {
        let program = program.split_whitespace().next().unwrap_or_default();
        let shown = if program.ends_with("systemd-coredump") {
            "; coredumpctl info COREDUMP_PID shows it"
        } else {
            ""
        };
        return format!("are given to {program}{shown}");
    }
    if pattern.starts_with('/') {
        return format!("are written to {pattern} (kernel.core_pattern)");
    }
    format!(
        "would be written to {pattern:?} in the VM's folder, where a VMM without privileges may not make files: \
         set kernel.core_pattern to an absolute path, or install systemd-coredump"
    )
}

/// An empty file that the VMM may write to, and nobody else may read.
fn make(path: &Utf8Path, owner: u32) -> anyhow::Result<()> {
    // Of a dump that a daemon did not live to finish.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {path}"));
        }
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::open(path.as_std_path(), flags, mode)
        .with_context(|| format!("cannot make {path}"))?;
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(owner),
        rustix::fs::Gid::from_raw(owner),
    );
    rustix::fs::fchown(&file, Some(uid), Some(gid))
        .with_context(|| format!("cannot give {path} to the VMM"))
}

/// Takes a dump from the VMM, puts it beside the others, and lets the oldest go.
fn finish(
    unfinished: &Utf8Path,
    folder: &Utf8Path,
    most: Bytes,
    keep: u32,
    now: Timestamp,
) -> anyhow::Result<Dump> {
    use std::os::unix::fs::MetadataExt as _;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(unfinished.as_std_path(), flags, Mode::empty())
        .with_context(|| format!("cannot open {unfinished}"))?;
    let file = std::fs::File::from(file);
    let meta = file.metadata()?;
    if !meta.is_file() {
        bail!("{unfinished} is no regular file");
    }
    let size = Bytes(meta.blocks().saturating_mul(512));
    if size > most {
        bail!("the dump takes {size}, and crash_dump.max_size is {most}: it is not kept");
    }
    let root = (rustix::fs::Uid::from_raw(0), rustix::fs::Gid::from_raw(0));
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(&file, Some(root.0), Some(root.1)).context("cannot take the dump")?;
    }
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).context("cannot take the dump")?;
    file.sync_all()?;
    let target = place(folder, DumpKind::GuestMemory, now)?;
    std::fs::rename(unfinished, &target).with_context(|| format!("cannot make {target}"))?;
    rotate(folder, DumpKind::GuestMemory, keep)?;
    Ok(Dump {
        kind: DumpKind::GuestMemory,
        file: target.into_string(),
        size,
        at: now,
    })
}

/// Takes the core that the kernel wrote for a VMM of this user. Whatever else has its name meanwhile
/// is left alone: the file that was looked at gets another name, then loses its first.
fn take_core(
    core: &Utf8Path,
    uid: u32,
    folder: &Utf8Path,
    keep: u32,
    now: Timestamp,
) -> anyhow::Result<Dump> {
    use std::os::unix::fs::MetadataExt as _;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(core.as_std_path(), flags, Mode::empty())
        .with_context(|| format!("cannot open {core}"))?;
    let file = std::fs::File::from(file);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != uid || meta.nlink() != 1 {
        bail!("{core} is not what a process of user {uid} left");
    }
    let target = place(folder, DumpKind::VmmCore, now)?;
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    let (here, follow) = (rustix::fs::CWD, rustix::fs::AtFlags::SYMLINK_FOLLOW);
    rustix::fs::linkat(here, &opened, here, target.as_std_path(), follow)
        .with_context(|| format!("cannot make {target} of {core}"))?;
    let (root, group) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::fs::fchown(&file, Some(root), Some(group)).context("cannot take the core")?;
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).context("cannot take the core")?;
    let same = |now: std::fs::Metadata| (now.dev(), now.ino()) == (meta.dev(), meta.ino());
    if core.symlink_metadata().is_ok_and(same) {
        std::fs::remove_file(core).with_context(|| format!("cannot remove {core}"))?;
    }
    rotate(folder, DumpKind::VmmCore, keep)?;
    Ok(Dump {
        kind: DumpKind::VmmCore,
        file: target.into_string(),
        size: Bytes(meta.blocks().saturating_mul(512)),
        at: now,
    })
}

/// The name of a new dump, in a folder that is there.
fn place(folder: &Utf8Path, kind: DumpKind, now: Timestamp) -> anyhow::Result<Utf8PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(folder)
        .with_context(|| format!("cannot make {folder}"))?;
    let stamp = now.strftime("%Y%m%dT%H%M%S%.3fZ");
    let names = NAMES.iter().filter(|(of, ..)| *of == kind);
    let name = names.map(|(_, before, after)| format!("{before}{stamp}{after}"));
    Ok(folder.join(name.collect::<String>()))
}

/// Lets the oldest of a kind go.
fn rotate(folder: &Utf8Path, kind: DumpKind, keep: u32) -> anyhow::Result<()> {
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let dumps = list(folder)?.into_iter().filter(|dump| dump.kind == kind);
    for old in dumps.skip(keep) {
        std::fs::remove_file(&old.file).with_context(|| format!("cannot remove {}", old.file))?;
    }
    Ok(())
}

fn list(folder: &Utf8Path) -> anyhow::Result<Vec<Dump>> {
    use std::os::unix::fs::MetadataExt as _;
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {folder}"))?,
    };
    let mut dumps = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {folder}"))?;
        let path = Utf8PathBuf::try_from(entry.path())?;
        let name = path.file_name().unwrap_or_default();
        let kind = NAMES
            .iter()
            .find(|(_, before, after)| name.starts_with(before) && name.ends_with(after));
        let Some((kind, ..)) = kind else {
            continue;
        };
        let meta = entry.metadata()?;
        dumps.push(Dump {
            kind: *kind,
            file: path.to_string(),
            size: Bytes(meta.blocks().saturating_mul(512)),
            at: Timestamp::try_from(meta.modified()?)?,
        });
    }
    // Of each kind the names are times.
    dumps.sort_by(|a: &Dump, b: &Dump| b.at.cmp(&a.at).then(b.file.cmp(&a.file)));
    Ok(dumps)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_newest_are_kept_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let (unfinished, folder) = (dir.join(UNFINISHED), dir.join(FOLDER));
        assert_eq!(list(&folder).unwrap(), []);
        for second in 1..=4 {
            make(&unfinished, rustix::process::geteuid().as_raw()).unwrap();
            std::fs::write(&unfinished, vec![7; 5000]).unwrap();
            let now = Timestamp::from_second(second).unwrap();
            finish(&unfinished, &folder, Bytes(1 << 20), 2, now).unwrap();
        }
        let kept = list(&folder).unwrap();
        let names: Vec<_> = kept.iter().map(|dump| dump.file.as_str()).collect();
        let name = |second| folder.join(format!("guest-19700101T00000{second}.000Z.kdump"));
        assert_eq!(names, [name(4), name(3)]);
        assert!(kept[0].size >= Bytes(5000));
        let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(names[0]), mode(folder.as_str())), (0o600, 0o700));
    }

    #[test]
    fn one_that_is_too_large_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let unfinished = dir.join(UNFINISHED);
        make(&unfinished, rustix::process::geteuid().as_raw()).unwrap();
        std::fs::write(&unfinished, vec![7; 100_000]).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let error = finish(&unfinished, &dir.join(FOLDER), Bytes(4096), 2, now).unwrap_err();
        assert!(
            error.to_string().contains("crash_dump.max_size"),
            "{error:#}"
        );
        assert_eq!(list(&dir.join(FOLDER)).unwrap(), []);
        // What a daemon left is no hindrance, and a link is not followed.
        std::fs::remove_file(&unfinished).unwrap();
        std::os::unix::fs::symlink("/dev/null", &unfinished).unwrap();
        make(&unfinished, rustix::process::geteuid().as_raw()).unwrap();
        assert!(unfinished.symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_core_is_taken_from_its_vmm_alone_and_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let (core, folder) = (dir.join("core.4711"), dir.join(FOLDER));
        let uid = rustix::process::geteuid().as_raw();
        let now = |second| Timestamp::from_second(second).unwrap();
        for second in 1..=3 {
            std::fs::write(&core, [7; 5000]).unwrap();
            let dump = take_core(&core, uid, &folder, 2, now(second)).unwrap();
            assert_eq!(dump.kind, DumpKind::VmmCore);
            assert!(!core.exists() && dump.size >= Bytes(5000));
        }
        let kept = list(&folder).unwrap();
        let name = |second| folder.join(format!("vmm-19700101T00000{second}.000Z.core"));
        let names: Vec<_> = kept.iter().map(|dump| dump.file.as_str()).collect();
        assert_eq!(names, [name(3), name(2)]);
        let mode = std::fs::metadata(names[0]).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        // Another's, one that has another name, and a link are none of ours.
        std::fs::write(&core, "another's").unwrap();
        take_core(&core, uid + 1, &folder, 2, now(4)).unwrap_err();
        std::fs::hard_link(&core, dir.join("kept")).unwrap();
        take_core(&core, uid, &folder, 2, now(4)).unwrap_err();
        std::os::unix::fs::symlink(&core, dir.join("core.1")).unwrap();
        take_core(&dir.join("core.1"), uid, &folder, 2, now(4)).unwrap_err();
        assert_eq!(std::fs::read(&core).unwrap(), b"another's");
        assert_eq!(list(&folder).unwrap(), kept);
    }

    #[test]
    fn where_a_core_goes_is_the_hosts_affair() {
        let systemd = "|/lib/systemd/systemd-coredump %P %u %g %s %t 9223372036854775808 %h";
        assert!(of_pattern(systemd).contains("coredumpctl info"));
        let other = of_pattern("|/usr/share/apport/apport -p%p");
        assert_eq!(other, "are given to /usr/share/apport/apport");
        assert!(of_pattern("/var/crash/core.%p").contains("/var/crash/core.%p"));
        assert!(of_pattern("core").contains("may not make files"));
    }
}
