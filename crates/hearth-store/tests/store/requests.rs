//! Each request of the store, one at a time.

use crate::common::{dir, later, new_vm, now, open, ranges, respec, with_port};
use hearth_store::{Created, FindResult, IdempotencyKey, Store, StoreError, VmRow};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::{EventSeq, VmId};
use hearth_types::net::MacAddr;
use hearth_types::status::{Goal, Phase, VmStatus};
use hearth_types::units::Span;
use serde_json::json;

async fn create(store: &Store, name: &str) -> VmRow {
    store
        .create_vm(new_vm(name), ranges(), now())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_vm_is_recorded_whole_and_survives_a_reopen() {
    let dir = dir();
    let store = open(&dir);
    let mut new = with_port("web", "127.0.0.1:8080:80/udp");
    new.spec.volumes = vec!["data:/srv:1GiB".parse().unwrap()];
    new.kernel = Some("6.1".to_owned());
    let row = store.create_vm(new, ranges(), now()).await.unwrap();
    assert_eq!(row.generation, 1);
    assert_eq!(row.leases.mac, row.leases.ip.map(MacAddr::for_ipv4));
    let stopped = store
        .set_goal(row.id, Goal::Stopped, true, Some(Span::secs(3)), None)
        .await
        .unwrap();
    let status = VmStatus {
        phase: Phase::Failed,
        restarts: 3,
        next_start: Some(later(5)),
        ..VmStatus::default()
    };
    store.set_status(row.id, status.clone()).await.unwrap();
    let expected = VmRow { status, ..stopped };
    assert_eq!(store.vms().await, vec![expected.clone()]);
    let installation = store.installation();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.vms().await, vec![expected]);
    assert_eq!(store.installation(), installation);
    assert_eq!(store.schema_version(), hearth_store::SCHEMA_VERSION);
}

#[tokio::test]
async fn the_last_word_holds_and_a_stale_one_is_refused() {
    let dir = dir();
    let store = open(&dir);
    let row = create(&store, "web").await;
    let row = store
        .set_goal(row.id, Goal::Running, false, None, Some(1))
        .await
        .unwrap();
    assert_eq!(
        row.generation, 2,
        "the same goal is a new word all the same"
    );
    let stale = store
        .set_goal(row.id, Goal::Stopped, false, None, Some(1))
        .await;
    assert!(matches!(
        stale,
        Err(StoreError::Stale {
            expected: 1,
            found: 2
        })
    ));
    let stale = store
        .replace_spec(row.id, respec(&row), ranges(), Some(1))
        .await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })));
    let nobody = VmId::new();
    let missing = store
        .set_goal(nobody, Goal::Stopped, false, None, None)
        .await;
    assert!(matches!(missing, Err(StoreError::NotFound { id }) if id == nobody));
}

#[tokio::test]
async fn only_an_absent_vm_is_forgotten_and_its_leases_come_back() {
    let dir = dir();
    let store = open(&dir);
    let row = store
        .create_vm(with_port("web", "80:80"), ranges(), now())
        .await
        .unwrap();
    assert!(matches!(
        store.forget(row.id).await,
        Err(StoreError::StillWanted { .. })
    ));
    store
        .set_goal(row.id, Goal::Absent, false, None, None)
        .await
        .unwrap();
    store.forget(row.id).await.unwrap();
    assert!(matches!(
        store.set_status(row.id, VmStatus::default()).await,
        Err(StoreError::NotFound { .. })
    ));
    let mut again = with_port("web", "80:80");
    again.spec.network.address = row.leases.ip;
    store.create_vm(again, ranges(), now()).await.unwrap();
}

#[tokio::test]
async fn statuses_are_recorded_all_or_none() {
    let dir = dir();
    let store = open(&dir);
    let row = create(&store, "web").await;
    let status = VmStatus {
        failures: 9,
        ..VmStatus::default()
    };
    let refused = store
        .set_statuses(vec![
            (row.id, status.clone()),
            (VmId::new(), VmStatus::default()),
        ])
        .await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })));
    assert_eq!(store.vm(row.id).await.unwrap().status, VmStatus::default());
    store
        .set_statuses(vec![(row.id, status.clone())])
        .await
        .unwrap();
    assert_eq!(store.vm(row.id).await.unwrap().status, status);
}

#[tokio::test]
async fn a_vm_is_found_by_what_people_type() {
    let dir = dir();
    let store = open(&dir);
    let web = create(&store, "web").await;
    let db = create(&store, "db").await;
    for text in [
        "web".to_owned(),
        web.id.to_string(),
        web.id.as_uuid().simple().to_string(),
        web.id.short(),
        web.id.short()[..8].to_owned(),
        web.id.to_string()[..30].to_uppercase(),
    ] {
        let found = store.find(&text).await;
        assert_eq!(found, FindResult::Found(Box::new(web.clone())), "{text}");
    }
    for text in ["", "nobody", "zz"] {
        assert_eq!(store.find(text).await, FindResult::NotFound, "{text}");
    }
    // UUIDv7s made in the same hour begin alike.
    let FindResult::Ambiguous { matches } = store.find(&web.id.to_string()[..4]).await else {
        panic!("expected several");
    };
    assert_eq!(
        matches,
        vec![
            (web.id, "web".parse().unwrap()),
            (db.id, "db".parse().unwrap())
        ]
    );
}

