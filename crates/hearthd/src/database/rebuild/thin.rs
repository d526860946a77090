//! What is in the thin pool, written down again. Nothing in the pool is changed: what nobody can name is an orphan.

use std::fmt::Write as _;
use std::sync::Arc;

use camino::Utf8PathBuf;
use hearth_config::Config;
use hearth_pool::{Expected, Rebuilt, ThinVolumes};
use hearth_safeguards::{OperationGuard, Settings};
use hearth_store::Store;
use hearth_types::survey::chain;
use hearth_types::thin::{ThinDevice, ThinKind};

use super::line;
use crate::engine::paths::{Paths, ROOT_DISK};
use crate::orphans::keepsake::Keepsake;

/// What became of the pool's devices.
#[derive(Debug, Default)]
pub(super) enum Thin {
    /// There is no pool.
    #[default]
    None,
    /// They are written down.
    Made(Rebuilt),
    /// They could not be asked for.
    Failed(String),
}

/// The disks that the VMs of these folders may have in it.
pub(super) fn expected(found: &[(Utf8PathBuf, Keepsake)]) -> Vec<Expected> {
    let disks = found.iter().flat_map(|(folder, kept)| {
        let root = (ROOT_DISK.to_owned(), ThinKind::VmRoot);
        let volumes = kept.spec.volumes.iter();
        let volumes = volumes.map(|volume| {
            let file = Paths::volume_file(volume.name.as_str());
            (file, ThinKind::VmData)
        });
        let files = std::iter::once(root).chain(volumes);
        files.map(|(file, kind)| Expected {
            path: folder.join(file),
            kind,
        })
    });
    disks.collect()
}

/// Writes them down. A pool that cannot be asked is no reason to have no database.
pub(super) async fn run(volumes: &ThinVolumes, expected: Vec<Expected>) -> Thin {
    match volumes.thins().rebuild(expected).await {
        Ok(None) => Thin::None,
        Ok(Some(rebuilt)) => Thin::Made(rebuilt),
        Err(error) => {
            let hint = error.hint().map(|hint| format!(" ({hint})"));
            Thin::Failed(format!("{}{}", chain(&error), hint.unwrap_or_default()))
        }
    }
}

/// The volumes of this host, with this ledger.
pub(super) fn volumes(config: &Config, store: &Store) -> ThinVolumes {
    let installation = store.installation();
    let helpers = crate::dm_helper::of_host(installation);
    let ground = crate::dm_helper::ground(&helpers);
    let guard = OperationGuard::with_elsewhere(Settings::default(), None, Some(Arc::new(helpers)));
    let paths = Paths::new(config.data_dir.clone());
    let pool = crate::pool::of_host(&paths, installation, Arc::clone(&ground), guard);
    crate::volumes::of_host(pool, ground, store.clone(), config.storage)
}

impl Thin {
    /// What was done, for a person.
    pub(super) fn done(&self, text: &mut String) {
        match self {
            Self::None => {}
            Self::Failed(why) => line(
                text,
                format_args!(
                    "  of the pool nothing: {why}; what is in it stays, and the next daemon writes it down as orphans"
                ),
            ),
            Self::Made(rebuilt) => {
                let Rebuilt { known, orphans, .. } = rebuilt;
                line(
                    text,
                    format_args!(
                        "  of the pool: {} device(s) that are known again, {} orphan(s): hearth pool volumes",
                        known.len(),
                        orphans.len()
                    ),
                );
            }
        }
    }

    /// What could not be known, for a person.
    pub(super) fn unknown(&self, text: &mut String) {
        let Self::Made(rebuilt) = self else { return };
        let listed = |ids: &[ThinDevice]| {
            let mut words = String::new();
            for device in ids {
                // Writing to a string cannot fail.
                write!(words, " {}", device.id).ok();
            }
            words
        };
        if !rebuilt.orphans.is_empty() {
            line(
                text,
                format_args!(
                    "  what these devices of the pool are, or whether they are whole:{} (kept; hearth gc clears them away)",
                    listed(&rebuilt.orphans)
                ),
            );
        }
        if !rebuilt.lost.is_empty() {
            let lost = rebuilt.lost.join(" ");
            line(
                text,
                format_args!("  where these volumes are, which the pool had once: {lost}"),
            );
        }
        for path in &rebuilt.unknown {
            line(
                text,
                format_args!("  which device of the pool was {path}: it may be one of the orphans"),
            );
        }
        if let Some(why) = &rebuilt.no_copy {
            line(text, format_args!("  names of devices that are off: {why}"));
        }
        line(
            text,
            format_args!(
                "  which devices of the pool are snapshots of which, as far as the copy of its ledger is old"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_known_and_what_is_not_is_said() {
        let device = |id: u32| ThinDevice {
            id,
            name: format!("vm-{id}"),
            kind: ThinKind::VmRoot,
            origin: None,
            bytes: 1,
            state: hearth_types::thin::ThinState::Ready,
            cause: None,
            transaction_id: 1,
            created_at: Timestamp::UNIX_EPOCH,
        };
        let rebuilt = Rebuilt {
            known: vec![device(1)],
            orphans: vec![device(7), device(9)],
            lost: vec!["vm-3".to_owned()],
            unknown: vec!["/vms/web/root.img".into()],
            no_copy: Some("ledger.json cannot be understood".to_owned()),
        };
        let mut text = String::new();
        let made = Thin::Made(rebuilt);
        made.done(&mut text);
        made.unknown(&mut text);
        for part in [
            "1 device(s) that are known again, 2 orphan(s)",
            "are whole: 7 9 (kept",
            "the pool had once: vm-3",
            "was /vms/web/root.img:",
            "that are off: ledger.json",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let mut text = String::new();
        Thin::None.done(&mut text);
        Thin::None.unknown(&mut text);
        assert_eq!(text, "");
        Thin::Failed("no thin_ls".to_owned()).done(&mut text);
        assert!(text.contains("no thin_ls; what is in it stays"), "{text}");
    }
}
