//! Metadata: backed up while the pool works, repaired and restored while nothing uses it.
//!
//! ```text
//!  repair   damaged ──thin_repair──► spare ──thin_check──► damaged kept beside ─► spare takes its place ─► up
//!  restore  backup ──thin_restore──► spare ──────────┘
//! ```
//! Until the spare takes its place, by one rename, everything is as it was. The old one is kept as
//! `hearth-pool-metadata.damaged-TIME`.

use std::time::Duration;

use camino::Utf8PathBuf;
use hearth_dm::thin::PoolStatus;
use hearth_types::pool::{PoolBackup, PoolRepair, PoolVerdict};
use hearth_types::survey::chain;
use jiff::Timestamp;

use super::change::{check_deadline, unused};
use super::{LOOK, Pool};
use crate::backups;
use crate::error::PoolError;
use crate::files;
use crate::ground::{Checked, First, Found, Layout, Mending, Running};
use crate::record::{Record, Stage};

/// A repair writes as much as it reads, and looks at it more than once.
const REPAIR: u32 = 4;

/// What the sound metadata is made from.
enum From {
    Damaged(Option<First>),
    Backup(Utf8PathBuf),
}

impl Pool {
    /// Backs the metadata up, also while the pool is used, and keeps as many backups as the operator wants.
    ///
    /// # Errors
    /// [`PoolError::Absent`], [`PoolError::Damaged`] if it cannot be read, or another one.
    pub async fn back_up(&self) -> Result<PoolBackup, PoolError> {
        let _one = self.backing.lock().await;
        let turn = self.begin("backup").await?;
        let record = self.whole_record().await?;
        let found = self.look().await?;
        let layout = self.layout(&record)?;
        let at = Timestamp::now();
        let draft = self
            .relief("the making of the backups' folder", |_, place| {
                backups::draft(place)
            })
            .await?;
        let (running, transaction) = match &found {
            Found::Running(Running {
                status: PoolStatus::Works { transaction_id, .. },
                ..
            }) => (true, *transaction_id),
            Found::Running(_) => return Err(PoolError::NotWorking { state: "failed" }),
            // Nothing changes it; of which transaction it is, its text tells.
            Found::Nothing | Found::Unfinished => (false, 0),
        };
        if running {
            self.change("the holding of the metadata", |ground, place| {
                ground.hold_metadata(place, true)
            })
            .await?;
        }
        // What is held does not change: nobody waits for the tool, least of all the pool's growth.
        let turn = if running { None } else { Some(turn) };
        let dumped = self.dump(&draft, running, &layout).await;
        drop(turn);
        if let Err(error) = dumped {
            let left = draft.clone();
            drop(
                self.relief("the removal of a draft", move |_, _| files::forget(&left))
                    .await,
            );
            return Err(error);
        }
        let most = usize::try_from(self.limits.backups).unwrap_or(usize::MAX);
        self.relief("the keeping of a backup", move |_, place| {
            backups::keep(place, &draft, at, transaction, most)
        })
        .await
    }

    /// Writes the metadata as text. What is held for that is let go of, whatever happens.
    async fn dump(
        &self,
        draft: &Utf8PathBuf,
        running: bool,
        layout: &Layout,
    ) -> Result<(), PoolError> {
        let metadata = self.place.metadata();
        let work = Mending::Dump {
            from: &metadata,
            to: draft,
            held: running,
        };
        let dumped = self.ground.mend(&work, repair_deadline(layout)).await;
        if running {
            self.let_go().await?;
        }
        sound(dumped?, "thin_dump")
    }

    /// Lets go of metadata that is held for nobody: what is held takes room.
    pub(super) async fn let_go(&self) -> Result<(), PoolError> {
        self.relief("the letting go of the metadata", |ground, place| {
            ground.hold_metadata(place, false)
        })
        .await
    }

