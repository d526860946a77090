//! Files that have outlived their use: old logs, dumps, drafts, backups, and what repairs put aside.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_store::VmRow;
use hearth_types::gc::{GcItem, GcKind};
use hearth_types::orphan::{Orphan, OrphanKind};
use hearth_types::survey::chain;
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};

use super::downloads::age;
use super::find::{Found, What, item};
use super::{Ground, Order, skip};
use crate::backups;
use crate::dumps::UNFINISHED;
use crate::engine::Engine;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A dump that is younger may still be wanted, and so may be what was put aside.
const OLD: Duration = Duration::from_secs(30 * 24 * 3600);
/// How a moment is written in a file's name.
const MOMENT: &str = "%Y%m%dT%H%M%SZ";
/// How long that is.
const MOMENT_LENGTH: usize = "20261122T013000Z".len();

/// What a repair puts aside.
struct Aside {
    /// Below the data folder.
    folder: &'static str,
    /// Before the moment, where its name has one.
    begins: &'static str,
    ends: &'static str,
}

const ASIDE: [Aside; 3] = [
    Aside {
        folder: "",
        begins: "hearth.db.old-",
        ends: "",
    },
    Aside {
        folder: "pool",
        begins: "hearth-pool-metadata.damaged-",
        ends: "",
    },
    Aside {
        folder: "images/jobs",
        begins: "",
        ends: ".json.damaged",
    },
];

/// A file as it is now.
struct Seen {
    path: Utf8PathBuf,
    changed: SystemTime,
    bytes: u64,
}

impl Seen {
    /// `None` for what is no regular file, or gone.
    fn of(path: &Utf8Path) -> Option<Self> {
        let meta = path.symlink_metadata().ok().filter(|meta| meta.is_file())?;
        Some(Self {
            path: path.to_owned(),
            changed: meta.modified().ok()?,
            // st_blocks counts 512 bytes each, whatever the file system's block size.
            bytes: meta.blocks().saturating_mul(512),
        })
    }

    fn since(&self) -> Option<Timestamp> {
        Timestamp::try_from(self.changed).ok()
    }

    fn age(&self, now: Timestamp) -> Duration {
        self.since().map_or(Duration::ZERO, |since| age(since, now))
    }

    fn item(self, kind: GcKind, id: String, reason: String) -> (GcItem, What) {
        let mut item = item(kind, id, self.path.to_string(), reason);
        item.bytes = Some(self.bytes);
        item.since = self.since();
        let what = What::File {
            path: self.path,
            changed: self.changed,
        };
        (item, what)
    }
}

impl Found {
    /// A log beyond those that are kept, or a file whose writer died.
    pub(super) fn file_of_vm(&mut self, orphan: Orphan, now: Timestamp) {
        let Some(seen) = Seen::of(Utf8Path::new(&orphan.object)) else {
            return;
        };
        let kind = match orphan.kind {
            OrphanKind::Log => GcKind::Log,
            // Who writes it now may be alive.
            _ if seen.age(now) < DAY => return,
            _ => GcKind::Draft,
        };
        self.items.push(seen.item(kind, orphan.id, orphan.reason));
    }

    pub(super) async fn dumps(&mut self, engine: &Engine, rows: &[VmRow]) {
        let now = engine.now();
        for row in rows {
            let name = &row.spec.name;
            let dumps = match engine.dumps(row.id).await {
                Ok(dumps) => dumps,
                Err(error) => {
                    self.unknown.push(format!("dumps of {name}: {error:#}"));
                    continue;
                }
            };
            for dump in dumps {
                let age = age(dump.at, now);
                let seen = Seen::of(Utf8Path::new(&dump.file)).filter(|_| age >= OLD);
                let Some(seen) = seen else { continue };
                let days = age.as_secs() / DAY.as_secs();
                let reason = format!("a dump of {name}, {days} days old");
                let id = format!("dump-{name}-{}", dump.at.as_second());
                self.items.push(seen.item(GcKind::Dump, id, reason));
            }
            let cut_off = Seen::of(&engine.paths.vm(row.id).join(UNFINISHED));
            let cut_off = cut_off.filter(|seen| seen.age(now) >= DAY);
            // Taken afterwards: one that begins now writes to a file of its own.
            let under_way = engine.dumping.lock().contains(&row.id);
            if let Some(seen) = cut_off.filter(|_| !under_way) {
                let reason = format!("a dump of {name} that was cut off");
                let id = format!("dump-{name}-unfinished");
                self.items.push(seen.item(GcKind::Dump, id, reason));
            }
        }
    }

