//! `hearthd db`: the database while no daemon runs.
//!
//! ```text
//! check                       looks through it, changes nothing
//! backup FILE                 a whole copy
//! restore FILE   ┐            hearth.db.new ──(whole?)──► hearth.db
//! rebuild        ┘            what was there ──► hearth.db.old-<time>, with its log
//! ```
//! What takes the database's place is complete and on the disk before it does. Nothing is thrown
//! away: what was there keeps lying beside it.

mod rebuild;
#[cfg(test)]
mod tests;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use clap::Subcommand;
use hearth_config::Config;
use hearth_host::lock::LockFile;
use hearth_store::{StoreError, offline};
use jiff::Timestamp;

/// What to do with it.
#[derive(Debug, Clone, Subcommand)]
pub enum DbCommand {
    /// Look through the whole database and change nothing
    Check,
    /// Write a whole copy of the database to a file that is not there yet
    Backup {
        /// The copy
        file: Utf8PathBuf,
    },
    /// Put a copy in the database's place; what was there is kept beside it
    Restore {
        /// The copy; the newest whole one of the daemon's own backups when absent
        file: Option<Utf8PathBuf>,
        /// Even if the database that is there is whole
        #[arg(long)]
        force: bool,
    },
    /// Make the database anew from what the VMs' folders and the pool keep; what was there is kept beside it
    Rebuild {
        /// Even if the database that is there is whole
        #[arg(long)]
        force: bool,
        /// The installation's id, where nothing on the host says it
        #[arg(long, value_name = "ID")]
        installation: Option<hearth_types::InstallationId>,
    },
}

/// Does it and says what was done.
///
/// # Errors
/// When a daemon runs, the database is not as it has to be, or the file system refuses. What was
/// there is then still there.
pub async fn run(config: &Config, command: DbCommand) -> anyhow::Result<String> {
    let place = Place::of(config);
    anyhow::ensure!(place.data.is_dir(), "there is no folder {}", place.data);
    let lock = place.data.join("hearthd.lock");
    let _lock = LockFile::acquire(&lock, Timestamp::now())
        .context("a daemon runs, and the database is its own; stop it first")?;
    match command {
        DbCommand::Check => place.check(),
        DbCommand::Backup { file } => {
            offline::copy(&place.database, &file)?;
            Ok(format!("{} was copied to {file}.\n", place.database))
        }
        DbCommand::Restore { file, force } => {
            let file = file.map_or_else(|| place.newest_backup(), Ok)?;
            place.restore(&file, force)
        }
        DbCommand::Rebuild {
            force,
            installation,
        } => {
            place.may_be_replaced(force)?;
            rebuild::run(config, &place, installation).await
        }
    }
}

/// Where everything is.
#[derive(Debug)]
struct Place {
    data: Utf8PathBuf,
    database: Utf8PathBuf,
    /// What is to take its place.
    new: Utf8PathBuf,
}

impl Place {
    fn of(config: &Config) -> Self {
        let data = config.data_dir.clone();
        Self {
            database: data.join("hearth.db"),
            new: data.join("hearth.db.new"),
            data,
        }
    }

    fn check(&self) -> anyhow::Result<String> {
        let database = &self.database;
        let advice = "hearthd db restore puts a backup in its place, hearthd db rebuild makes one from what the VMs' folders keep";
        let checked = offline::check(database).context(advice)?;
        Ok(match checked {
            None => format!("There is no {database}: the next daemon makes an empty one.\n"),
            Some(checked) => format!(
                "{database} is whole: installation {}, schema version {}, {} VM(s).\n",
                checked.installation, checked.schema, checked.vms
            ),
        })
    }