    /// The backups, the newest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn backups(&self) -> Result<Vec<PoolBackup>, PoolError> {
        let place = self.place.clone();
        self.looks
            .take("a look at the backups", LOOK, move || backups::list(&place))
            .await?
    }

    /// Repairs the metadata of a pool that nothing uses, and puts it together. Metadata without
    /// damage is left as it is.
    ///
    /// # Errors
    /// [`PoolError::InUse`], [`PoolError::Beyond`] if it cannot be repaired, or another one; the metadata is as it
    /// was then.
    pub async fn repair(&self) -> Result<PoolRepair, PoolError> {
        let _turn = self.begin("repair").await?;
        let mut record = self.unused_record().await?;
        let layout = self.layout(&record)?;
        let check = self.check_metadata(&layout).await?;
        if check.verdict == PoolVerdict::Good {
            record.last_check = Some(check);
            self.write(&record).await?;
            self.put_together(record).await?;
            return Ok(PoolRepair { kept: None });
        }
        let repaired = self.replace(&layout, From::Damaged(None)).await;
        let kept = match repaired {
            // Its first block is gone: what it said is known, but for the transaction.
            Err(PoolError::Beyond { said }) => match self.known_first(layout).await {
                Some(first) => self.replace(&layout, From::Damaged(Some(first))).await?,
                None => return Err(PoolError::Beyond { said }),
            },
            kept => kept?,
        };
        self.put_together(record).await?;
        Ok(PoolRepair { kept: Some(kept) })
    }

    /// Puts a backup in the place of the metadata of a pool that nothing uses. What was written since the
    /// backup is lost or wrong, which only who asks for it can weigh.
    ///
    /// # Errors
    /// As [`Pool::repair`], or [`PoolError::NoBackup`].
    pub async fn restore(&self, file: &str) -> Result<PoolRepair, PoolError> {
        let _turn = self.begin("restore").await?;
        let all = self.backups().await?;
        // A name of the list, never a path.
        let Some(backup) = all.into_iter().find(|backup| backup.file == file) else {
            return Err(PoolError::NoBackup {
                file: file.to_owned(),
            });
        };
        let record = self.unused_record().await?;
        let layout = self.layout(&record)?;
        let path = self.place.backups().join(&backup.file);
        let kept = self.replace(&layout, From::Backup(path)).await?;
        self.put_together(record).await?;
        Ok(PoolRepair { kept: Some(kept) })
    }

    /// What the first block should say, with the transaction of the newest backup.
    async fn known_first(&self, layout: Layout) -> Option<First> {
        let newest = self.backups().await.ok()?.into_iter().next()?;
        Some(First {
            transaction: newest.transaction_id,
            layout,
        })
    }

    /// Makes sound metadata and puts it in the old one's place. The name that the old one is kept under.
    async fn replace(&self, layout: &Layout, from: From) -> Result<String, PoolError> {
        let (size, stamp) = (layout.metadata, backups::stamp(Timestamp::now()));
        self.relief("the making of spare metadata", move |_, place| {
            files::make_spare(place, size)
        })
        .await?;
        let made = self.make_sound(layout, &from).await;
        if let Err(error) = made {
            let removed = self
                .relief("the removal of spare metadata", |_, place| {
                    files::forget(&place.spare())
                })
                .await;
            if let Err(left) = removed {
                tracing::warn!(error = %chain(&left), "spare metadata is left; the next repair removes it");
            }
            return Err(error);
        }
        self.relief("the putting in place of the metadata", move |_, place| {
            files::put_in_place(place, &stamp)
        })
        .await
    }

    async fn make_sound(&self, layout: &Layout, from: &From) -> Result<(), PoolError> {
        let (metadata, spare) = (self.place.metadata(), self.place.spare());
        let deadline = repair_deadline(layout);
        let made = match from {
            From::Damaged(first) => {
                let work = Mending::Repair {
                    from: &metadata,
                    to: &spare,
                    first: *first,
                };
                self.ground.mend(&work, deadline).await?
            }
            From::Backup(backup) => {
                let text = self.unpacked(backup.clone()).await?;
                let work = Mending::Restore {
                    from: &text,
                    to: &spare,
                    blocks: layout.data / layout.block.bytes(),
                };
                let made = self.ground.mend(&work, deadline).await;
                self.relief("the removal of a draft", move |_, _| files::forget(&text))
                    .await?;
                made?
            }
        };
        beyond(made)?;
        // Believed only after it was read.
        beyond(
            self.ground
                .check(&spare, check_deadline(layout.metadata))
                .await?,
        )
    }

    /// Metadata that was found good need not be checked any more, whatever it says of itself.
    pub(super) async fn absolve(&self, layout: &Layout) -> Result<(), PoolError> {
        let needs_check = self
            .relief("a look at the metadata", |ground, place| {
                ground.needs_check(place)
            })
            .await?;
        if !needs_check {
            return Ok(());
        }
        let metadata = self.place.metadata();
        let work = Mending::Absolve {
            metadata: &metadata,
        };
        let absolved = self.ground.mend(&work, repair_deadline(layout)).await?;
        sound(absolved, "thin_check")
    }

    async fn unpacked(&self, backup: Utf8PathBuf) -> Result<Utf8PathBuf, PoolError> {
        self.relief("the unpacking of a backup", move |_, place| {
            let text = backups::draft(place)?;
            backups::unpack(&backup, &text).map(|()| text)
        })
        .await
    }

    /// The record of a pool that was ready once.
    async fn whole_record(&self) -> Result<Record, PoolError> {
        let record = self.recorded().await?.ok_or(PoolError::Absent)?;
        match record.stage {
            Stage::Ready => Ok(record),
            Stage::Preparing => Err(PoolError::Absent),
            Stage::Destroying => Err(PoolError::Destroying),
        }
    }

    /// The record of a pool that nothing uses, and which the kernel does not have any more.
    async fn unused_record(&self) -> Result<Record, PoolError> {
        let record = self.whole_record().await?;
        if let Found::Running(running) = self.look().await? {
            unused(&running)?;
            self.relief("the taking down of the pool", |ground, place| {
                ground.take_down(place)
            })
            .await?;
        }
        self.settle(record).await
    }
}

fn repair_deadline(layout: &Layout) -> Duration {
    check_deadline(layout.metadata) * REPAIR
}

fn sound(checked: Checked, tool: &str) -> Result<(), PoolError> {
    let said = match checked {
        Checked::Good => return Ok(()),
        Checked::Bad(said) => said,
        Checked::Unfinished => format!("{tool} did not end in time"),
    };
    Err(PoolError::Damaged { said })
}

fn beyond(checked: Checked) -> Result<(), PoolError> {
    match checked {
        Checked::Good => Ok(()),
        Checked::Bad(said) => Err(PoolError::Beyond { said }),
        Checked::Unfinished => Err(PoolError::Beyond {
            said: "it did not end in time".to_owned(),
        }),
    }
}
