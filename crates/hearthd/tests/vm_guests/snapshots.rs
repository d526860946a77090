//! Snapshots of guests that run: their writes are held, and what they had written is in it.

use hearth_client::Action;
use hearth_types::snapshot::{CloneSnapshot, Consistency, CreateSnapshot, RestoreSnapshot};
use hearth_types::status::Phase;

use crate::harness::{Host, Vm, eventually, spec};

/// What is asked of both disks.
const READ: &str = "cat /root/kept /data/kept";
/// More than any snapshot takes whose disks share blocks; a guest thaws by itself after as long.
const FROZEN_AT_MOST: u64 = 10_000;

async fn write(vm: &Vm, word: &str) {
    vm.must(&format!(
        "echo {word} > /root/kept; echo {word} > /data/kept"
    ))
    .await;
}

/// A guest that writes all the time, so that holding its writes means something.
async fn busy(vm: &Vm) {
    let writer = "(while :; do echo x >> /data/busy; done) > /dev/null 2>&1 &";
    vm.must(writer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_snapshotted_while_it_runs_gets_back_what_it_had_written() {
    let Some(mut host) = Host::on_sharing_disk(2048).await else {
        return;
    };
    host.start_daemon().await;
    let mut web = spec("web");
    web.volumes = vec!["data:/data:64MiB".parse().unwrap()];
    let vm = host.run(web).await;
    vm.healthy().await;
    let pid = vm.pid().await;
    write(&vm, "first").await;
    busy(&vm).await;

    let name = |name: &str| Some(name.parse().unwrap());
    let asked = CreateSnapshot {
        name: name("frozen"),
        ..CreateSnapshot::default()
    };
    // Nothing was synced: holding the writes has written it out.
    let frozen = host.client.create_snapshot("web", &asked).await.unwrap();
    println!("held for {:?} ms", frozen.frozen_ms);
    assert_eq!(frozen.consistency, Some(Consistency::Frozen));
    assert!(
        frozen
            .frozen_ms
            .is_some_and(|millis| millis < FROZEN_AT_MOST)
    );
    // The guest goes on writing.
    write(&vm, "later").await;
    let paused = CreateSnapshot {
        name: name("paused"),
        pause: true,
        ..CreateSnapshot::default()
    };
    vm.must("sync").await;
    let paused = host.client.create_snapshot("web", &paused).await.unwrap();
    assert_eq!(paused.consistency, Some(Consistency::Paused));
    vm.phase(Phase::Running).await;
    assert_eq!(vm.pid().await, pid);
    write(&vm, "third").await;

    let restore = |snapshot: &str| RestoreSnapshot {
        snapshot: snapshot.to_owned(),
        stop: false,
        keep_volumes: false,
    };
    let running = host
        .client
        .restore_snapshot("web", &restore("frozen"))
        .await;
    let error = running.unwrap_err().to_string();
    assert!(error.contains("is running"), "{error}");
    vm.stop().await;
    for (snapshot, word) in [("frozen", "first"), ("paused", "later")] {
        let asked = restore(snapshot);
        host.client.restore_snapshot("web", &asked).await.unwrap();
        vm.act(Action::Start).await.unwrap();
        vm.healthy().await;
        assert_eq!(vm.must(READ).await, format!("{word}\n{word}"));
        vm.stop().await;
    }

    let asked = CloneSnapshot {
        name: "copy".parse().unwrap(),
        ports: Vec::new(),
        start: true,
    };
    let copy = host.client.clone_snapshot("frozen", &asked).await.unwrap();
    assert_ne!(copy.leases.mac, vm.look().await.leases.mac);
    eventually("the clone runs", || async {
        let copy = host.client.vm("copy").await.unwrap();
        (copy.health == hearth_types::api::Health::Healthy).then_some(())
    })
    .await;
    for snapshot in ["frozen", "paused"] {
        host.client.delete_snapshot(snapshot).await.unwrap();
    }
    vm.remove().await;
    let options = hearth_client::ActOptions::default();
    host.client.delete_vm("copy", true, &options).await.unwrap();
    eventually("the clone is gone", || async {
        host.client.vm("copy").await.is_err().then_some(())
    })
    .await;
    host.clean().await;
}
