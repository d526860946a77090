//! Health in virtual time: hangs are noticed in time, nobody is called ill who is not, and who is
//! ill is started again where that is asked for.

use std::time::Duration;

use hearth_plan::transition::elapsed;
use hearth_types::api::Health;
use hearth_types::observe::ProcessRole;
use hearth_types::spec::health::{CheckKind, OnFailure};
use hearth_types::spec::{HealthSpec, RestartPolicy, VmSpec};
use hearth_types::status::{EndClass, Goal, Phase};
use hearth_types::units::Span;
use hearth_types::{OwnerMark, VmId};
use tokio::time::Instant;

use super::told::Told;
use super::world::{Life, World, leases, root, spec};

/// One interval and three timeouts, and what a look every half second adds.
const BOUND: Duration = Duration::from_millis(30_000 + 3 * 5_000 + 500);

fn restarting(name: &str) -> VmSpec {
    let mut spec = spec(name);
    spec.restart = RestartPolicy::Always;
    spec.health.on_failure = Some(OnFailure::Restart);
    spec
}

pub(super) async fn becomes(life: &Life, vm: VmId, health: Health) -> Duration {
    let begun = Instant::now();
    let what = format!("{vm} is {health:?}");
    life.until(&what, |rows, _| {
        let row = rows.iter().find(|row| row.id == vm).unwrap();
        life.engine.health_of(row) == health
    })
    .await;
    begun.elapsed()
}

pub(super) async fn healthy(life: &Life, name: &str) -> VmId {
    let vm = life.create(spec(name), Goal::Running).await;
    becomes(life, vm, Health::Healthy).await;
    vm
}

#[test]
fn a_hang_is_noticed_in_time_and_its_end_too() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = healthy(life, "web").await;
        for wait in [0, 7, 29, 100] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            life.rooms.change(|host| host.hang(vm));
            let took = becomes(life, vm, Health::Unhealthy).await;
            assert!(took <= BOUND, "{took:?}");
            life.rooms.change(|host| {
                for process in host.processes.values_mut() {
                    process.hangs = false;
                }
            });
            let took = becomes(life, vm, Health::Healthy).await;
            assert!(
                took <= Duration::from_secs(30 + 5) + Duration::from_millis(500),
                "{took:?}"
            );
        }
        life.told("vm.unhealthy", 4).await;
        life.told("vm.healthy", 4).await;
        // It was only told: nothing was asked to be done about it.
        assert_eq!(life.row(vm).await.status.restarts, 0);
        life.sane().await;
    });
}

#[test]
fn a_guest_that_hangs_is_started_again_where_that_is_asked_for() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = life.create(restarting("web"), Goal::Running).await;
        becomes(life, vm, Health::Healthy).await;
        let before = life.row(vm).await.status.vmm;
        life.rooms.change(|host| host.hang(vm));
        life.until("another VMM runs", |rows, _| {
            let status = &rows[0].status;
            status.phase == Phase::Running && status.vmm.is_some() && status.vmm != before
        })
        .await;
        becomes(life, vm, Health::Healthy).await;
        let status = life.row(vm).await.status;
        let end = status.last_end.unwrap();
        assert_eq!(end.class, EndClass::Unresponsive);
        assert!(end.failure && end.reason.contains("check agent"), "{end:?}");
        assert_eq!((status.restarts, status.failures), (1, 1));
        assert_eq!(status.unresponsive, None);
        life.told("vm.unresponsive", 1).await;
        life.told("vm.restarted", 1).await;
        life.sane().await;
    });
}

#[test]
fn a_guest_that_never_answers_is_given_up_by_its_policy() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let mut web = restarting("web");
        web.restart = RestartPolicy::OnFailure(Some(2));
        web.health.start_period = Some(Span::secs(10));
        let vm = life.create(web, Goal::Running).await;
        let mut changes = life.engine.changes();
        // Every run of it hangs as soon as it is there.
        let ended = tokio::time::timeout(Duration::from_secs(7200), async {
            while life.row(vm).await.status.phase != Phase::Failed {
                life.rooms.change(|host| host.hang(vm));
                // Either is a reason to look again.
                let _either = tokio::time::timeout(Duration::from_millis(100), changes.changed());
                drop(_either.await);
            }
        });
        ended.await.unwrap();
        let status = life.row(vm).await.status;
        assert_eq!((status.restarts, status.failures), (2, 3));
        assert_eq!(status.last_end.unwrap().class, EndClass::Unresponsive);
    });
}

