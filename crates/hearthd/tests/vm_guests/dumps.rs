//! What is kept of a guest whose kernel panics, and of a VMM that crashes.

use std::future::pending;

use hearth_types::history::DumpKind;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::Phase;
use hearth_types::units::Bytes;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::cores::Cores;
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

#[tokio::test(flavor = "multi_thread")]
async fn vm_whose_vmm_crashes_has_its_newest_cores_kept() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    let Some(cores) = Cores::here(host.dir()) else {
        return;
    };
    host.start_daemon().await;
    let mut web = spec("web");
    web.restart = RestartPolicy::Always;
    web.crash_dump.vmm_core = true;
    web.crash_dump.max_size = Bytes::mib(64);
    let vm = host.run(web).await;
    vm.healthy().await;
    for (round, signal) in [Signal::SEGV, Signal::ABORT, Signal::SEGV]
        .into_iter()
        .enumerate()
    {
        let pid = vm.pid().await;
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        let back = |now: &hearth_types::api::Vm| {
            now.phase == Phase::Running && now.pid.is_some_and(|now| now != pid)
        };
        vm.until("a new VMM", back).await;
        let history = eventually("its story", || async {
            let history = host.client.history("web").await.unwrap();
            (history.items.len() == round + 1).then_some(history)
        })
        .await;
        let core = history.items[0].core.clone().unwrap();
        assert!(core.starts_with("its core is kept as "), "{core}");
        // Two are kept unless more are asked for.
        assert_eq!(history.dumps.len(), (round + 1).min(2), "{history:?}");
        assert!(core.contains(&history.dumps[0].file), "{core}");
        // One that boots may have used less than the limit.
        assert!(round > 0 || core.contains("cut off"), "{core}");
        for dump in &history.dumps {
            assert_eq!(dump.kind, DumpKind::VmmCore);
            let mut magic = [0; 4];
            let mut file = std::fs::File::open(&dump.file).unwrap();
            std::io::Read::read_exact(&mut file, &mut magic).unwrap();
            assert_eq!(&magic, b"\x7fELF");
            // The guest alone has twice as much, and ext4 some blocks for a file of that size.
            assert!(
                dump.size > Bytes::mib(1) && dump.size < Bytes::mib(66),
                "{dump:?}"
            );
        }
    }
    assert_eq!(cores.left(), Vec::<String>::new());
    let kept = host.client.history("web").await.unwrap().dumps;
    vm.remove().await;
    for dump in kept {
        assert!(!std::fs::exists(&dump.file).unwrap(), "it goes with its VM");
    }
    host.clean().await;
}
