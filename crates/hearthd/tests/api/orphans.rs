//! Orphans and history: what is listed, what is refused, what is done.

use std::time::Duration;

use hearth_types::history::History;
use hearth_types::ids::VmId;
use hearth_types::orphan::{Orphan, OrphanKind, OrphanList, OrphanState, OrphansRemoved};
use hearth_types::process::ProcessExit;
use hearth_types::status::{EndClass, Phase};
use serde_json::{Value, json};

use crate::rig::{Rig, within};

async fn listed(rig: &Rig) -> Vec<Orphan> {
    let answer = rig.get("/v1/orphans").await;
    assert!(answer.status.is_success(), "{answer:?}");
    let list: OrphanList = serde_json::from_value(answer.json()).unwrap();
    list.items
}

async fn removed(rig: &Rig, body: Value) -> OrphansRemoved {
    let answer = rig.post("/v1/orphans/remove", body).await;
    assert!(answer.status.is_success(), "{answer:?}");
    serde_json::from_value(answer.json()).unwrap()
}

#[tokio::test]
async fn orphans_are_listed_with_what_can_be_done_and_removed_by_name() {
    let rig = Rig::new().await;
    rig.running("web").await;
    assert_eq!(listed(&rig).await, []);
    let (stray, alike) = (VmId::new(), rig.dir.join("vms/mine"));
    std::fs::create_dir_all(rig.vm_dir(stray)).unwrap();
    std::fs::create_dir_all(&alike).unwrap();
    let items = listed(&rig).await;
    assert_eq!(items.len(), 2, "{items:?}");
    assert_eq!(items[0].id, format!("folder-{stray}"));
    assert_eq!(
        (items[0].kind, items[0].vm),
        (OrphanKind::Folder, Some(stray))
    );
    assert!(items[0].removable && !items[0].adoptable && items[0].since.is_some());
    assert_eq!(items[1].state, OrphanState::Unproven);
    assert!(!items[1].removable);
    // What is not ours is refused in its place, and nothing else is held up by it.
    let ids = json!({ "ids": [items[1].id, items[0].id, "tap-none"] });
    let done = removed(&rig, ids).await;
    let problem = |id: &str| {
        let mut items = done.items.iter();
        let item = items.find(|item| item.id == id).unwrap();
        item.problem.clone()
    };
    assert_eq!(problem(&items[0].id), None);
    assert!(problem(&items[1].id).unwrap().contains("nothing proves"));
    assert!(problem("tap-none").unwrap().contains("no such orphan"));
    assert!(!rig.vm_dir(stray).exists() && alike.is_dir());
    assert_eq!(removed(&rig, json!({ "all": true })).await.items, []);
}

#[tokio::test]
async fn what_is_asked_of_orphans_must_make_sense() {
    let rig = Rig::new().await;
    for body in [
        json!({}),
        json!({ "all": true, "ids": ["tap-x"] }),
        json!({ "ids": ["tap-x"], "kind": "tap" }),
        json!({ "all": true, "kind": "sofa" }),
        json!({ "every": true }),
    ] {
        let answer = rig.post("/v1/orphans/remove", body).await;
        answer.problem(400, "invalid");
    }
    let adopted = rig.post("/v1/orphans/vmm-1-1/adopt", Value::Null).await;
    adopted.problem(404, "not_found");
    let folder = VmId::new();
    std::fs::create_dir_all(rig.vm_dir(folder)).unwrap();
    let path = format!("/v1/orphans/folder-{folder}/adopt");
    let adopted = rig.post(&path, Value::Null).await;
    adopted.problem(409, "conflict");
}

#[tokio::test]
async fn history_tells_how_runs_ended_that_nobody_had_ended() {
    let rig = Rig::new().await;
    let vm = rig.running("web").await;
    let history = async || {
        let answer = rig.get("/v1/vms/web/history").await;
        let history: History = serde_json::from_value(answer.json()).unwrap();
        history.items
    };
    assert_eq!(history().await, []);
    rig.vmm.fake.crash(vm.id, ProcessExit::Signal(11));
    let ended = |vm: &hearth_types::api::Vm| vm.phase == Phase::Failed;
    rig.until("web", "its end is recorded", ended).await;
    // What is known of the run is gathered after its end is told.
    let items = within("its history", async {
        loop {
            let items = history().await;
            if !items.is_empty() {
                return items;
            }
            // Nothing tells of it: it is asked for until it is there.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let items = items.await;
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0].class, EndClass::VmmCrashed);
    assert_eq!(items[0].vmm, Some(ProcessExit::Signal(11)));
    assert!(items[0].failure && items[0].back_at.is_none());
    // What the user ends is no part of it.
    rig.post("/v1/vms/web/start?wait=true", Value::Null)
        .await
        .vm();
    rig.post("/v1/vms/web/stop?wait=true", Value::Null)
        .await
        .vm();
    assert_eq!(history().await.len(), 1);
    let nobody = rig.get("/v1/vms/nobody/history").await;
    nobody.problem(404, "not_found");
}
