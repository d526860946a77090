//! Metadata on a host in memory: backed up, repaired, restored, and cut off at every call.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod in_memory;

use std::os::unix::fs::FileExt as _;

use hearth_pool::{Limits, PoolError};
use hearth_types::pool::PoolState;

use in_memory::World;

impl World {
    /// Overwrites so many bytes of the metadata, of a host that has just booted.
    fn damage(&self, at: u64, with: &[u8]) {
        self.ground.reboot();
        std::fs::OpenOptions::new()
            .write(true)
            .open(self.pool.place().metadata())
            .unwrap()
            .write_all_at(with, at)
            .unwrap();
    }

    fn files(&self) -> Vec<String> {
        let entries = self.pool.place().dir.read_dir_utf8().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_owned())
            .collect();
        names.sort();
        names
    }

    fn kept(&self) -> Vec<String> {
        let mut files = self.files();
        files.retain(|file| file.contains("damaged"));
        files
    }

    async fn is_whole(&self) {
        let view = self.pool.view().await;
        assert_eq!(view.state, PoolState::Up, "{view:?}");
        assert_eq!(self.ground.stored(self.pool.place()).unwrap(), 7);
        assert_eq!(self.ground.formatted(), 1);
        assert!(!self.files().iter().any(|file| file.contains("spare")));
    }
}

#[tokio::test]
async fn damage_is_repaired_and_the_damaged_is_kept() {
    let world = World::new().await;
    world.damage(0, b"bad");
    let refused = world.pool.bring_up().await.unwrap_err();
    assert!(
        refused.hint().unwrap().contains("hearth pool repair"),
        "{refused}"
    );
    let repaired = world.pool.repair().await.unwrap();
    let kept = world.kept();
    assert_eq!(kept, [repaired.kept.unwrap()]);
    let damaged = std::fs::read(world.pool.place().dir.join(&kept[0])).unwrap();
    assert!(damaged.starts_with(b"bad"));
    world.is_whole().await;
    // Nothing is wrong any more, so nothing is repaired.
    assert_eq!(world.pool.repair().await.unwrap().kept, None);
    world.is_whole().await;
    world.pool.destroy(true).await.unwrap();
    assert!(!world.pool.place().dir.exists(), "{:?}", world.files());
}

#[tokio::test]
async fn one_that_is_used_is_left_alone() {
    let world = World::new().await;
    world.ground.set_users(1);
    for refused in [
        world.pool.repair().await.unwrap_err(),
        world.pool.reset(true, async {}).await.unwrap_err(),
    ] {
        assert!(
            matches!(refused, PoolError::InUse { users: 1 }),
            "{refused}"
        );
    }
    let backup = world.pool.back_up().await.unwrap();
    let refused = world.pool.restore(&backup.file).await.unwrap_err();
    assert!(matches!(refused, PoolError::InUse { .. }), "{refused}");
    world.is_whole().await;
}

#[tokio::test]
async fn what_cannot_be_repaired_is_left_as_it_is_and_restored_from_a_backup() {
    let world = World::new().await;
    let backup = world.pool.back_up().await.unwrap();
    world.damage(0, &[0; 16]);
    let beyond = world.pool.repair().await.unwrap_err();
    assert!(matches!(beyond, PoolError::Beyond { .. }), "{beyond}");
    assert!(beyond.hint().unwrap().contains("restore-metadata"));
    assert!(world.kept().is_empty());
    for other in ["../pool.json", "metadata-x", ""] {
        let refused = world.pool.restore(other).await.unwrap_err();
        assert!(matches!(refused, PoolError::NoBackup { .. }), "{refused}");
    }
    let restored = world.pool.restore(&backup.file).await.unwrap();
    assert_eq!(world.kept(), [restored.kept.unwrap()]);
    world.is_whole().await;
}

#[tokio::test]
async fn a_first_block_that_is_gone_is_made_with_what_is_known() {
    let world = World::new().await;
    world.damage(0, &[0; 8]);
    // Which transaction it was nobody knows.
    let beyond = world.pool.repair().await.unwrap_err();
    assert!(matches!(beyond, PoolError::Beyond { .. }), "{beyond}");
    let world = World::new().await;
    world.pool.back_up().await.unwrap();
    world.damage(0, &[0; 8]);
    assert!(world.pool.repair().await.unwrap().kept.is_some());
    world.is_whole().await;
}

#[tokio::test]
async fn backups_are_made_while_it_is_used_and_when_it_is_down() {
    let world = World::new().await;
    let pool = world.pool.clone().with_limits(Limits {
        backups: 2,
        ..Limits::default()
    });
    let up = pool.back_up().await.unwrap();
    assert!(!world.ground.holds_metadata(), "it is let go of");
    assert_eq!(pool.view().await.backup, Some(up));
    pool.take_down().await.unwrap();
    pool.back_up().await.unwrap();
    pool.bring_up().await.unwrap();
    assert!(!world.files().iter().any(|file| file.contains("draft")));
    world.is_whole().await;
}

#[tokio::test]
async fn metadata_that_is_good_need_not_be_checked_again() {
    let world = World::new().await;
    world.ground.set_needs_check(true);
    assert!(world.pool.view().await.needs_check);
    let refused = world.pool.keep_room().await.unwrap_err();
    assert!(matches!(refused, PoolError::NeedsCheck), "{refused}");
    world.pool.check().await.unwrap();
    assert!(!world.pool.view().await.needs_check);
    world.is_whole().await;
}

#[tokio::test]
async fn a_reset_pool_is_empty_and_as_large_as_before() {
    let world = World::new().await;
    let held = world.pool.reset(false, async {}).await.unwrap_err();
    assert!(matches!(held, PoolError::HoldsData { .. }), "{held}");
    world.pool.reset(true, async {}).await.unwrap();
    let view = world.pool.view().await;
    assert_eq!(view.state, PoolState::Up);
    assert_eq!(view.data.unwrap().size, 64 << 20);
    assert_eq!(world.ground.formatted(), 2);
}

#[tokio::test]
async fn cut_off_at_any_call_a_repair_can_be_begun_again() {
    for call in 0..10 {
        for after in [false, true] {
            let mut world = World::new().await;
            world.damage(0, b"bad");
            world.ground.cut_at(call, after);
            drop(world.pool.repair().await);
            world.ground.reboot();
            world.restart();
            world.pool.repair().await.unwrap();
            world.is_whole().await;
            assert_eq!(world.kept().len(), 1, "call {call}, {after}");
        }
    }
}

#[tokio::test]
async fn cut_off_at_any_call_a_backup_harms_nothing() {
    for call in 0..8 {
        for after in [false, true] {
            let mut world = World::new().await;
            world.ground.cut_at(call, after);
            drop(world.pool.back_up().await);
            world.ground.mend();
            world.restart();
            world.pool.bring_up().await.unwrap();
            world.is_whole().await;
            // What a dead daemon held is let go of, at the latest by the next backup.
            world.pool.back_up().await.unwrap();
            assert!(!world.ground.holds_metadata());
            assert!(!world.files().iter().any(|file| file.contains("draft")));
        }
    }
}