    /// Those that are older than the ones to keep.
    pub(super) async fn backups(&mut self, ground: &Ground) {
        let engine = &ground.engine;
        let keep = engine.backups.kept();
        let old = backups::list(&engine.paths.backups()).into_iter();
        let old = old.skip(keep).map(|backup| backup.file);
        self.backups_of("database", keep, old.map(Utf8PathBuf::from));
        let pool = ground.thins.pool();
        let keep = usize::try_from(pool.limits().backups.max(1)).unwrap_or(usize::MAX);
        match pool.backups().await {
            Ok(all) => {
                let folder = pool.place().backups();
                let old = all.into_iter().skip(keep);
                let old = old.map(|backup| folder.join(backup.file));
                self.backups_of("pool's metadata", keep, old);
            }
            Err(error) => self
                .unknown
                .push(format!("backups of the pool's metadata: {}", chain(&error))),
        }
    }

    fn backups_of(&mut self, what: &str, keep: usize, old: impl Iterator<Item = Utf8PathBuf>) {
        for seen in old.filter_map(|path| Seen::of(&path)) {
            let reason = format!("there are {keep} newer backups of the {what}");
            let name = seen.path.file_name().unwrap_or_default();
            let id = format!("backup-{name}");
            self.items.push(seen.item(GcKind::Backup, id, reason));
        }
    }

    /// What a repair has put aside, and nobody has looked at since.
    pub(super) async fn aside(&mut self, ground: &Ground, order: &Order<'_>) {
        let (data, now) = (ground.engine.paths.data().to_owned(), order.now);
        let looked = tokio::task::spawn_blocking(move || ASIDE.map(|aside| aside.look(&data)));
        let folders = match looked.await {
            Ok(folders) => folders,
            Err(error) => return self.unknown.push(format!("files put aside: {error}")),
        };
        for folder in folders {
            match folder {
                Ok(files) => {
                    let old = files.into_iter().filter(|(at, _)| age(*at, now) >= OLD);
                    old.for_each(|(at, seen)| self.one_aside(at, seen, order));
                }
                Err(error) => self.unknown.push(format!("files put aside: {error:#}")),
            }
        }
    }

    fn one_aside(&mut self, at: Timestamp, seen: Seen, order: &Order<'_>) {
        let name = seen.path.file_name().unwrap_or_default();
        let id = format!("aside-{name}");
        let reason = "a repair has put it aside".to_owned();
        let (mut item, what) = seen.item(GcKind::Aside, id, reason);
        item.since = Some(at);
        if !order.means(GcKind::Aside) {
            let why = "it may be all that is left of something; it goes when it is asked for: --kind aside";
            skip(&mut item, why);
        }
        self.items.push((item, what));
    }
}

impl Aside {
    /// Its files, and since when they lie there; none where there is no such folder.
    fn look(&self, data: &Utf8Path) -> anyhow::Result<Vec<(Timestamp, Seen)>> {
        let folder = data.join(self.folder);
        let entries = match folder.read_dir_utf8() {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot list {folder}")),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {folder}"))?;
            if let Some(named) = self.named(entry.file_name())
                && let Some(seen) = Seen::of(entry.path())
                && let Some(at) = named.or_else(|| seen.since())
            {
                found.push((at, seen));
            }
        }
        Ok(found)
    }

    /// Whether this is the name of one, and the moment that it has: a file that is renamed keeps the
    /// moment at which it was written last.
    #[expect(
        clippy::option_option,
        reason = "the outer one says whether it is one, the inner one whether its name has a moment"
    )]
    fn named(&self, name: &str) -> Option<Option<Timestamp>> {
        let middle = name.strip_prefix(self.begins)?.strip_suffix(self.ends)?;
        if self.begins.is_empty() {
            return (!middle.is_empty()).then_some(None);
        }
        let at = civil::DateTime::strptime(MOMENT, middle.get(..MOMENT_LENGTH)?).ok()?;
        Some(Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_aside_is_told_by_the_name_that_it_was_given() {
        let [database, metadata, job] = ASIDE;
        let at: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        assert_eq!(
            database.named("hearth.db.old-20260301T120000Z"),
            Some(Some(at))
        );
        assert_eq!(
            database.named("hearth.db.old-20260301T120000Z-wal"),
            Some(Some(at))
        );
        let damaged = "hearth-pool-metadata.damaged-20260301T120000Z";
        assert_eq!(metadata.named(damaged), Some(Some(at)));
        assert_eq!(job.named("0197.json.damaged"), Some(None));
        for (aside, other) in [
            (&database, "hearth.db"),
            (&database, "hearth.db.old-mine"),
            (&metadata, "hearth-pool-metadata.img"),
            (&job, "0197.json"),
            (&job, ".json.damaged"),
        ] {
            assert_eq!(aside.named(other), None, "{other}");
        }
    }
}
