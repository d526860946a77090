//! What is kept of a guest whose kernel panics.

use std::future::pending;

use hearth_types::spec::RestartPolicy;
use hearth_types::status::Phase;

use crate::harness::{Host, eventually, request, spec};

#[tokio::test(flavor = "multi_thread")]
async fn vm_whose_kernel_panics_is_dumped_and_started_again() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut web = spec("web");
    web.restart = RestartPolicy::Always;
    web.crash_dump.guest_memory = true;
    let vm = host.run(web).await;
    vm.healthy().await;
    let first = vm.pid().await;

    let crash = vm.exec(request(&["sh", "-c", "echo c > /proc/sysrq-trigger"]), &[]);
    let crash = async {
        // It cannot answer any more.
        drop(crash.await);
        pending::<()>().await;
    };
    let dumped = eventually("a dump of its memory", || async {
        let history = host.client.history("web").await.unwrap();
        history.dumps.into_iter().next()
    });
    let dump = tokio::select! {
        dump = dumped => dump,
        () = crash => unreachable!("it waits for ever"),
    };
    let mut magic = vec![0; 12];
    let mut file = std::fs::File::open(&dump.file).unwrap();
    std::io::Read::read_exact(&mut file, &mut magic).unwrap();
    assert_eq!(magic, b"makedumpfile");

    // The VMM that kept the guest is ended after that, and the policy asked as ever.
    let back = |now: &hearth_types::api::Vm| {
        now.phase == Phase::Running && now.pid.is_some_and(|pid| pid != first)
    };
    vm.until("a new VMM", back).await;
    vm.healthy().await;
    let codes: Vec<String> = host.events().await.into_iter().map(|e| e.code).collect();
    let at = |code: &str| codes.iter().position(|known| known == code);
    let (dumped, ended) = (at("vm.memory_dumped").unwrap(), at("vm.exited").unwrap());
    assert!(dumped < ended, "{codes:?}");
    assert_eq!(at("vm.dump_failed"), None);
    vm.remove().await;
    assert!(!std::fs::exists(&dump.file).unwrap(), "it goes with its VM");
    host.clean().await;
}
