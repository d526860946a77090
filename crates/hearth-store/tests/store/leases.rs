//! Leases: given once, given back, given again as late as possible.

use crate::common::{dir, new_vm, now, open, ranges, ranges_with_prefix, respec, with_port};
use hearth_store::{LeaseRanges, Reserved, StoreError};
use hearth_types::spec::NetworkMode;
use hearth_types::status::Goal;

#[tokio::test]
async fn names_ports_and_addresses_are_given_once() {
    let dir = dir();
    let store = open(&dir);
    let web = store
        .create_vm(with_port("web", "8080:80"), ranges(), now())
        .await
        .unwrap();
    let refused = store
        .create_vm(new_vm("web"), ranges(), now())
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::NameTaken { by, .. } if by == web.id));
    for port in ["8080:81", "127.0.0.1:8080:80"] {
        let refused = store
            .create_vm(with_port("db", port), ranges(), now())
            .await
            .unwrap_err();
        assert!(matches!(&refused, StoreError::PortTaken { by, .. } if by.as_str() == "web"));
    }
    for (name, port) in [
        ("a", "8080:80/udp"),
        ("b", "127.0.0.1:81:80"),
        ("c", "127.0.0.2:81:80"),
    ] {
        store
            .create_vm(with_port(name, port), ranges(), now())
            .await
            .unwrap();
    }
    let refused = store
        .create_vm(with_port("d", "81:80"), ranges(), now())
        .await;
    assert!(matches!(refused, Err(StoreError::PortTaken { .. })));

    let mut fixed = new_vm("fixed");
    fixed.spec.network.address = web.leases.ip;
    let refused = store.create_vm(fixed.clone(), ranges(), now()).await;
    assert!(matches!(refused, Err(StoreError::AddressTaken { by, .. }) if by.as_str() == "web"));
    for outside in ["10.213.0.0", "10.213.0.1", "10.213.0.255", "10.214.0.7"] {
        fixed.spec.network.address = Some(outside.parse().unwrap());
        let refused = store.create_vm(fixed.clone(), ranges(), now()).await;
        assert!(
            matches!(refused, Err(StoreError::AddressOutside { .. })),
            "{outside}"
        );
    }
    // What was refused has left nothing behind.
    assert_eq!(store.vms().await.len(), 4);
}

#[tokio::test]
async fn what_a_vm_without_a_record_has_is_given_to_nobody_else() {
    let (dir, other) = (dir(), dir());
    let mut lost = open(&dir)
        .create_vm(with_port("lost", "8080:80"), ranges(), now())
        .await
        .unwrap();
    // A database that knows nothing of it would give the same again.
    let store = open(&other);
    let reserved = Reserved {
        vm: lost.id,
        name: lost.spec.name.clone(),
        leases: lost.leases.clone(),
        ports: lost.spec.ports.clone(),
    };
    store.reserve(vec![reserved]).await.unwrap();
    let web = store.create_vm(new_vm("web"), ranges(), now()).await;
    let web = web.unwrap().leases;
    assert_ne!(web.ip, lost.leases.ip);
    assert_ne!(web.cid, lost.leases.cid);
    assert_ne!(web.uid, lost.leases.uid);
    let mut fixed = new_vm("fixed");
    fixed.spec.network.address = lost.leases.ip;
    let refused = store.create_vm(fixed.clone(), ranges(), now()).await;
    assert!(matches!(refused, Err(StoreError::AddressTaken { by, .. }) if by.as_str() == "lost"));
    let port = with_port("port", "127.0.0.1:8080:80");
    let refused = store.create_vm(port, ranges(), now()).await;
    assert!(matches!(refused, Err(StoreError::PortTaken { by, .. }) if by.as_str() == "lost"));

    // It is recorded after all, as it was.
    lost = store.restore_vm(lost).await.unwrap();
    let name = lost.spec.name.clone();
    assert_eq!(store.vm(lost.id).await.unwrap().leases, lost.leases);
    store.reserve(Vec::new()).await.unwrap();
    let refused = store.create_vm(fixed, ranges(), now()).await;
    assert!(matches!(refused, Err(StoreError::AddressTaken { by, .. }) if by == name));
}

