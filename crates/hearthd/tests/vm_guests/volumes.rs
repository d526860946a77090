//! Data volumes of their own in real guests: what one wrote the next one reads, and a disk grows under a guest that
//! uses it.

use hearth_client::Action;
use hearth_types::spec::{Machine, VmSpec};
use hearth_types::units::Bytes;
use hearth_types::volume::{AttachVolume, CreateVolume, GrowVolume, Growth, SnapshotVolume};

use crate::harness::{Host, Vm, eventually, spec};

const SIZE: &str = "df -m /srv | tail -n 1 | awk '{print $2}'";

/// A VM that has a volume before its first start.
async fn with_volume(host: &Host, spec: VmSpec, at: &str, read_only: bool) -> Vm {
    let name = spec.name.to_string();
    let vm = host.create(spec, false, None).await.unwrap();
    let asked = AttachVolume {
        vm: name,
        at: Some(at.to_owned()),
        read_only,
    };
    host.client.attach_volume("data", &asked).await.unwrap();
    vm.act(Action::Start).await.unwrap();
    vm.healthy().await;
    vm
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_leaves_its_volume_to_the_next_one_and_a_volume_grows_under_its_guest() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let new = CreateVolume {
        name: "data".parse().unwrap(),
        size: Some(Bytes::mib(64)),
        from: None,
    };
    host.client.create_volume(&new).await.unwrap();
    let vm = with_volume(&host, spec("first"), "/srv", false).await;
    vm.must("echo precious > /srv/file").await;
    let before: u32 = vm.must(SIZE).await.parse().unwrap();
    assert!(before <= 64, "{before}");

    let asked = GrowVolume {
        size: Bytes::mib(160),
    };
    let grown = host.client.grow_volume("data", &asked).await.unwrap();
    assert_eq!(grown.guests.len(), 1);
    assert_eq!(grown.guests[0].growth, Growth::Grown, "{grown:?}");
    let now: u32 = vm.must(SIZE).await.parse().unwrap();
    assert!((130..=160).contains(&now), "it has {now} MiB");
    // There is room for what did not fit before.
    vm.must("dd if=/dev/zero of=/srv/large bs=1M count=100 && rm /srv/large")
        .await;
    vm.must("echo later >> /srv/file && sync").await;
    vm.stop().await;
    vm.remove().await;

    let mut second = spec("second");
    second.machine = Machine::Q35;
    let vm = with_volume(&host, second, "/srv", true).await;
    assert_eq!(vm.must("cat /srv/file").await, "precious\nlater");
    assert_ne!(vm.sh("echo no > /srv/file").await.code, 0);
    // QEMU resizes nothing that it only reads: who only reads sees the new size with its next start.
    let asked = GrowVolume {
        size: Bytes::mib(200),
    };
    let grown = host.client.grow_volume("data", &asked).await.unwrap();
    assert_eq!(grown.guests[0].growth, Growth::NextStart, "{grown:?}");
    let third = with_volume(&host, spec("third"), "/mnt/data", true).await;
    assert_eq!(third.must("cat /mnt/data/file").await, "precious\nlater");

    let kept = SnapshotVolume {
        name: Some("kept".parse().unwrap()),
        pause: false,
    };
    host.client.snapshot_volume("data", &kept).await.unwrap();
    vm.remove().await;
    third.remove().await;
    for volume in ["data", "kept"] {
        eventually("the volume is free", || async {
            host.client.delete_volume(volume).await.ok()
        })
        .await;
    }
    host.clean().await;
}
