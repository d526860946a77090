//! The life of a VM, from `run` to `rm`.

use hearth_client::Action;
use hearth_types::api::Health;
use hearth_types::status::{Phase, StopRung};

use crate::harness::{Host, Ran, request, spec};

#[tokio::test(flavor = "multi_thread")]
async fn vm_runs_answers_stops_and_leaves_nothing() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let vm = host.run(spec("web")).await;
    vm.healthy().await;
    assert_eq!(vm.look().await.health, Health::Healthy);

    let ran = vm.sh("echo out; echo err >&2; exit 7").await;
    let expected = Ran {
        code: 7,
        stdout: b"out\n".to_vec(),
        stderr: b"err\n".to_vec(),
    };
    assert_eq!(ran, expected);

    let end = vm.stop().await.last_end.unwrap();
    assert!(!end.failure, "{end:?}");
    vm.act(Action::Start).await.unwrap();
    vm.healthy().await;
    vm.remove().await;
    host.clean().await;
    let _ = (request(&["x"]), Phase::Running, StopRung::Agent);
}