#[tokio::test]
async fn an_address_is_reused_as_late_as_possible() {
    let dir = dir();
    let store = open(&dir);
    let ranges = ranges_with_prefix(29); // .2 to .6
    let mut seen = Vec::new();
    for round in 0..7 {
        let row = store
            .create_vm(new_vm(&format!("vm{round}")), ranges, now())
            .await
            .unwrap();
        seen.push((
            row.leases.ip.unwrap().octets()[3],
            row.leases.cid,
            row.leases.uid - ranges.uid_base,
        ));
        store
            .set_goal(row.id, Goal::Absent, false, None, None)
            .await
            .unwrap();
        store.forget(row.id).await.unwrap();
    }
    let expected: Vec<_> = [2, 3, 4, 5, 6, 2, 3]
        .into_iter()
        .zip(0..)
        .map(|(ip, n)| (ip, 100 + n, n))
        .collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn running_out_is_said_by_name() {
    let dir = dir();
    let store = open(&dir);
    let ranges = ranges_with_prefix(30); // .2 only
    store.create_vm(new_vm("a"), ranges, now()).await.unwrap();
    let refused = store
        .create_vm(new_vm("b"), ranges, now())
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no address in 10.213.0.0/30 is left: remove VMs or widen the range in the configuration"
    );
    let mut detached = new_vm("c");
    detached.spec.network.mode = NetworkMode::None;
    let row = store
        .create_vm(detached.clone(), ranges, now())
        .await
        .unwrap();
    assert_eq!((row.leases.ip, row.leases.mac), (None, None));
    let few = LeaseRanges {
        uid_count: 2,
        ..ranges
    };
    detached.spec.name = "d".parse().unwrap();
    let refused = store.create_vm(detached.clone(), few, now()).await;
    assert!(matches!(refused, Err(StoreError::Exhausted { what }) if what == "uid"));
    let own = LeaseRanges {
        uid_base: 0,
        ..ranges
    };
    for name in ["d", "e"] {
        detached.spec.name = name.parse().unwrap();
        let row = store.create_vm(detached.clone(), own, now()).await.unwrap();
        assert_eq!(row.leases.uid, 0);
    }
}

#[tokio::test]
async fn a_new_spec_changes_leases_as_a_whole() {
    let dir = dir();
    let store = open(&dir);
    let web = store
        .create_vm(with_port("web", "80:80"), ranges(), now())
        .await
        .unwrap();
    let db = store
        .create_vm(with_port("db", "81:80"), ranges(), now())
        .await
        .unwrap();
    // One port free, one taken: nothing changes.
    let mut new = respec(&db);
    new.spec.ports = vec!["82:80".parse().unwrap(), "80:80".parse().unwrap()];
    let refused = store.replace_spec(db.id, new, ranges(), None).await;
    assert!(matches!(refused, Err(StoreError::PortTaken { .. })));
    assert_eq!(store.vm(db.id).await, Some(db.clone()));
    store
        .create_vm(with_port("other", "82:80"), ranges(), now())
        .await
        .unwrap();
    let still = store
        .create_vm(with_port("more", "81:80"), ranges(), now())
        .await;
    assert!(matches!(still, Err(StoreError::PortTaken { .. })));
    // A port let go of is free; the address stays.
    let mut new = respec(&web);
    new.spec.ports = Vec::new();
    new.spec.vcpus = 4;
    let changed = store
        .replace_spec(web.id, new, ranges(), Some(1))
        .await
        .unwrap();
    assert_eq!(
        (changed.generation, changed.leases.clone()),
        (2, web.leases.clone())
    );
    store
        .create_vm(with_port("more", "80:80"), ranges(), now())
        .await
        .unwrap();
    // Another address; then none.
    let mut new = respec(&changed);
    new.spec.network.address = Some("10.213.0.200".parse().unwrap());
    let changed = store
        .replace_spec(web.id, new, ranges(), None)
        .await
        .unwrap();
    assert_eq!(changed.leases.ip, Some("10.213.0.200".parse().unwrap()));
    let mut new = respec(&changed);
    new.spec.network = hearth_types::spec::NetworkSpec {
        mode: NetworkMode::None,
        address: None,
    };
    let changed = store
        .replace_spec(web.id, new, ranges(), None)
        .await
        .unwrap();
    assert_eq!(changed.leases.ip, None);
    let kept = store.vms().await;
    drop(store);
    assert_eq!(open(&dir).vms().await, kept);
}

