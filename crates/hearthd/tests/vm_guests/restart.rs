//! What the restart policies make of a VMM that dies and of an entrypoint that fails.

use hearth_types::spec::RestartPolicy;
use hearth_types::status::Phase;

use crate::harness::{Host, kill, spec, words};

#[tokio::test(flavor = "multi_thread")]
async fn vm_whose_vmm_is_killed_comes_back_by_itself() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut web = spec("web");
    web.restart = RestartPolicy::Always;
    let vm = host.run(web).await;
    vm.healthy().await;
    let first = vm.pid().await;
    kill(first).unwrap();
    let back = |now: &hearth_types::api::Vm| {
        now.phase == Phase::Running && now.pid.is_some_and(|pid| pid != first)
    };
    let now = vm.until("a new VMM", back).await;
    assert_eq!(now.restarts, 1);
    let end = now.last_end.unwrap();
    assert!(end.failure && end.reason.contains("signal 9"), "{end:?}");
    vm.healthy().await;
    assert_eq!(vm.must("echo there").await, "there");
    vm.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_without_a_restart_policy_stays_down_and_names_the_signal() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let vm = host.run(spec("web")).await;
    vm.healthy().await;
    kill(vm.pid().await).unwrap();
    vm.ended().await;
    let now = vm.look().await;
    assert_eq!((now.phase, now.pid, now.restarts), (Phase::Failed, None, 0));
    assert_eq!(now.reason.as_deref(), Some("VMM was killed by signal 9"));
    host.settled().await;
    vm.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_may_fail_twice_is_given_up_after_the_third_run() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut flaky = spec("flaky");
    flaky.restart = RestartPolicy::OnFailure(Some(2));
    flaky.command = Some(words(&[
        "sh",
        "-c",
        "echo run >> /root/runs; wc -l < /root/runs; exit 5",
    ]));
    let vm = host.ask_for(flaky).await;
    let result = vm.ended().await;
    assert_eq!(result.exit_code, Some(5));
    let now = vm.look().await;
    assert_eq!((now.phase, now.restarts), (Phase::Failed, 2), "{now:?}");
    host.settled().await;
    let console = vm.console().await;
    let ran = |count: &str| console.lines().any(|line| line.trim() == count);
    assert!(ran("3") && !ran("4"), "{console}");
    vm.remove().await;
    host.clean().await;
}
