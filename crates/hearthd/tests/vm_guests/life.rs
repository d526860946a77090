//! The life of a VM, from `run` to `rm`.

use std::collections::BTreeMap;

use hearth_client::Action;
use hearth_types::api::{ExecRequest, Health};
use hearth_types::process::ProcessExit;
use hearth_types::status::Phase;

use crate::harness::{Host, Ran, Vm, eventually, request, run, spec, words};

#[tokio::test(flavor = "multi_thread")]
async fn vm_runs_answers_stops_and_leaves_nothing() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut web = spec("web");
    web.command = Some(words(&[
        "sh",
        "-c",
        "echo hello from $0; exec sleep 100000",
        "web",
    ]));
    let vm = host.run(web).await;
    vm.healthy().await;
    assert_eq!(vm.look().await.health, Health::Healthy);
    eventually("the entrypoint's word on the console", || async {
        let console = vm.console().await;
        console.contains("hello from web").then_some(())
    })
    .await;

    commands_run(&vm).await;
    files_go_both_ways(&host, &vm).await;
    let stats = vm.stats().await;
    assert!(stats.vmm_rss > 0 && stats.cpu_millis > 0, "{stats:?}");
    assert!(stats.guest.unwrap().mem_total > 0);
    // Its root file system was read, and what was copied into it was written.
    let devices = stats.devices.unwrap();
    assert!(devices.disk_read_bytes > 0, "{devices:?}");
    assert_eq!(devices.disk_failures, 0);

    stops_cleanly(&host, &vm).await;
    vm.act(Action::Start).await.unwrap();
    vm.healthy().await;
    assert_eq!(vm.must("cat /root/kept").await, "kept");
    vm.remove().await;
    host.clean().await;
}

async fn commands_run(vm: &Vm) {
    let ran = vm.sh("echo out; echo err >&2; exit 7").await;
    let expected = Ran {
        code: 7,
        stdout: b"out\n".to_vec(),
        stderr: b"err\n".to_vec(),
    };
    assert_eq!(ran, expected);

    let wishes = ExecRequest {
        env: BTreeMap::from([("WISH".to_owned(), "granted".to_owned())]),
        workdir: Some("/tmp".to_owned()),
        user: Some("worker".to_owned()),
        ..request(&["sh", "-c", "id -un; pwd; echo $WISH"])
    };
    let ran = vm.exec(wishes, &[]).await.unwrap();
    assert_eq!(ran.text(), "worker\n/tmp\ngranted");

    assert_eq!(vm.sh("kill -9 $$").await.code, 137);
    let missing = vm.exec(request(&["/no/such/program"]), &[]).await;
    let error = missing.unwrap_err().to_string();
    assert!(error.contains("/no/such/program"), "{error}");

    let bytes = noise(5_000_000);
    let cat = ExecRequest {
        stdin: true,
        ..request(&["cat"])
    };
    let ran = vm.exec(cat, &bytes).await.unwrap();
    assert_eq!(ran.code, 0);
    assert!(ran.stdout == bytes, "{} bytes came back", ran.stdout.len());
}

async fn files_go_both_ways(host: &Host, vm: &Vm) {
    let (there, back) = (host.dir().join("there"), host.dir().join("back"));
    for folder in [&there, &back] {
        std::fs::create_dir(folder).unwrap();
    }
    let bytes = noise(300_000);
    std::fs::write(there.join("blob"), &bytes).unwrap();
    let tar = host.dir().join("blob.tar");
    run("tar", &["-C", there.as_str(), "-cf", tar.as_str(), "blob"]);
    vm.upload("/root", std::fs::read(&tar).unwrap()).await;
    assert_eq!(vm.must("stat -c %s /root/blob").await, "300000");
    std::fs::write(&tar, vm.download("/root/blob").await).unwrap();
    run("tar", &["-C", back.as_str(), "-xf", tar.as_str()]);
    assert!(std::fs::read(back.join("blob")).unwrap() == bytes);
}

/// By its agent, at the first rung of the ladder, with all that was written on the disk.
async fn stops_cleanly(host: &Host, vm: &Vm) {
    vm.must("echo kept > /root/kept").await;
    let stopped = vm.stop().await;
    assert_eq!(stopped.phase, Phase::Exited);
    let end = stopped.last_end.unwrap();
    assert!(!end.failure, "{end:?}");
    assert_eq!(end.vmm, Some(ProcessExit::Code(0)), "{end:?}");
    assert_eq!(end.guest.unwrap().reason, "shutdown");
    let rungs = host.log().matches("step=\"stop\"").count();
    assert_eq!(rungs, 1, "the first rung is enough");
}

/// Bytes of every value that no compression and no terminal lets through by luck.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}
