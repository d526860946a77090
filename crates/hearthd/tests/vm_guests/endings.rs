//! How a run ends, and who gets to know.

use hearth_client::WaitCondition;
use hearth_types::status::Phase;

use crate::harness::{Host, eventually, processes_of, spec, words};

#[tokio::test(flavor = "multi_thread")]
async fn vm_exit_codes_and_signals_reach_wait_and_inspect() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let cases = [
        ("three", "exit 3", 3, "entrypoint exited with status 3"),
        (
            "killed",
            "kill -9 $$",
            137,
            "entrypoint was ended by signal 9",
        ),
    ];
    for (name, line, code, reason) in cases {
        let mut spec = spec(name);
        spec.command = Some(words(&["sh", "-c", line]));
        let vm = host.ask_for(spec).await;
        let result = vm.ended().await;
        assert_eq!(result.exit_code, Some(code), "{name}: {result:?}");
        let seen = vm.look().await;
        assert_eq!(seen.phase, Phase::Failed);
        assert_eq!(seen.last_end.unwrap().reason, reason);
        vm.remove().await;
    }
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_without_its_program_says_which() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut lost = spec("lost");
    lost.command = Some(words(&["/opt/not/there"]));
    let vm = host.ask_for(lost).await;
    let result = vm.ended().await;
    assert_eq!(result.exit_code, Some(127), "{result:?}");
    let reason = vm.look().await.reason.unwrap();
    assert!(reason.contains("/opt/not/there"), "{reason}");
    vm.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_removes_itself_is_gone_and_its_exit_code_is_known() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut once = spec("once");
    once.auto_remove = true;
    once.command = Some(words(&["sh", "-c", "exit 4"]));
    let vm = host.ask_for(once).await;
    let result = vm.wait(WaitCondition::Removed).await.unwrap();
    assert_eq!(result.exit_code, Some(4), "{result:?}");
    assert!(host.client.vm("once").await.unwrap_err().is_not_found());
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_ends_while_no_daemon_runs_has_its_exit_code_kept() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut brief = spec("brief");
    brief.command = Some(words(&["sh", "-c", "sleep 5; exit 6"]));
    let vm = host.run(brief).await;
    host.kill_daemon().await;
    let installation = host.installation().to_owned();
    let lives = || {
        let all = processes_of(&installation);
        all.iter().any(|(_, role)| role == "vmm" || role == "shim")
    };
    assert!(lives(), "it ended before the daemon did");
    eventually("the guest's end", || {
        std::future::ready((!lives()).then_some(()))
    })
    .await;
    host.start_daemon().await;
    let result = vm.ended().await;
    assert_eq!(result.exit_code, Some(6), "{result:?}");
    vm.remove().await;
    host.clean().await;
}