#[test]
fn the_users_word_comes_before_an_illness() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = life.create(restarting("web"), Goal::Running).await;
        becomes(life, vm, Health::Healthy).await;
        life.rooms.change(|host| host.hang(vm));
        life.until("it is being stopped for it", |rows, _| {
            rows[0].status.unresponsive.is_some()
        })
        .await;
        life.set_goal(vm, Goal::Stopped).await;
        life.settled("it is stopped and stays so").await;
        let end = life.row(vm).await.status.last_end.unwrap();
        assert!(!end.failure, "{end:?}");
        assert_eq!(life.row(vm).await.status.phase, Phase::Exited);
    });
}

#[test]
fn nobody_asks_a_paused_vm() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = life.create(restarting("web"), Goal::Running).await;
        becomes(life, vm, Health::Healthy).await;
        let before = life.row(vm).await.status.vmm;
        life.set_goal(vm, Goal::Paused).await;
        life.settled("it is paused").await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(life.engine.health_of(&life.row(vm).await), Health::None);
        life.set_goal(vm, Goal::Running).await;
        life.settled("it runs again").await;
        becomes(life, vm, Health::Healthy).await;
        assert_eq!(life.row(vm).await.status.vmm, before);
        assert_eq!(life.events("vm.unhealthy").await, 0);
    });
}

#[test]
fn a_daemon_that_is_started_anew_calls_nobody_ill_at_once() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vm = world.live(async |life| {
        let vm = healthy(life, "web").await;
        // Old enough that no start period forgives anything.
        tokio::time::sleep(Duration::from_secs(600)).await;
        life.rooms.change(|host| host.hang(vm));
        vm
    });
    world.live(async |life| {
        let begun = Instant::now();
        becomes(life, vm, Health::Unhealthy).await;
        // Three attempts of five seconds each, one after the other.
        assert!(
            begun.elapsed() >= Duration::from_secs(14),
            "{:?}",
            begun.elapsed()
        );
        assert!(begun.elapsed() <= BOUND, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_spec_that_changes_changes_the_checks() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = healthy(life, "web").await;
        let view = life.engine.health.view(&life.row(vm).await).unwrap();
        let kinds: Vec<_> = view.checks.iter().map(|check| check.kind).collect();
        use CheckKind::{Agent, Console, Process, VmmApi};
        assert_eq!(kinds, [Process, VmmApi, Agent, Console]);
        let row = life.row(vm).await;
        let mut spec = row.spec.clone();
        spec.health = HealthSpec {
            without: vec![Agent, Console],
            ..HealthSpec::default()
        };
        let store = &life.engine.parts.store;
        let new = hearth_store::NewSpec {
            spec,
            image: row.image.clone(),
            kernel: row.kernel.clone(),
        };
        store.replace_spec(vm, new, leases(), None).await.unwrap();
        life.engine.look_at(vm);
        life.until("it has two checks", |rows, _| {
            life.engine.health.view(&rows[0]).unwrap().checks.len() == 2
        })
        .await;
        assert_eq!(life.engine.health_of(&life.row(vm).await), Health::Healthy);
    });
}

/// Six VMs for a day: paused, resumed, restarted, answering late, under daemons that come
/// and go. Whoever is called ill is so by mistake.
#[test]
fn nobody_is_called_ill_by_mistake_in_a_day() {
    if !root() {
        return;
    }
    const VMS: usize = 6;
    const HOURS: u64 = 24;
    let mut world = World::new();
    let vms: Vec<VmId> = world.live(async |life| {
        let mut vms = Vec::new();
        for number in 0..VMS {
            let spec = restarting(&format!("vm-{number}"));
            vms.push(life.create(spec, Goal::Running).await);
        }
        for vm in &vms {
            becomes(life, *vm, Health::Healthy).await;
        }
        vms
    });
    for hour in 0..HOURS {
        // Nearly as late as they may be, every other hour.
        let latency = if hour % 2 == 0 { 0 } else { 1200 };
        world.host.latency = Duration::from_millis(latency);
        world.live(async |life| {
            let begun = life.engine.now();
            let mut turn = 0;
            while elapsed(begun, life.engine.now()) < Duration::from_secs(3600) {
                let vm = vms[(turn + usize::try_from(hour).unwrap()) % VMS];
                match turn % 3 {
                    0 => life.say(vm, Goal::Paused).await,
                    1 => life.restart(vm).await,
                    _ => life.say(vm, Goal::Running).await,
                }
                tokio::time::sleep(Duration::from_secs(97)).await;
                turn += 1;
            }
            for vm in &vms {
                life.say(*vm, Goal::Running).await;
            }
            life.settled("all run again").await;
            for vm in &vms {
                becomes(life, *vm, Health::Healthy).await;
            }
            for code in ["vm.unhealthy", "vm.unresponsive"] {
                assert_eq!(life.events(code).await, 0, "{code} in hour {hour}");
            }
        });
    }
}

