//! Many VMs reach what the user wants, and it is told.

use hearth_types::status::Goal;

use super::world::{World, root, spec};

#[test]
fn many_vms_are_created_stopped_started_and_removed() {
    if !root() {
        return;
    }
    const COUNT: usize = 40;
    World::new().live(async |life| {
        let mut vms = Vec::new();
        for number in 0..COUNT {
            vms.push(
                life.create(spec(&format!("vm-{number}")), Goal::Running)
                    .await,
            );
        }
        life.settled("all run").await;
        life.told("vm.started", COUNT).await;
        for vm in &vms {
            life.set_goal(*vm, Goal::Stopped).await;
        }
        life.settled("all are stopped").await;
        life.told("vm.exited", COUNT).await;
        for vm in &vms {
            life.set_goal(*vm, Goal::Paused).await;
        }
        life.settled("all are paused").await;
        for vm in &vms {
            life.restart(*vm).await;
        }
        life.settled("all run again").await;
        life.told("vm.exited", 2 * COUNT).await;
        for vm in &vms {
            life.set_goal(*vm, Goal::Absent).await;
        }
        life.clean().await;
        life.told("vm.removed", COUNT).await;
        let open = life.engine.parts.store.open_intents().await.unwrap();
        assert!(open.len() <= 1, "journal entries are left: {open:?}");
    });
}
