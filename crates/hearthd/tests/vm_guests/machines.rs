//! Machines, disks, and vCPUs that stand still.

use std::time::Duration;

use hearth_client::Action;
use hearth_types::api::Health;
use hearth_types::spec::Machine;
use hearth_types::status::Phase;
use hearth_types::units::Bytes;

use crate::harness::{Host, request, spec};

#[tokio::test(flavor = "multi_thread")]
async fn vm_on_q35_has_its_volume_and_a_disk_of_the_asked_size() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut db = spec("db");
    db.machine = Machine::Q35;
    db.disk = Some(Bytes::mib(400));
    db.volumes = vec!["data:/srv/data:64MiB".parse().unwrap()];
    let vm = host.run(db).await;
    vm.healthy().await;

    let mounts = vm.must("cat /proc/mounts").await;
    assert!(mounts.contains(" /srv/data ext4 "), "{mounts}");
    let root = vm.must("df -m / | tail -n 1 | awk '{print $2}'").await;
    let root: u32 = root.parse().unwrap();
    assert!((340..=400).contains(&root), "the root disk has {root} MiB");
    vm.must("echo precious > /srv/data/file").await;
    let boot = vm.must("cat /proc/sys/kernel/random/boot_id").await;

    vm.act(Action::Restart).await.unwrap();
    vm.healthy().await;
    assert_ne!(vm.must("cat /proc/sys/kernel/random/boot_id").await, boot);
    assert_eq!(vm.must("cat /srv/data/file").await, "precious");
    vm.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_is_paused_says_so_and_goes_on_after_it() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let vm = host.run(spec("web")).await;
    vm.healthy().await;
    let pid = vm.pid().await;
    let paused = vm.act(Action::Pause).await.unwrap();
    assert_eq!(paused.phase, Phase::Paused);
    vm.until("no health", |now| now.health == Health::None)
        .await;
    host.settled().await;

    let refused = tokio::time::timeout(Duration::from_secs(100), vm.exec(request(&["true"]), &[]));
    let error = refused.await.expect("an answer").unwrap_err().to_string();
    assert!(error.contains("paused"), "{error}");

    // It stays as it is over a restart of the daemon.
    host.kill_daemon().await;
    host.start_daemon().await;
    assert_eq!(vm.look().await.phase, Phase::Paused);
    assert_eq!(host.plan().await.steps, []);

    vm.act(Action::Resume).await.unwrap();
    vm.healthy().await;
    assert_eq!(vm.must("echo there").await, "there");
    assert_eq!(vm.pid().await, pid);

    // A stop wakes it first, so that it can go down cleanly.
    vm.act(Action::Pause).await.unwrap();
    let end = vm.stop().await.last_end.unwrap();
    assert_eq!(end.guest.unwrap().reason, "shutdown");
    vm.remove().await;
    host.clean().await;
}