/// A hundred and fifty VMs whose VMMs take their time: no more are asked at once than may be, and
/// all are asked in time.
#[test]
fn many_vms_are_not_asked_all_at_once() {
    if !root() {
        return;
    }
    const VMS: usize = 150;
    World::new().live(async |life| {
        life.rooms
            .change(|host| host.latency = Duration::from_millis(1200));
        let mut vms = Vec::new();
        for number in 0..VMS {
            let mut vm = spec(&format!("vm-{number}"));
            // Only the VMM: agents that boot are waited for, and take no slot.
            vm.health.without = vec![CheckKind::Process, CheckKind::Agent, CheckKind::Console];
            vms.push(life.create(vm, Goal::Running).await);
        }
        for vm in &vms {
            becomes(life, *vm, Health::Healthy).await;
        }
        life.rooms.change(|host| host.asked_at_once = (0, 0));
        tokio::time::sleep(Duration::from_secs(300)).await;
        let (_, most) = life.rooms.change(|host| host.asked_at_once);
        // The loop's own look at everything asks 32 at once.
        assert!(most <= 64 + 32, "{most} at once");
        for vm in vms {
            let view = life.engine.health.view(&life.row(vm).await).unwrap();
            let (newest, oldest) = (&view.checks[0].history[0], &view.checks[0].history[9]);
            // Ten results in a row: nine intervals.
            let took = elapsed(oldest.at, newest.at);
            assert!(took <= Duration::from_secs(9 * 30 + 15), "{took:?}");
        }
        assert_eq!(life.events("vm.unhealthy").await, 0);
    });
}

/// Whether a guest has come up is known to every daemon: one that is new does not take silence
/// for a boot.
#[test]
fn a_hang_is_noticed_in_time_by_a_daemon_that_is_new() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vm = world.live(async |life| {
        let vm = healthy(life, "web").await;
        life.until("it is known to have come up", |rows, _| {
            rows[0].status.came_up()
        })
        .await;
        vm
    });
    world.host.hang(vm);
    world.live(async |life| {
        let took = becomes(life, vm, Health::Unhealthy).await;
        assert!(took <= BOUND, "{took:?}");
    });
}

#[test]
fn a_second_vmm_that_comes_and_goes_takes_no_health_along() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = healthy(life, "web").await;
        life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, vm);
            host.spawn(mark, ProcessRole::Vmm, false);
        });
        life.engine.look_at_everything();
        life.until("the second VMM is seen off", |_, host| {
            host.vmms(vm).count() == 1
        })
        .await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(life.engine.health_of(&life.row(vm).await), Health::Healthy);
        life.rooms.change(|host| host.hang(vm));
        becomes(life, vm, Health::Unhealthy).await;
    });
}

/// Alerts and people look for these words.
#[test]
fn a_check_that_fails_is_logged_word_for_word() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let told = Told::listen();
        let vm = healthy(life, "web").await;
        const WORDS: &str = "vm health check failed";
        assert_eq!(told.of(WORDS).len(), 0);
        life.rooms.change(|host| host.hang(vm));
        becomes(life, vm, Health::Unhealthy).await;
        let lines = told.of(WORDS);
        assert!(lines.len() >= 3, "{lines:?}");
        for line in lines {
            assert_eq!(line.field("vm_id"), vm.to_string(), "{line:?}");
            assert_eq!(line.field("vm_name"), "web", "{line:?}");
            assert_eq!(line.field("check"), "agent", "{line:?}");
            assert!(!line.field("reason").is_empty(), "{line:?}");
        }
    });
}
