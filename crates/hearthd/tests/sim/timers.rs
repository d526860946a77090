//! What has to happen at a time of its own happens then, however often the loop is woken for
//! something else.

use std::time::Duration;

use hearth_sim::SimHost;
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::observe::ProcessRole;
use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::Goal;
use tokio::time::Instant;

use super::world::{Life, World, root, spec};

/// Wakes the loop for one VM again and again until the host is as it should be, and says how
/// long that took in virtual time.
async fn woken_until(
    life: &Life,
    busybody: VmId,
    every: Duration,
    done: impl Fn(&mut SimHost) -> bool,
) -> Duration {
    let begun = Instant::now();
    while !life.rooms.change(&done) && begun.elapsed() < super::world::LIMIT {
        life.engine.look_at(busybody);
        tokio::time::sleep(every).await;
    }
    begun.elapsed()
}

#[test]
fn a_restart_comes_after_its_pause_whatever_others_do() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let mut web = spec("web");
        web.restart = RestartPolicy::Always;
        let web = life.create(web, Goal::Running).await;
        let other = life.create(spec("other"), Goal::Running).await;
        life.settled("both run").await;
        life.rooms.change(|host| {
            let pid = host.vmms(web).next().unwrap().identity.pid;
            host.end(pid, ProcessExit::Signal(11), None);
        });
        life.until("the end is recorded", |rows, _| {
            rows.iter().any(|row| row.status.last_end.is_some())
        })
        .await;
        let every = Duration::from_millis(100);
        let took = woken_until(life, other, every, |host| host.vmms(web).count() == 1).await;
        // The pause is a second; nothing here waits for the regular look at everything.
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn everything_is_looked_at_regularly_on_a_busy_host() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let web = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let stray = VmId::new();
        life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, stray);
            host.spawn(mark, ProcessRole::Vmm, false);
        });
        let every = Duration::from_secs(5);
        let took = woken_until(life, web, every, |host| host.vmms(stray).count() == 0).await;
        let policy = &life.engine.settings.policy;
        // Seen by one look at everything, old enough at a later one, dead a moment after.
        let bound = 2 * policy.resync + policy.orphan_grace;
        assert!(took < bound, "{took:?}");
    });
}
