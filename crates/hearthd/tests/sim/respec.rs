//! A specification that is replaced: its disks and its address.

use hearth_store::{NewSpec, NewVm, StoreError, VmRow};
use hearth_types::spec::{NetworkMode, VmSpec};
use hearth_types::status::Goal;
use hearth_types::units::Bytes;

use super::world::{Life, World, leases, root, spec};

fn new(row: &VmRow, change: impl FnOnce(&mut VmSpec)) -> NewSpec {
    let mut spec = row.spec.clone();
    change(&mut spec);
    NewSpec {
        spec,
        image: row.image.clone(),
        kernel: row.kernel.clone(),
    }
}

fn volume(life: &Life, row: &VmRow, name: &str) -> Option<u64> {
    let path = life.engine.paths.vm(row.id).join(name);
    path.metadata().ok().map(|meta| meta.len())
}

#[test]
fn an_added_volume_and_a_larger_disk_are_there_at_the_next_start() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vm = world.live(async |life| {
        let mut web = spec("web");
        web.disk = Some(Bytes::mib(2));
        web.volumes = vec!["data:/srv:1MiB".parse().unwrap()];
        let vm = life.create(web, Goal::Running).await;
        life.settled("it runs").await;
        let row = life.row(vm).await;
        assert_eq!(volume(life, &row, "volume-data.img"), Some(1 << 20));
        let more = new(&row, |spec| {
            spec.disk = Some(Bytes::mib(4));
            spec.volumes = vec![
                "more:/more:1MiB".parse().unwrap(),
                "data:/srv:3MiB".parse().unwrap(),
            ];
        });
        life.engine.replace_spec(&row, more, None).await.unwrap();
        life.restart(vm).await;
        life.settled("it runs again").await;
        assert_eq!(volume(life, &row, "root.img"), Some(4 << 20));
        assert_eq!(volume(life, &row, "volume-data.img"), Some(3 << 20));
        assert_eq!(volume(life, &row, "volume-more.img"), Some(1 << 20));
        let made = life.rooms.change(|host| host.attempts["ensure_disks"]);
        life.restart(vm).await;
        life.settled("it runs a third time").await;
        let again = life.rooms.change(|host| host.attempts["ensure_disks"]);
        assert_eq!(again, made, "nothing is made twice");
        let row = life.row(vm).await;
        let late = new(&row, |spec| {
            spec.volumes.push("late:/late:1MiB".parse().unwrap());
        });
        life.engine.replace_spec(&row, late, None).await.unwrap();
        vm
    });
    // What was never made is not missed after a reboot, it is made.
    world.host.reboot();
    world.live(async |life| {
        life.settled("it runs after a reboot").await;
        let row = life.row(vm).await;
        assert_eq!(volume(life, &row, "volume-late.img"), Some(1 << 20));
    });
}

#[test]
fn an_address_that_is_given_up_is_forgotten_before_it_can_be_leased_again() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let row = life.row(vm).await;
        let ip = row.leases.ip.unwrap();
        let without = |row: &VmRow| new(row, |spec| spec.network.mode = NetworkMode::None);
        life.rooms.change(|host| host.tracked.insert(ip));
        let engine = &life.engine;
        let refused = engine.replace_spec(&row, without(&row), None).await;
        let refused = refused.unwrap_err();
        let refused = refused.downcast_ref::<StoreError>();
        assert!(matches!(refused, Some(StoreError::Connected { .. })));
        assert!(life.rooms.change(|host| host.tracked.contains(&ip)));
        assert_eq!(life.row(vm).await.leases.ip, Some(ip));

        life.set_goal(vm, Goal::Stopped).await;
        life.settled("it is down").await;
        let row = life.row(vm).await;
        let changed = engine.replace_spec(&row, without(&row), None).await;
        assert_eq!(changed.unwrap().leases.ip, None);
        assert!(!life.rooms.change(|host| host.tracked.contains(&ip)));
        let mut next = spec("next");
        next.network.address = Some(ip);
        let store = &engine.parts.store;
        let new = NewVm {
            spec: next,
            goal: Goal::Stopped,
            image: row.image.clone(),
            kernel: None,
        };
        let next = store.create_vm(new, leases(), engine.now()).await.unwrap();
        assert_eq!(next.leases.ip, Some(ip));
    });
}
