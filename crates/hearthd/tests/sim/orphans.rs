//! Orphans: what is left when a record is lost, what a person may do about it, and what goes by
//! itself.

use std::time::Duration;

use camino::Utf8Path;
use hearth_plan::Policy;
use hearth_sim::SimTap;
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::names::tap_name;
use hearth_types::observe::ProcessRole;
use hearth_types::orphan::{AdoptOrphan, FateKind, Orphan, OrphanKind, OrphanState, RemoveOrphans};
use hearth_types::problem::{Code, Problem};
use hearth_types::status::{Goal, Phase};

use super::world::{Life, World, root, spec};

const HOUR: Duration = Duration::from_secs(3600);

/// A world with the policy that is the default.
fn world() -> World {
    let mut world = World::new();
    world.policy = Policy::default();
    world
}

const FILES: [&str; 3] = ["hearth.db", "hearth.db-wal", "hearth.db-shm"];

/// A backup of the database, as an operator makes one while no daemon runs.
fn backup(data: &Utf8Path) {
    std::fs::copy(data.join("hearth.db"), data.join("backup")).unwrap();
}

/// The backup takes the database's place: what was recorded since is lost.
fn restore(data: &Utf8Path) {
    for file in FILES {
        // Not all of them are there.
        std::fs::remove_file(data.join(file)).ok();
    }
    std::fs::copy(data.join("backup"), data.join("hearth.db")).unwrap();
}

async fn listed(life: &Life, kind: OrphanKind) -> Vec<Orphan> {
    let list = life.engine.orphans().await.unwrap();
    assert!(list.unknown.is_empty(), "{list:?}");
    let of_kind = list.items.into_iter().filter(|it| it.kind == kind);
    of_kind.collect()
}

