//! Checking, copying and making a database that no daemon has.

use hearth_store::{StoreError, offline};
use hearth_types::ids::InstallationId;

use crate::common::{Dir, dir, new_vm, now, open, ranges};

/// A database with three VMs; what it holds is still in its log.
fn filled(dir: &Dir) -> InstallationId {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let store = open(dir);
    runtime.block_on(async {
        for name in ["a", "b", "c"] {
            let made = store.create_vm(new_vm(name), ranges(), now()).await;
            made.unwrap();
        }
    });
    store.installation()
}

#[test]
fn a_whole_database_is_told_with_what_it_holds_and_not_changed() {
    let dir = dir();
    assert_eq!(offline::check(&dir.db).unwrap(), None);
    let installation = filled(&dir);
    let before = std::fs::read(&dir.db).unwrap();
    let checked = offline::check(&dir.db).unwrap().unwrap();
    assert_eq!((checked.installation, checked.vms), (installation, 3));
    assert_eq!(checked.schema, hearth_store::SCHEMA_VERSION);
    assert!(std::fs::read(&dir.db).unwrap() == before);
}

#[test]
fn a_record_that_cannot_be_read_and_one_that_hangs_in_the_air_are_found() {
    for damage in [
        "UPDATE vms SET spec = '{}' WHERE name = 'b'",
        "PRAGMA foreign_keys = OFF; DELETE FROM vms WHERE name = 'b'",
    ] {
        let dir = dir();
        let installation = filled(&dir);
        let conn = rusqlite::Connection::open(&dir.db).unwrap();
        conn.execute_batch(damage).unwrap();
        drop(conn);
        let error = offline::check(&dir.db).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert_eq!(offline::installation(&dir.db), Some(installation));
    }
}

#[test]
fn a_copy_holds_everything_and_takes_nobodys_place() {
    let dir = dir();
    filled(&dir);
    let to = dir.db.with_file_name("copy");
    offline::copy(&dir.db, &to).unwrap();
    assert_eq!(
        offline::check(&to).unwrap(),
        offline::check(&dir.db).unwrap()
    );
    let mode = std::os::unix::fs::MetadataExt::mode(&to.metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600, "specifications hold secrets");
    offline::copy(&dir.db, &to).unwrap_err();
    offline::copy(&dir.db.with_file_name("none"), &dir.db.with_file_name("x")).unwrap_err();
    assert!(!dir.db.with_file_name("x").exists());
}

#[test]
fn a_new_one_has_the_installation_that_it_is_told() {
    let dir = dir();
    let installation = InstallationId::new();
    offline::make(&dir.db, installation).unwrap();
    assert_eq!(open(&dir).installation(), installation);
    offline::make(&dir.db, InstallationId::new()).unwrap_err();
}
