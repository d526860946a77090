//! What is kept of how runs ended.

use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{EndClass, Goal};

use super::world::{World, root, spec};

#[test]
fn ends_are_kept_with_what_was_tried_and_gone_with_the_vm() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.live(async |life| {
        let mut web = spec("web");
        web.restart = RestartPolicy::Always;
        let web = life.create(web, Goal::Running).await;
        life.settled("it runs").await;
        let console = life.engine.paths.vm(web).join("console.log");
        let lines: String = (0..90).map(|n| format!("line {n}\n")).collect();
        std::fs::write(console, lines).unwrap();
        life.rooms.change(|host| {
            host.faults.insert("start_vmm", 2);
            let pid = host.vmms(web).next().unwrap().identity.pid;
            host.end(pid, ProcessExit::Signal(11), None);
        });
        life.until("it is back", |rows, host| {
            rows[0].status.last_end.is_some() && super::world::reached(&rows[0], host)
        })
        .await;
        let store = &life.engine.parts.store;
        // The attempt is told a moment after the status.
        life.told("vm.restarted", 1).await;
        let history = store.history(web).await.unwrap();
        assert_eq!(history.len(), 1, "{history:#?}");
        let entry = &history[0];
        assert_eq!(entry.class, EndClass::VmmCrashed);
        assert_eq!(entry.vmm, Some(ProcessExit::Signal(11)));
        assert_eq!(entry.console.len(), 50);
        assert_eq!(entry.console[49], "line 89");
        let failed: Vec<bool> = entry.tried.iter().map(|it| it.problem.is_some()).collect();
        assert_eq!(failed, [true, true, false], "{entry:#?}");
        assert!(entry.back_at > Some(entry.recorded_at) && entry.started_at.is_some());
        // The user's own stop is no story.
        life.set_goal(web, Goal::Stopped).await;
        life.settled("it is stopped").await;
        assert_eq!(store.history(web).await.unwrap().len(), 1);
        life.set_goal(web, Goal::Absent).await;
        life.clean().await;
        assert!(store.history(web).await.unwrap().is_empty());
    });
}
