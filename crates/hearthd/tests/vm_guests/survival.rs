//! The daemon dies, guests do not; and stop always wins.

use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};
use hearth_types::units::Span;

use crate::harness::{Host, kill, request, spec, words};

/// Tells one run of a guest from every other.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

#[tokio::test(flavor = "multi_thread")]
async fn vm_does_not_notice_that_the_daemon_is_killed() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let (one, two) = (host.run(spec("one")).await, host.run(spec("two")).await);
    one.healthy().await;
    two.healthy().await;
    let before = (one.pid().await, two.pid().await, one.must(BOOT_ID).await);
    host.settled().await;

    for by_force in [true, false] {
        if by_force {
            host.kill_daemon().await;
        } else {
            host.terminate_daemon().await;
        }
        host.start_daemon().await;
        // The first answer comes after the first pass: nothing was left to be done.
        assert_eq!(host.plan().await.steps, []);
        assert_eq!((one.pid().await, two.pid().await), (before.0, before.1));
        one.healthy().await;
        two.healthy().await;
        assert_eq!(one.must(BOOT_ID).await, before.2);
        assert_eq!(one.look().await.restarts, 0);
    }
    assert!(host.log().contains("[recovery] adopted"));
    one.remove().await;
    two.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_waits_for_its_restart_is_stopped_for_good() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.set("BACKOFF_FIRST", "4m");
    host.start_daemon().await;
    let mut web = spec("web");
    web.restart = RestartPolicy::Always;
    let vm = host.run(web).await;
    kill(vm.pid().await).unwrap();
    let waiting = vm.phase(Phase::Backoff).await;
    assert!(waiting.next_start.is_some());
    let stopped = vm.stop().await;
    assert_eq!(stopped.goal, Goal::Stopped);
    assert_eq!((stopped.pid, stopped.next_start), (None, None));
    host.settled().await;
    // A new daemon does not know better.
    host.kill_daemon().await;
    host.start_daemon().await;
    assert_eq!(host.plan().await.steps, []);
    assert_eq!(vm.look().await.pid, None);
    vm.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_whose_entrypoint_ignores_the_stop_goes_down_at_its_timeout() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut stubborn = spec("stubborn");
    stubborn.stop_timeout = Span::secs(2);
    stubborn.restart = RestartPolicy::Always;
    stubborn.command = Some(words(&[
        "sh",
        "-c",
        "trap '' TERM; while :; do sleep 1; done",
    ]));
    let vm = host.run(stubborn).await;
    vm.healthy().await;
    let stopped = vm.stop().await;
    let end = stopped.last_end.unwrap();
    assert!(!end.failure, "{end:?}");
    assert_eq!(end.exit_code, Some(137), "{end:?}");
    host.settled().await;
    assert_eq!(vm.look().await.pid, None);
    vm.remove().await;
    host.clean().await;
}

/// A VMM that does not run cannot answer on any channel: only the last rung ends it.
#[tokio::test(flavor = "multi_thread")]
async fn vm_whose_vmm_hangs_is_killed_in_the_end() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut hung = spec("hung");
    hung.stop_timeout = Span::secs(1);
    let vm = host.run(hung).await;
    vm.healthy().await;
    let pid = rustix::process::Pid::from_raw(vm.pid().await).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let command = request(&["true"]);
    let (ran, sent, got) = tokio::join!(
        vm.exec(command, &[]),
        vm.try_upload("/root", vec![0; 1024]),
        vm.try_download("/root")
    );
    for error in [ran.err(), sent.err(), got.err()] {
        let silent = error.expect("no answer").to_string();
        assert!(silent.contains("does not answer"), "{silent}");
    }
    let stopped = vm.stop().await;
    let end = stopped.last_end.unwrap();
    assert_eq!(end.vmm, Some(hearth_types::process::ProcessExit::Signal(9)));
    assert!(!end.failure, "{end:?}");
    vm.remove().await;
    host.clean().await;
}