#[tokio::test]
async fn the_journal_says_what_is_open() {
    let dir = dir();
    let store = open(&dir);
    let vm = VmId::new();
    let first = store
        .begin(Some(vm), json!({"step": "start"}), now())
        .await
        .unwrap();
    let second = store
        .begin(None, json!({"step": "bridge"}), later(1))
        .await
        .unwrap();
    store.finish(second, "done", later(2)).await.unwrap();
    drop(store);
    let store = open(&dir);
    let left = store.open_intents().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].id, left[0].vm, left[0].begun_at),
        (first, Some(vm), now())
    );
    assert_eq!(left[0].step, json!({"step": "start"}));
    store
        .close_intents(vec![first], "interrupted", later(3))
        .await
        .unwrap();
    assert!(store.open_intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn events_are_numbered_without_gaps_and_bounded() {
    let dir = dir();
    let store = open(&dir);
    assert_eq!(store.last_event().await, EventSeq(0));
    let vm = VmId::new();
    let first = NewEvent::info("vm.started", "it runs")
        .vm(vm, "web")
        .severity(Severity::Warning)
        .details(json!({"pid": 7}));
    let first = store.event(first, now()).await.unwrap();
    assert_eq!(store.events(EventSeq(0), 9).await.unwrap(), vec![first]);
    drop(store);
    let store = open(&dir);
    // Unpruned there would be 10,500.
    let appends: Vec<_> = (2..=10_500_u64)
        .map(|n| store.event(NewEvent::info("test", n.to_string()), now()))
        .collect();
    for append in futures_in_order(appends).await {
        append.unwrap();
    }
    assert_eq!(store.last_event().await, EventSeq(10_500));
    let kept = store.events(EventSeq(0), usize::MAX).await.unwrap();
    assert!((10_000..10_500).contains(&kept.len()), "{}", kept.len());
    assert!(kept.windows(2).all(|w| w[1].seq.0 == w[0].seq.0 + 1));
    let page = store.events(EventSeq(10_400), 5).await.unwrap();
    assert_eq!(
        page.iter().map(|event| event.seq.0).collect::<Vec<_>>(),
        (10_401..=10_405).collect::<Vec<_>>()
    );
}

/// Runs all at once, so that they share commits.
async fn futures_in_order<T: Send + 'static>(
    futures: Vec<impl Future<Output = T> + Send>,
) -> Vec<T> {
    let mut all: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, slot) in all.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_creation_with_a_key_happens_once_a_day() {
    let dir = dir();
    let store = open(&dir);
    let key = |hash: &str| IdempotencyKey {
        key: "k1".to_owned(),
        hash: hash.to_owned(),
    };
    let once = |store: &Store, hash: &str, seconds| {
        let (store, key) = (store.clone(), key(hash));
        async move {
            store
                .create_vm_once(new_vm("web"), ranges(), key, later(seconds))
                .await
        }
    };
    let Created::New(row) = once(&store, "h", 0).await.unwrap() else {
        panic!("expected a new one");
    };
    drop(store);
    let store = open(&dir);
    let again = once(&store, "h", 60).await.unwrap();
    assert_eq!(again, Created::Replayed(row.id));
    assert!(matches!(
        once(&store, "other", 60).await,
        Err(StoreError::KeyReused { .. })
    ));
    assert_eq!(store.vms().await.len(), 1);
    // A day later the key is free; the name is not.
    assert!(matches!(
        once(&store, "h", 86_401).await,
        Err(StoreError::NameTaken { .. })
    ));
}

#[tokio::test]
async fn answers_are_remembered_for_a_day() {
    let dir = dir();
    let store = open(&dir);
    assert_eq!(store.idempotent("k", "h").await.unwrap(), None);
    store
        .remember("k", "h", json!({"id": 1}), now())
        .await
        .unwrap();
    let hit = store.idempotent("k", "h").await.unwrap().unwrap();
    assert_eq!((hit.matches, hit.response), (true, json!({"id": 1})));
    assert!(!store.idempotent("k", "x").await.unwrap().unwrap().matches);
    store
        .remember("k2", "h", json!(null), later(86_401))
        .await
        .unwrap();
    assert_eq!(store.idempotent("k", "h").await.unwrap(), None);
}

#[tokio::test]
async fn settings_are_kept_replaced_and_forgotten() {
    let dir = dir();
    let store = open(&dir);
    assert_eq!(store.setting("mode").await.unwrap(), None);
    for value in [json!({"mode": "readonly"}), json!(2)] {
        store
            .set_setting("mode", Some(value.clone()))
            .await
            .unwrap();
        assert_eq!(store.setting("mode").await.unwrap(), Some(value));
    }
    store.probe().await.unwrap();
    store.probe().await.unwrap();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.setting("mode").await.unwrap(), Some(json!(2)));
    assert_eq!(store.setting("probe").await.unwrap(), Some(json!(2)));
    store.set_setting("mode", None).await.unwrap();
    assert_eq!(store.setting("mode").await.unwrap(), None);
}