    /// A whole database is replaced only if that was asked for by name; one of a newer Hearth, or
    /// one that cannot even be looked at, never.
    fn may_be_replaced(&self, force: bool) -> anyhow::Result<()> {
        match offline::check(&self.database) {
            Ok(None) => Ok(()),
            Ok(Some(_)) if force => Ok(()),
            Ok(Some(checked)) => anyhow::bail!(
                "{} is whole and records {} VM(s): --force replaces it all the same",
                self.database,
                checked.vms
            ),
            Err(StoreError::Corrupt { detail, .. }) => {
                tracing::debug!(detail, "the database is damaged");
                Ok(())
            }
            // A file that SQLite cannot follow is damaged, too.
            Err(error @ StoreError::Database { .. }) => {
                tracing::debug!(error = %error, "the database cannot be read");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest of the daemon's own backups that is whole.
    fn newest_backup(&self) -> anyhow::Result<Utf8PathBuf> {
        let folder = self.data.join("backups");
        for backup in crate::backups::list(&folder) {
            let file = Utf8PathBuf::from(backup.file);
            match offline::check(&file) {
                Ok(Some(_)) => return Ok(file),
                Ok(None) => tracing::warn!(%file, "this backup is empty"),
                Err(error) => tracing::warn!(%file, %error, "this backup is not whole"),
            }
        }
        anyhow::bail!(
            "there is no whole backup in {folder}: name one, or make the database anew with hearthd db rebuild"
        )
    }

    fn restore(&self, file: &Utf8Path, force: bool) -> anyhow::Result<String> {
        let checked = offline::check(file)?.with_context(|| format!("{file} is empty"))?;
        self.may_be_replaced(force)?;
        self.clear_new()?;
        offline::copy(file, &self.new)?;
        let old = self.put_in_place()?;
        Ok(format!(
            "{} is {file} now: installation {}, {} VM(s).\n{}VMs made since are listed by hearth orphans, and run on: hearth orphans adopt.\n",
            self.database,
            checked.installation,
            checked.vms,
            kept(old.as_deref())
        ))
    }

    /// What an earlier attempt has left.
    fn clear_new(&self) -> anyhow::Result<()> {
        for file in [
            self.new.clone(),
            side(&self.new, "wal"),
            side(&self.new, "shm"),
        ] {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {file}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts the new database in its place and says where what was there is.
    ///
    /// The log goes first: a log that does not belong to its database would be played into it. A
    /// crash in between leaves the old database without its log, and all of it under both names.
    fn put_in_place(&self) -> anyhow::Result<Option<Utf8PathBuf>> {
        let was = |path: &Utf8Path| path.symlink_metadata().is_ok();
        let there = was(&self.database) || was(&side(&self.database, "wal"));
        let old = Utf8PathBuf::from(format!(
            "{}.old-{}",
            self.database,
            Timestamp::now().strftime("%Y%m%dT%H%M%SZ")
        ));
        anyhow::ensure!(
            !there || !was(&old),
            "{old} is there already: try again in a second"
        );
        let log = side(&self.new, "wal").metadata();
        anyhow::ensure!(
            log.map_or(0, |log| log.len()) == 0,
            "{} is not whole without its log",
            self.new
        );
        if was(&self.database) {
            std::fs::hard_link(&self.database, &old)
                .with_context(|| format!("cannot keep {} as {old}", self.database))?;
        }
        for log in ["wal", "shm"] {
            let from = side(&self.database, log);
            match std::fs::rename(&from, side(&old, log)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot keep {from}"));
                }
                _ => {}
            }
        }
        self.sync()?;
        std::fs::rename(&self.new, &self.database)
            .with_context(|| format!("cannot put {} in its place", self.database))?;
        self.sync()?;
        Ok(there.then_some(old))
    }

    fn sync(&self) -> anyhow::Result<()> {
        let folder = std::fs::File::open(&self.data).and_then(|folder| folder.sync_all());
        folder.with_context(|| format!("cannot sync {}", self.data))
    }
}

/// A database's log, or the index of it.
fn side(database: &Utf8Path, which: &str) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{database}-{which}"))
}

fn kept(old: Option<&Utf8Path>) -> String {
    old.map(|old| format!("What was there is {old}.\n"))
        .unwrap_or_default()
}