async fn the(life: &Life, kind: OrphanKind) -> Orphan {
    let found = listed(life, kind).await;
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

async fn remove(life: &Life, id: &str) -> Option<String> {
    let asked = RemoveOrphans {
        ids: vec![id.to_owned()],
        ..RemoveOrphans::default()
    };
    let removed = life.engine.remove_orphans(&asked).await.unwrap();
    assert_eq!(removed.items.len(), 1);
    removed.items.into_iter().next().unwrap().problem
}

fn is_problem(error: &anyhow::Error, code: Code) {
    let problem = error.downcast_ref::<Problem>();
    assert_eq!(problem.map(|problem| problem.code), Some(code), "{error:#}");
}

#[test]
fn a_vm_whose_record_is_lost_is_left_alone_and_adopted() {
    if !root() {
        return;
    }
    let mut world = world();
    let data = world.data();
    world.live(async |life| life.settled("nothing is there").await);
    backup(&data);
    let mut shop = spec("shop");
    shop.env = [("PASSWORD".to_owned(), "hunter2".to_owned())].into();
    shop.ports = vec!["8080:80".parse().unwrap()];
    let published = |life: &Life| life.rooms.see(|host| host.rules.clone().unwrap().ports);
    let web = world.live(async |life| {
        let web = life.create(shop.clone(), Goal::Running).await;
        life.settled("it runs").await;
        life.kept(web).await;
        web
    });
    let text = std::fs::read_to_string(data.join(format!("vms/{web}/vm.json"))).unwrap();
    assert!(
        text.contains("PASSWORD") && !text.contains("hunter2"),
        "{text}"
    );
    restore(&data);
    world.live(async |life| {
        let pid = life
            .rooms
            .change(|host| host.vmms(web).next().unwrap().identity.pid);
        life.rooms.change(|host| host.attempts.clear());
        let ports = published(life);
        assert_eq!(ports.len(), 1);
        tokio::time::sleep(HOUR).await;
        life.rooms.change(|host| {
            assert_eq!(host.vmms(web).count(), 1);
            assert!(host.taps.contains_key(&tap_name(web)));
            assert!(host.attempts.is_empty(), "{:?}", host.attempts);
        });
        let vmm = the(life, OrphanKind::Vmm).await;
        assert_eq!(vmm.fate.what, FateKind::Reported, "{vmm:?}");
        assert_eq!(vmm.name.as_deref(), Some("shop"));
        assert_eq!(vmm.image.as_deref(), Some("test"));
        assert!(vmm.adoptable && vmm.since.is_some() && vmm.object.contains(&pid.to_string()));
        let folder = the(life, OrphanKind::Folder).await;
        assert!(!folder.adoptable, "its VMM runs");
        assert!(folder.bytes.is_some());
        // Another VM has come to its name meanwhile.
        let other = life.create(spec("shop"), Goal::Stopped).await;
        let given = life.row(other).await.leases;
        let engine = &life.engine;
        let taken = engine.adopt_orphan(&vmm.id, AdoptOrphan::default()).await;
        is_problem(&taken.unwrap_err(), Code::Conflict);
        life.set_goal(other, Goal::Absent).await;
        life.until("the other is gone", |rows, _| rows.is_empty())
            .await;
        let row = engine
            .adopt_orphan(&vmm.id, AdoptOrphan::default())
            .await
            .unwrap();
        assert_eq!((row.id, row.spec.name.as_str()), (web, "shop"));
        assert_ne!(row.leases.ip, given.ip, "nobody else was given its address");
        assert_ne!((row.leases.cid, row.leases.uid), (given.cid, given.uid));
        life.settled("it has a record again").await;
        assert_eq!(row.spec.ports, shop.ports);
        assert_eq!(published(life), ports, "its clients never noticed");
        let now = life
            .rooms
            .change(|host| host.vmms(web).next().unwrap().identity.pid);
        assert_eq!(now, pid, "it never noticed");
        assert!(listed(life, OrphanKind::Vmm).await.is_empty());
        assert_eq!(life.events("orphan.adopted").await, 1);
        let again = engine.adopt_orphan(&vmm.id, AdoptOrphan::default()).await;
        is_problem(&again.unwrap_err(), Code::NotFound);
        life.set_goal(web, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn disks_without_a_record_are_kept_and_become_a_stopped_vm() {
    if !root() {
        return;
    }
    let mut world = world();
    let data = world.data();
    world.live(async |life| life.settled("nothing is there").await);
    backup(&data);
    let web = world.live(async |life| {
        let web = life.create(spec("shop"), Goal::Running).await;
        life.settled("it runs").await;
        life.set_goal(web, Goal::Stopped).await;
        life.settled("it is stopped").await;
        web
    });
    restore(&data);
    world.live(async |life| {
        tokio::time::sleep(HOUR).await;
        let folder = the(life, OrphanKind::Folder).await;
        assert!(folder.adoptable, "{folder:?}");
        assert_eq!(folder.fate.what, FateKind::Reported);
        let asked = AdoptOrphan {
            name: Some("office".to_owned()),
        };
        let row = life.engine.adopt_orphan(&folder.id, asked).await.unwrap();
        assert_eq!((row.goal, row.status.phase), (Goal::Stopped, Phase::Exited));
        life.settled("it stays stopped").await;
        life.set_goal(web, Goal::Running).await;
        life.settled("it runs on its old disk").await;
        assert_eq!(life.row(web).await.spec.name.as_str(), "office");
        life.set_goal(web, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn what_the_journal_proves_to_be_left_over_goes_by_itself() {
    if !root() {
        return;
    }
    world().live(async |life| {
        let web = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        life.set_goal(web, Goal::Absent).await;
        life.clean().await;
        // As after a crash that nobody foresaw: the record is gone, and this is not.
        life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, web);
            host.spawn(mark, ProcessRole::Vmm, false);
        });
        let vmm = the(life, OrphanKind::Vmm).await;
        assert_eq!(vmm.fate.what, FateKind::Removed, "{vmm:?}");
        assert!(vmm.fate.at.is_some(), "within its grace age");
        life.clean().await;
        life.told("orphan.removed", 1).await;
    });
}

#[test]
fn a_person_removes_what_is_only_reported() {
    if !root() {
        return;
    }
    world().live(async |life| {
        life.settled("nothing is there").await;
        let stray = VmId::new();
        let mark = life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, stray);
            host.spawn(mark, ProcessRole::Vmm, false);
            mark
        });
        let tap = SimTap {
            index: 9,
            mark: Some(mark),
            attached: true,
            foreign: false,
        };
        life.rooms
            .change(|host| host.taps.insert(tap_name(stray), tap));
        let folder = life.engine.paths.vm(stray);
        std::fs::create_dir_all(&folder).unwrap();
        tokio::time::sleep(HOUR).await;
        let refused = remove(life, &format!("folder-{stray}")).await.unwrap();
        assert!(refused.contains("lives and may use it"), "{refused}");
        let refused = remove(life, "vmm-1-1").await.unwrap();
        assert!(refused.contains("no such orphan"), "{refused}");
        let vmm = the(life, OrphanKind::Vmm).await;
        assert!(!vmm.adoptable, "its folder keeps nothing");
        let adopted = life
            .engine
            .adopt_orphan(&vmm.id, AdoptOrphan::default())
            .await;
        is_problem(&adopted.unwrap_err(), Code::Conflict);
        assert_eq!(remove(life, &vmm.id).await, None);
        // That a person removed its VMM is no order to remove its disks.
        tokio::time::sleep(HOUR).await;
        assert!(folder.is_dir());
        let all = RemoveOrphans {
            all: true,
            ..RemoveOrphans::default()
        };
        let removed = life.engine.remove_orphans(&all).await.unwrap();
        assert!(
            removed.items.iter().all(|it| it.problem.is_none()),
            "{removed:?}"
        );
        life.clean().await;
    });
}

#[test]
fn another_installations_folder_is_never_removed() {
    if !root() {
        return;
    }
    let mut world = world();
    world.policy.orphan_dirs = hearth_plan::OrphanAction::Remove;
    let data = world.data();
    world.live(async |life| {
        let web = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        life.kept(web).await;
        let kept = std::fs::read_to_string(data.join(format!("vms/{web}/vm.json"))).unwrap();
        let stray = VmId::new();
        let (own, other) = (
            life.engine.parts.store.installation().to_string(),
            InstallationId::new().to_string(),
        );
        let kept = kept
            .replace(&web.to_string(), &stray.to_string())
            .replace(&own, &other);
        let folder = life.engine.paths.vm(stray);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("vm.json"), kept).unwrap();
        std::fs::create_dir_all(data.join("vms/mine")).unwrap();
        tokio::time::sleep(HOUR).await;
        assert!(folder.is_dir());
        for folder in listed(life, OrphanKind::Folder).await {
            assert_eq!(folder.state, OrphanState::Unproven, "{folder:?}");
            assert_eq!(folder.fate.what, FateKind::Never);
            assert!(remove(life, &folder.id).await.is_some());
        }
        assert!(folder.is_dir() && data.join("vms/mine").is_dir());
    });
}

#[test]
fn what_is_missing_is_listed_with_what_will_be_done() {
    if !root() {
        return;
    }
    let mut world = world();
    world.policy.auto.drift = false;
    world.live(async |life| {
        life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        assert!(life.engine.orphans().await.unwrap().items.is_empty());
        life.rooms.change(|host| host.rules = None);
        let rules = the(life, OrphanKind::Rules).await;
        assert_eq!(rules.state, OrphanState::Missing);
        assert_eq!(rules.fate.what, FateKind::Held);
        assert_eq!(rules.fate.why, "AUTO_DRIFT");
        life.rooms
            .change(|host| assert!(host.unknown.insert(hearth_sim::Kind::Taps)));
        let list = life.engine.orphans().await.unwrap();
        assert!(list.unknown[0].starts_with("TAPs: "), "{list:?}");
    });
}

#[test]
fn connections_of_an_address_that_no_vm_has_are_forgotten_by_hand() {
    if !root() {
        return;
    }
    world().live(async |life| {
        let web = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let own = life.row(web).await.leases.ip.unwrap();
        let stray = std::net::Ipv4Addr::from(u32::from(own) + 1);
        life.rooms.change(|host| host.tracked.extend([own, stray]));
        let found = the(life, OrphanKind::Connections).await;
        assert_eq!(found.id, format!("connections-{stray}"));
        assert!(found.removable && found.state == OrphanState::Unwanted);
        let refused = remove(life, &format!("connections-{own}")).await.unwrap();
        assert!(refused.contains("no such orphan"), "{refused}");
        assert_eq!(remove(life, &found.id).await, None);
        life.rooms.change(|host| {
            assert!(host.tracked.contains(&own) && !host.tracked.contains(&stray));
        });
        // Whose addresses are in use is not known without the rules.
        life.rooms.change(|host| {
            host.tracked.insert(stray);
            assert!(host.unknown.insert(hearth_sim::Kind::Rules));
        });
        let list = life.engine.orphans().await.unwrap();
        assert!(
            list.unknown
                .iter()
                .any(|why| why.starts_with("tracked connections: ")),
            "{list:?}"
        );
        life.rooms.change(|host| host.tracked.clear());
    });
}

#[test]
fn all_means_what_the_daemon_says_can_be_removed() {
    if !root() {
        return;
    }
    world().live(async |life| {
        life.settled("nothing is there").await;
        let stray = life.engine.paths.vm(VmId::new());
        std::fs::create_dir_all(&stray).unwrap();
        std::fs::create_dir_all(life.engine.paths.vms().join("mine")).unwrap();
        let list = life.engine.orphans().await.unwrap();
        let removable = list.items.iter().filter(|orphan| orphan.removable);
        let ids: Vec<_> = removable.map(|orphan| orphan.id.clone()).collect();
        let all = RemoveOrphans {
            all: true,
            ..RemoveOrphans::default()
        };
        let removed = life.engine.remove_orphans(&all).await.unwrap();
        let gone: Vec<_> = removed.items.iter().map(|it| it.id.clone()).collect();
        assert_eq!(gone, ids);
        assert!(!stray.exists() && life.engine.paths.vms().join("mine").is_dir());
    });
}