#[tokio::test]
async fn of_each_vm_the_last_ends_are_kept() {
    use hearth_types::history::{HISTORY_KEPT, HistoryEntry};
    let dir = dir();
    let store = open(&dir);
    let (a, b) = (create(&store, "a").await, create(&store, "b").await);
    let entry = |reason: String| HistoryEntry {
        class: hearth_types::status::EndClass::Killed,
        exit_code: None,
        vmm: None,
        failure: true,
        reason,
        started_at: None,
        ended_at: now(),
        recorded_at: now(),
        back_at: None,
        tried: Vec::new(),
        console: Vec::new(),
        vmm_log: Vec::new(),
        core: None,
    };
    for n in 0..HISTORY_KEPT + 5 {
        store.add_history(a.id, entry(n.to_string())).await.unwrap();
    }
    store
        .add_history(b.id, entry("b".to_owned()))
        .await
        .unwrap();
    store
        .amend_history(a.id, |entry| entry.back_at = Some(later(5)))
        .await
        .unwrap();
    store.amend_history(VmId::new(), |_| ()).await.unwrap();
    let kept = store.history(a.id).await.unwrap();
    assert_eq!(kept.len(), HISTORY_KEPT);
    assert_eq!(
        (kept[0].reason.as_str(), kept[0].back_at),
        ("24", Some(later(5)))
    );
    assert_eq!((kept[19].reason.as_str(), kept[19].back_at), ("5", None));
    assert_eq!(store.history(b.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_acknowledged_removal_is_not_taken_back() {
    let dir = dir();
    let store = open(&dir);
    let row = create(&store, "web").await;
    let leaving = store
        .set_goal(row.id, Goal::Absent, false, None, None)
        .await
        .unwrap();
    for goal in [Goal::Running, Goal::Paused, Goal::Stopped] {
        let taken_back = store.set_goal(row.id, goal, false, None, None).await;
        assert!(matches!(taken_back, Err(StoreError::Leaving { .. })));
        let change = |row: &VmRow| row.status.clone();
        let restarted = store
            .set_goal_and_status(row.id, goal, false, None, None, change)
            .await;
        assert!(matches!(restarted, Err(StoreError::Leaving { .. })));
    }
    let respecified = store
        .replace_spec(row.id, respec(&row), ranges(), None)
        .await;
    assert!(matches!(respecified, Err(StoreError::Leaving { .. })));
    assert_eq!(store.vms().await, vec![leaving]);
    let forced = store.set_goal(row.id, Goal::Absent, true, None, None).await;
    assert!(forced.unwrap().force_stop, "it can be hurried");
}

async fn create_after(store: &Store, name: &str, after: &[&str]) -> Result<VmRow, StoreError> {
    let mut new = new_vm(name);
    new.spec.after = after.iter().map(|name| name.parse().unwrap()).collect();
    store.create_vm(new, ranges(), now()).await
}

/// The circle that is refused; another refusal in its own words.
fn circle(result: Result<VmRow, StoreError>) -> String {
    match result.unwrap_err() {
        StoreError::Circle { path } => hearth_types::spec::bootstrap::circle_words(&path),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn vms_that_would_wait_for_each_other_are_refused_in_whatever_order_they_come() {
    let dir = dir();
    let store = open(&dir);
    // Names that are not there yet are taken: the file that names them may come to them later.
    let web = create_after(&store, "web", &["api", "cache"])
        .await
        .unwrap();
    let api = create_after(&store, "api", &["db"]).await.unwrap();
    let closed = create_after(&store, "db", &["web"]).await;
    assert_eq!(circle(closed), "db → web → api → db");
    assert!(matches!(store.find("db").await, FindResult::NotFound));
    // By a change of a specification, or of a name.
    let mut other = respec(&create_after(&store, "other", &["web"]).await.unwrap());
    other.spec.name = "db".parse().unwrap();
    let id = store.vms().await.last().unwrap().id;
    let renamed = store.replace_spec(id, other.clone(), ranges(), None).await;
    assert_eq!(circle(renamed), "db → web → api → db");
    let mut alone = respec(&api);
    alone.spec.after.clear();
    store
        .replace_spec(api.id, alone, ranges(), None)
        .await
        .unwrap();
    store.replace_spec(id, other, ranges(), None).await.unwrap();
    let mut closes = respec(&api);
    closes.spec.after = vec!["db".parse().unwrap()];
    let closed = store.replace_spec(api.id, closes, ranges(), None).await;
    assert_eq!(circle(closed), "api → db → web → api");
    // A VM that is being removed is never started: it closes no circle.
    store
        .set_goal(web.id, Goal::Absent, false, None, None)
        .await
        .unwrap();
    let mut free = respec(&api);
    free.spec.after = vec!["db".parse().unwrap()];
    store
        .replace_spec(api.id, free, ranges(), None)
        .await
        .unwrap();
}
