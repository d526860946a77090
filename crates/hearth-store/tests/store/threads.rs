//! Many at once: leases are never shared, whoever asks first.

use std::collections::BTreeSet;

use crate::common::{dir, new_vm, now, open, ranges, with_port};
use hearth_store::{Created, IdempotencyKey, Store, StoreError};

fn on_each_thread<T: Send>(store: &Store, f: impl Fn(usize, &Store) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let f = &f;
                scope.spawn(move || f(n, store))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn eight_threads_never_share_a_lease() {
    let dir = dir();
    let store = open(&dir);
    on_each_thread(&store, |n, store| {
        block_on(async {
            for i in 0..25 {
                let name = format!("vm-{n}-{i}");
                store
                    .create_vm(new_vm(&name), ranges(), now())
                    .await
                    .unwrap();
            }
        });
    });
    let rows = block_on(store.vms());
    assert_eq!(rows.len(), 200);
    let ips: BTreeSet<_> = rows.iter().map(|row| row.leases.ip).collect();
    let cids: BTreeSet<_> = rows.iter().map(|row| row.leases.cid).collect();
    let uids: BTreeSet<_> = rows.iter().map(|row| row.leases.uid).collect();
    assert_eq!((ips.len(), cids.len(), uids.len()), (200, 200, 200));
    drop(store);
    assert_eq!(block_on(open(&dir).vms()), rows);
}

#[test]
fn of_eight_that_want_the_same_one_gets_it() {
    let dir = dir();
    let store = open(&dir);
    let by_name = on_each_thread(&store, |_, store| {
        block_on(store.create_vm(new_vm("web"), ranges(), now()))
    });
    let won = by_name.iter().filter(|result| result.is_ok()).count();
    let lost = |e: &&Result<_, _>| matches!(e, Err(StoreError::NameTaken { .. }));
    assert_eq!((won, by_name.iter().filter(lost).count()), (1, 7));

    let by_port = on_each_thread(&store, |n, store| {
        let port = if n % 2 == 0 {
            "80:80"
        } else {
            "127.0.0.1:80:80"
        };
        block_on(store.create_vm(with_port(&format!("p{n}"), port), ranges(), now())).is_ok()
    });
    assert_eq!(by_port.iter().filter(|won| **won).count(), 1);

    let by_key = on_each_thread(&store, |_, store| {
        let key = IdempotencyKey {
            key: "k".to_owned(),
            hash: "h".to_owned(),
        };
        block_on(store.create_vm_once(new_vm("keyed"), ranges(), key, now())).unwrap()
    });
    let ids: BTreeSet<_> = by_key
        .iter()
        .map(|created| match created {
            Created::New(row) => row.id,
            Created::Replayed(id) => *id,
        })
        .collect();
    let made = |created: &&Created| matches!(created, Created::New(_));
    assert_eq!((ids.len(), by_key.iter().filter(made).count()), (1, 1));
}