/// Even a hand at the database cannot lease anything twice: the schema refuses.
#[tokio::test]
async fn the_schema_itself_keeps_leases_apart() {
    let dir = dir();
    let store = open(&dir);
    for (name, port) in [("a", "0.0.0.0:80:80"), ("b", "127.0.0.1:81:80")] {
        store
            .create_vm(with_port(name, port), ranges(), now())
            .await
            .unwrap();
    }
    drop(store);
    let hand = rusqlite::Connection::open(&dir.db).unwrap();
    let of_a = "WHERE vm = (SELECT id FROM vms WHERE name = 'a')";
    for refused in [
        format!("UPDATE leases SET ip = (SELECT max(ip) FROM leases) {of_a}"),
        format!("UPDATE leases SET mac = (SELECT max(mac) FROM leases) {of_a}"),
        format!("UPDATE leases SET cid = (SELECT max(cid) FROM leases) {of_a}"),
        format!("UPDATE leases SET uid = (SELECT max(uid) FROM leases) {of_a}"),
        format!("UPDATE leases SET ip = NULL {of_a}"),
        "UPDATE leases SET tap = 'ht0'".to_owned(),
        "UPDATE vms SET name = 'c'".to_owned(),
        "UPDATE ports SET host_port = 9".to_owned(),
        "INSERT INTO ports SELECT id, 'tcp', 2130706433, 80, 1 FROM vms".to_owned(),
        "INSERT INTO ports SELECT id, 'tcp', 0, 81, 1 FROM vms".to_owned(),
    ] {
        let error = hand.execute(&refused, []).unwrap_err();
        assert_eq!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::ConstraintViolation),
            "{refused}"
        );
    }
    // The same port of another protocol, and another address beside a single one, may be.
    for allowed in [
        "INSERT INTO ports SELECT id, 'udp', 0, 80, 1 FROM vms WHERE name = 'a'",
        "INSERT INTO ports SELECT id, 'tcp', 2130706434, 81, 1 FROM vms WHERE name = 'a'",
    ] {
        hand.execute(allowed, []).unwrap();
    }
}

#[tokio::test]
async fn a_vm_of_the_time_before_uids_gets_one() {
    let dir = dir();
    let store = open(&dir);
    let root = LeaseRanges {
        uid_base: 0,
        ..ranges()
    };
    let old = store.create_vm(new_vm("old"), root, now()).await.unwrap();
    assert_eq!(old.leases.uid, 0);
    let kept = store.lease_uid(old.id, root).await.unwrap();
    assert_eq!(kept, old, "none are leased");
    let new = store
        .create_vm(new_vm("new"), ranges(), now())
        .await
        .unwrap();
    let leased = store.lease_uid(old.id, ranges()).await.unwrap();
    assert!(leased.leases.uid >= ranges().uid_base);
    assert_ne!(leased.leases.uid, new.leases.uid);
    let again = store.lease_uid(old.id, ranges()).await.unwrap();
    assert_eq!(again, leased);
    drop(store);
    let rows = open(&dir).vms().await;
    assert!(rows.contains(&leased));
}
