//! Copies of a database that is being worked with.

use hearth_store::{StoreError, offline};

use crate::common::{dir, new_vm, now, open, ranges};

#[tokio::test]
async fn a_copy_is_whole_whatever_is_written_meanwhile() {
    let dir = dir();
    let store = open(&dir);
    store
        .create_vm(new_vm("first"), ranges(), now())
        .await
        .unwrap();
    let writes = async {
        for number in 0..100 {
            let new = new_vm(&format!("vm-{number}"));
            store.create_vm(new, ranges(), now()).await.unwrap();
        }
    };
    let copies = async {
        let mut seen = 0;
        for number in 0..10 {
            let to = dir.db.with_file_name(format!("copy-{number}"));
            let checked = store.back_up(&to).await.unwrap();
            assert_eq!(checked.installation, store.installation());
            // Each is a later moment, and none is half of one.
            assert!(checked.vms > 0 && checked.vms >= seen, "{checked:?}");
            seen = checked.vms;
            assert_eq!(offline::check(&to).unwrap(), Some(checked));
        }
    };
    tokio::join!(writes, copies);
    let last = dir.db.with_file_name("last");
    assert_eq!(store.back_up(&last).await.unwrap().vms, 101);
    // It can be put in the database's place.
    drop(store);
    std::fs::rename(&last, &dir.db).unwrap();
    drop(std::fs::remove_file(dir.db.with_file_name("hearth.db-wal")));
    assert_eq!(open(&dir).vms().await.len(), 101);
}

#[tokio::test]
async fn only_the_owner_reads_it_and_what_was_left_over_is_written_anew() {
    use std::os::unix::fs::PermissionsExt;
    let dir = dir();
    let store = open(&dir);
    store.create_vm(new_vm("a"), ranges(), now()).await.unwrap();
    let to = dir.db.with_file_name("copy");
    // A daemon died while it wrote.
    std::fs::write(dir.db.with_file_name("copy.new"), "half").unwrap();
    std::fs::write(&to, "what was there").unwrap();
    assert_eq!(store.back_up(&to).await.unwrap().vms, 1);
    assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!dir.db.with_file_name("copy.new").exists());
    assert!(!dir.db.with_file_name("copy.new-wal").exists());
}

#[tokio::test]
async fn a_copy_that_cannot_be_written_leaves_nothing_and_harms_nothing() {
    let dir = dir();
    let store = open(&dir);
    let nowhere = dir.db.with_file_name("missing").join("copy");
    let error = store.back_up(&nowhere).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    store.create_vm(new_vm("a"), ranges(), now()).await.unwrap();
    assert_eq!(store.vms().await.len(), 1);
}

#[tokio::test]
async fn damage_is_found_by_the_check_of_the_copy() {
    let dir = dir();
    let store = open(&dir);
    store.create_vm(new_vm("a"), ranges(), now()).await.unwrap();
    drop(store);
    let store = open(&dir);
    // As a disk that lies does it, under a daemon that runs: every page but the first.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&dir.db)
        .unwrap();
    let length = file.metadata().unwrap().len();
    use std::os::unix::fs::FileExt;
    file.write_all_at(&vec![0x5a; usize::try_from(length).unwrap() - 4096], 4096)
        .unwrap();
    let to = dir.db.with_file_name("copy");
    let error = store.back_up(&to).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Corrupt { .. } | StoreError::Database { .. }
        ),
        "{error}"
    );
    // A backup that is damaged never has a backup's name.
    assert!(!to.exists() && !dir.db.with_file_name("copy.new").exists());
}
