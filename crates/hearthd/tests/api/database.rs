//! The database's backups: made, listed, told when they fail.

use hearth_types::api::{DatabaseBackup, DatabaseView};
use serde_json::json;

use crate::rig::Rig;

async fn view(rig: &Rig) -> DatabaseView {
    serde_json::from_value(rig.get("/v1/db").await.json()).unwrap()
}

#[tokio::test]
async fn a_backup_is_made_listed_and_counted() {
    let rig = Rig::new().await;
    rig.create("web").await;
    assert!(view(&rig).await.backups.is_empty());
    let answer = rig.post("/v1/db/backup", json!(null)).await;
    let made: DatabaseBackup = serde_json::from_value(answer.json()).unwrap();
    let seen = view(&rig).await;
    assert_eq!((seen.backups.len(), seen.failure), (1, None));
    assert_eq!(seen.backups[0].file, made.file);
    let checked = hearth_store::offline::check(made.file.as_str().into()).unwrap();
    assert_eq!(checked.unwrap().vms, 1);
    let text = String::from_utf8(rig.get("/metrics").await.bytes.to_vec()).unwrap();
    assert!(text.contains("\nhearth_database_backups 1\n"), "{text}");
}

#[tokio::test]
async fn one_that_fails_is_told_counted_and_kept_in_view() {
    let rig = Rig::new().await;
    let folder = rig.api.engine.paths.backups();
    std::fs::write(&folder, "no folder").unwrap();
    let problem = rig
        .post("/v1/db/backup", json!(null))
        .await
        .problem(500, "internal");
    assert!(
        problem["detail"].as_str().unwrap().contains("backups"),
        "{problem}"
    );
    let failure = view(&rig).await.failure.unwrap();
    assert!(!failure.damaged);
    let events = rig.get("/v1/events").await.json();
    let codes = events["items"].as_array().unwrap();
    let told = codes
        .iter()
        .any(|event| event["code"] == "database.backup_failed");
    assert!(told, "{events}");
    let text = String::from_utf8(rig.get("/metrics").await.bytes.to_vec()).unwrap();
    let counted = "hearth_database_backup_failures_total{cause=\"other\"} 1";
    assert!(text.contains(counted), "{text}");
    // Once the cause is gone it works, and the failure is forgotten.
    std::fs::remove_file(&folder).unwrap();
    assert!(
        rig.post("/v1/db/backup", json!(null))
            .await
            .status
            .is_success()
    );
    assert_eq!(view(&rig).await.failure, None);
}
