//! What is not a whole database of ours is refused and not touched.

use std::process::Command;

use crate::common::{Dir, dir, new_vm, now, open, ranges};
use hearth_store::{Store, StoreError, VmRow};
use hearth_types::event::NewEvent;
use hearth_types::ids::EventSeq;
use proptest::prelude::*;

const PAGE: usize = 4096;

fn bytes(dir: &Dir) -> Vec<u8> {
    std::fs::read(&dir.db).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

/// A database with some of everything, closed.
fn filled(dir: &Dir) -> Vec<VmRow> {
    let store = open(dir);
    let rows = runtime().block_on(async {
        for n in 0..40 {
            let mut new = new_vm(&format!("vm{n}"));
            new.spec.ports = vec![format!("{}:80", 8000 + n).parse().unwrap()];
            // Longer than a page, so that there are overflow pages.
            new.spec.env.insert("LONG".to_owned(), "x".repeat(n * 300));
            store.create_vm(new, ranges(), now()).await.unwrap();
            let event = NewEvent::info("vm.created", "it was created");
            store.event(event, now()).await.unwrap();
        }
        store.vms().await
    });
    drop(store);
    rows
}

fn refused(dir: &Dir) -> StoreError {
    let before = bytes(dir);
    let error = Store::open(&dir.db).unwrap_err();
    assert!(bytes(dir) == before, "the refused file was changed");
    error
}

#[test]
fn files_that_are_no_database_of_ours_are_refused() {
    let dir = dir();
    for text in ["hello\n", "SQLite format 4\0", &"x".repeat(10_000)] {
        std::fs::write(&dir.db, text).unwrap();
        let error = refused(&dir);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
    std::fs::remove_file(&dir.db).unwrap();
    let foreign = rusqlite::Connection::open(&dir.db).unwrap();
    foreign.execute_batch("CREATE TABLE t (a)").unwrap();
    drop(foreign);
    let error = refused(&dir);
    assert!(error.to_string().contains("another program's"), "{error}");
}

#[test]
fn a_truncated_database_is_refused() {
    let dir = dir();
    filled(&dir);
    let whole = bytes(&dir);
    for length in [
        20,
        100,
        2000,
        PAGE,
        PAGE + 1,
        whole.len() / 2,
        whole.len() - PAGE,
    ] {
        std::fs::write(&dir.db, &whole[..length]).unwrap();
        let error = refused(&dir);
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "{length}: {error}"
        );
    }
    std::fs::write(&dir.db, &whole).unwrap();
    open(&dir);
}

#[test]
fn a_newer_schema_is_refused_even_with_commits_in_its_log() {
    let dir = dir();
    filled(&dir);
    let newer = rusqlite::Connection::open(&dir.db).unwrap();
    let next = hearth_store::SCHEMA_VERSION + 1;
    newer
        .execute_batch(&format!("PRAGMA user_version = {next}"))
        .unwrap();
    drop(newer);
    let error = refused(&dir);
    assert!(matches!(
        error,
        StoreError::NewerSchema {
            found,
            supported: hearth_store::SCHEMA_VERSION
        } if found == next
    ));

    // The same with the newer version only in the write-ahead log: its writer was killed.
    let newer = rusqlite::Connection::open(&dir.db).unwrap();
    let own = hearth_store::SCHEMA_VERSION;
    newer
        .execute_batch(&format!("PRAGMA user_version = {own}"))
        .unwrap();
    drop(newer);
    open(&dir);
    let newer = rusqlite::Connection::open(&dir.db).unwrap();
    let next = own + 2;
    newer
        .execute_batch(&format!("PRAGMA user_version = {next}"))
        .unwrap();
    let killed = self::dir();
    let wal = |dir: &Dir| format!("{}-wal", dir.db);
    std::fs::copy(&dir.db, &killed.db).unwrap();
    std::fs::copy(wal(&dir), wal(&killed)).unwrap();
    let log = std::fs::read(wal(&killed)).unwrap();
    assert!(!log.is_empty());
    let error = refused(&killed);
    assert!(matches!(error, StoreError::NewerSchema { found, .. } if found == next));
    assert!(std::fs::read(wal(&killed)).unwrap() == log);
}

#[test]
fn a_row_that_cannot_be_read_is_named() {
    let dir = dir();
    let rows = filled(&dir);
    let hand = rusqlite::Connection::open(&dir.db).unwrap();
    hand.execute(
        "UPDATE vms SET spec = '{\"name\": 7}' WHERE id = ?1",
        [rows[3].id.to_string()],
    )
    .unwrap();
    drop(hand);
    let error = refused(&dir);
    assert!(
        error.to_string().contains(&format!("VM {}", rows[3].id)),
        "{error}"
    );
}

#[test]
fn a_log_without_its_database_is_no_reason_to_begin_anew() {
    let dir = dir();
    std::fs::write(format!("{}-wal", dir.db), "commits").unwrap();
    let error = Store::open(&dir.db).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(!dir.db.exists());
}

/// Whichever page is overwritten: either it is noticed and the file left alone, or nothing
/// that is read was in it.
#[test]
fn an_overwritten_page_is_noticed() {
    let dir = dir();
    let rows = filled(&dir);
    let whole = bytes(&dir);
    let runtime = runtime();
    let config = ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let junk = prop::collection::vec(any::<u8>(), PAGE);
    proptest::test_runner::TestRunner::new(config)
        .run(&(0..whole.len() / PAGE, junk), |(page, junk)| {
            let mut damaged = whole.clone();
            damaged[page * PAGE..(page + 1) * PAGE].copy_from_slice(&junk);
            std::fs::write(&dir.db, &damaged).unwrap();
            match Store::open(&dir.db) {
                Ok(store) => {
                    prop_assert_eq!(runtime.block_on(store.vms()), rows.clone());
                    let events = runtime.block_on(store.events(EventSeq(0), 100));
                    prop_assert_eq!(events.unwrap().len(), 40);
                }
                Err(error) => {
                    prop_assert!(matches!(error, StoreError::Corrupt { .. }), "{}", error);
                    prop_assert!(bytes(&dir) == damaged, "the damaged file was changed");
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn only_the_owner_can_read_the_database() {
    use std::os::unix::fs::PermissionsExt;
    let dir = dir();
    let _store = open(&dir);
    for suffix in ["", "-wal"] {
        let meta = std::fs::metadata(format!("{}{suffix}", dir.db)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{suffix}");
    }
}

const FULL_DIR: &str = "HEARTH_TEST_FULL_DIR";

/// Not a test of its own: what runs on the small file system.
#[test]
fn on_a_small_file_system() {
    let Ok(path) = std::env::var(FULL_DIR) else {
        return;
    };
    let db = camino::Utf8PathBuf::from(path).join("hearth.db");
    let store = Store::open(&db).unwrap();
    runtime().block_on(async {
        let mut made = 0;
        let error = loop {
            let mut new = new_vm(&format!("vm{made}"));
            new.spec.env.insert("LONG".to_owned(), "x".repeat(8000));
            match store.create_vm(new, ranges(), now()).await {
                Ok(_) => made += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(made > 3);
        assert_eq!(store.setting("mode").await.unwrap(), None);
        assert_eq!(store.vms().await.len(), made);
        reads_beside_writers(&store).await;
        let rows = store.vms().await;
        drop(store);
        // What was acknowledged is there; reading needs no space.
        let store = Store::open(&db).unwrap();
        assert_eq!(store.vms().await, rows);
    });
}

/// Who only reads shares transactions with those who find no room, and is answered all the same.
async fn reads_beside_writers(store: &Store) {
    for _ in 0..50 {
        let mut large = new_vm("large");
        large.spec.env.insert("LONG".to_owned(), "x".repeat(8000));
        let (written, read) = tokio::join!(
            store.create_vm(large, ranges(), now()),
            store.events(EventSeq(0), 10),
        );
        assert!(written.is_err());
        read.unwrap();
    }
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A mount namespace of its own: nothing of it stays.
    let script = "mount -t tmpfs -o size=512k none \"$1\" || exit 99; exec \"$2\" --exact \
                  damage::on_a_small_file_system";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env(FULL_DIR, dir.path())
        .output();
    match output {
        Ok(output) if output.status.code() != Some(99) && output.status.code() != Some(1) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        _ => println!("SKIP: a mount namespace cannot be made here (not root?)"),
    }
}
