//! The daemon with the Firecracker driver. The VMM is the stand-in, which speaks Firecracker's
//! API and needs no KVM; the testbed's scenario `firecracker` does the same with a real one.

use hearth_client::Action;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{EndClass, Phase};

use crate::harness::{Host, kill, our_program, spec};

/// A host whose daemon runs Firecracker VMs.
async fn host() -> Option<Host> {
    let mut host = Host::new().await?;
    let standin = our_program("hearth-shim", "hearth-firecracker-standin");
    host.set("DRIVER", "firecracker");
    // Asked of the VMM by starting one, and the stand-in starts.
    host.set("KVM", "auto");
    host.set("FIRECRACKER_PATH", standin.as_str());
    host.start_daemon().await;
    Some(host)
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_of_firecracker_lives_through_the_death_of_the_daemon() {
    let Some(mut host) = host().await else {
        return;
    };
    let (one, two) = (host.run(spec("one")).await, host.run(spec("two")).await);
    let running = one.phase(Phase::Running).await;
    assert_eq!(running.driver.as_deref(), Some("firecracker"));
    two.phase(Phase::Running).await;
    let before = (one.pid().await, two.pid().await);
    host.settled().await;

    host.kill_daemon().await;
    host.start_daemon().await;
    assert_eq!(host.plan().await.steps, []);
    assert_eq!((one.pid().await, two.pid().await), before);

    one.act(Action::Pause).await.unwrap();
    one.phase(Phase::Paused).await;
    one.act(Action::Resume).await.unwrap();
    one.phase(Phase::Running).await;
    let stopped = one.stop().await;
    assert_eq!((stopped.phase, stopped.pid), (Phase::Exited, None));
    one.remove().await;
    two.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_of_firecracker_comes_back_when_its_vmm_is_killed() {
    let Some(mut host) = host().await else {
        return;
    };
    let mut web = spec("web");
    web.restart = RestartPolicy::Always;
    let web = host.run(web).await;
    web.phase(Phase::Running).await;
    let first = web.pid().await;
    kill(first).unwrap();
    let back = web
        .until("it runs again", |vm| {
            vm.phase == Phase::Running && vm.pid.is_some_and(|pid| pid != first)
        })
        .await;
    let end = back.last_end.unwrap();
    assert_eq!(end.class, EndClass::Killed, "{}", end.reason);
    assert_eq!(back.restarts, 1);
    // What the killed one left behind in its cage is no hindrance, now or later.
    host.kill_daemon().await;
    host.start_daemon().await;
    assert_eq!(host.plan().await.steps, []);
    web.remove().await;
    host.clean().await;
}
