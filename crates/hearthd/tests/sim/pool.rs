//! A pool that is about to run out: VMs with a disk in it wait, through restarts of the daemon, and nobody else.

use std::time::Duration;

use hearth_plan::PoolRoom;
use hearth_types::ids::VmId;
use hearth_types::status::{Goal, Phase};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::world::{Life, World, root, spec};

const MINUTE: Duration = Duration::from_secs(60);

fn tight() -> PoolRoom {
    PoolRoom::Tight {
        why: "1 MiB is left".to_owned(),
    }
}

/// A VM that runs, its root disk a device as in a pool or a file.
async fn vm(life: &Life, name: &str, device: bool) -> VmId {
    let vm = life.create(spec(name), Goal::Running).await;
    life.settled("it runs").await;
    if device {
        let disk = life.engine.paths.vm(vm).join("root.img");
        std::fs::remove_file(&disk).unwrap();
        // Nobody opens it, so there need not be such a device.
        let mode = Mode::from_raw_mode(0o600);
        let number = makedev(240, 77);
        mknodat(CWD, disk.as_std_path(), FileType::BlockDevice, mode, number).unwrap();
    }
    vm
}

async fn phase(life: &Life, vm: VmId, phase: Phase) {
    life.until("the phase", |rows, _| {
        rows.iter()
            .any(|row| row.id == vm && row.status.phase == phase)
    })
    .await;
}

#[test]
fn who_waits_for_the_pool_waits_through_a_restart_of_the_daemon_and_goes_on() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let (inside, outside, by_hand) = world.live(async |life| {
        life.engine.pool_has(PoolRoom::Enough).await;
        let inside = vm(life, "inside", true).await;
        let outside = vm(life, "outside", false).await;
        let by_hand = vm(life, "by-hand", true).await;
        life.set_goal(by_hand, Goal::Paused).await;
        phase(life, by_hand, Phase::Paused).await;
        life.engine.pool_has(tight()).await;
        phase(life, inside, Phase::Paused).await;
        let row = life.row(inside).await;
        assert!(row.status.pool_wait.is_some());
        let reason = row.status.reason.unwrap();
        assert!(reason.contains("1 MiB is left"), "{reason}");
        assert_eq!(life.row(outside).await.status.phase, Phase::Running);
        life.told("pool.tight", 1).await;
        (inside, outside, by_hand)
    });
    world.live(async |life| {
        // The new daemon has not seen the pool yet, and lets nobody go on.
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(life.row(inside).await.status.phase, Phase::Paused);
        assert!(life.row(inside).await.status.pool_wait.is_some());
        life.engine.pool_has(tight()).await;
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(life.row(inside).await.status.phase, Phase::Paused);
        life.engine.pool_has(PoolRoom::Enough).await;
        phase(life, inside, Phase::Running).await;
        let status = life.row(inside).await.status;
        assert_eq!((status.pool_wait, status.reason), (None, None));
        assert_eq!(life.row(outside).await.status.phase, Phase::Running);
        // Its user paused it, and its user resumes it.
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(life.row(by_hand).await.status.phase, Phase::Paused);
    });
}
