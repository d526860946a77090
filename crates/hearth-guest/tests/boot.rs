//! Real guests, from power-on to power-off.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests: a failed unwrap is a failed test"
)]

#[path = "boot/vm.rs"]
mod vm;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_guest_proto::client::AgentClient;
use hearth_guest_proto::config::{
    GuestConfig, InitMode, NetworkConfig, ProcessConfig, VolumeConfig,
};
use hearth_guest_proto::message::{ExecRequest, ExitStatus, ShutdownKind, TtySize};
use tokio::io::AsyncReadExt;

use vm::{PATIENCE, Vm};

macro_rules! parts_or_skip {
    () => {
        match vm::parts() {
            Ok(parts) => parts,
            Err(reason) => {
                println!("SKIP: {reason}");
                return;
            }
        }
    };
}

fn now_ms() -> u64 {
    u64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
}

fn config(argv: &[&str]) -> GuestConfig {
    GuestConfig {
        vm_id: "vm".into(),
        hostname: "web1".into(),
        domain: Some("hearth.internal".into()),
        boot_nonce: format!("boot-{}", now_ms()),
        root_serial: "root".into(),
        volumes: vec![VolumeConfig {
            serial: "data".into(),
            mount: "/var/data".into(),
            read_only: false,
        }],
        network: Some(NetworkConfig {
            mac: "52:54:00:12:34:56".into(),
            address: [10, 0, 2, 15].into(),
            prefix: 24,
            gateway: [10, 0, 2, 2].into(),
            dns: vec![[10, 0, 2, 3].into()],
            search: vec!["hearth.internal".into()],
        }),
        process: ProcessConfig {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: vec!["GREETING=hello".into()],
            user: None,
            workdir: None,
        },
        init: InitMode::Hearth,
        wall_clock_ms: Some(now_ms()),
        ..GuestConfig::default()
    }
}

async fn sh(client: &AgentClient, script: &str) -> String {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecRequest {
        argv,
        user: Some("root".into()),
        ..ExecRequest::default()
    };
    let mut session = client.exec(request).await.unwrap();
    let mut out = String::new();
    session
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .await
        .unwrap();
    session
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .await
        .unwrap();
    let status = session.wait().await.unwrap();
    assert!(status.success(), "{script}: {status:?}: {out}");
    out
}

#[tokio::test]
async fn qemu_a_guest_is_set_up_served_and_shut_down_in_order() {
    let parts = parts_or_skip!();
    let script = "trap 'echo stopping; exit 9' TERM; echo $GREETING from $(id -un); while :; do sleep 1; done";
    let config = config(&["/bin/sh", "-c", script]);
    let mut vm = Vm::boot(parts, &config, |_| {});
    let client = vm.client().await;

    assert_eq!(
        sh(&client, "hostname; cat /etc/hostname").await,
        "web1\nweb1\n"
    );
    assert!(
        sh(&client, "cat /etc/hosts")
            .await
            .contains("10.0.2.15 web1.hearth.internal web1")
    );
    assert_eq!(
        sh(&client, "cat /etc/resolv.conf").await,
        "nameserver 10.0.2.3\nsearch hearth.internal\n"
    );
    assert!(sh(&client, "ip addr").await.contains("10.0.2.15/24"));
    assert!(
        sh(&client, "ip route")
            .await
            .contains("default via 10.0.2.2")
    );
    assert!(sh(&client, "ip link show lo").await.contains("UP"));
    let mounts = sh(&client, "cat /proc/mounts").await;
    for mount in [
        " / ext4 rw",
        " /var/data ext4 rw",
        " /dev/pts devpts",
        " /dev/shm tmpfs",
        " /run tmpfs",
        " /sys/fs/cgroup cgroup2",
    ] {
        assert!(mounts.contains(mount), "{mount} in {mounts}");
    }
    for mount in ["/", "/var/data"] {
        let size = sh(
            &client,
            &format!("df -k {mount} | tail -n 1 2>/dev/null || df -k {mount}"),
        )
        .await;
        let blocks: u64 = size
            .split_whitespace()
            .rev()
            .nth(4)
            .unwrap()
            .parse()
            .unwrap();
        assert!(blocks > 80_000, "grown to the disk's size: {size}");
    }
    let drift = sh(&client, "date +%s")
        .await
        .trim()
        .parse::<u64>()
        .unwrap()
        .abs_diff(now_ms() / 1000);
    assert!(drift < 60, "the clock is set");

    exec_with_terminal(&client).await;
    let metrics = client.metrics().await.unwrap();
    assert!(
        metrics.mem_total > 100 << 20 && metrics.disk_total > 80 << 20 && metrics.processes > 2
    );
    frozen_disks_take_no_writes(&client).await;
    let memory = sh(&client, "cat /proc/1/status").await;
    let rss = memory
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let rss: u64 = rss.split_whitespace().next().unwrap().parse().unwrap();
    assert!(rss < 4096, "PID 1 takes {rss} KiB");

    drop(client);
    let client = vm.client().await;
    assert_eq!(client.ping(4, PATIENCE).await.unwrap().nonce, 4);
    let report = client.report();
    client
        .shutdown(Duration::from_secs(60), ShutdownKind::Poweroff)
        .await
        .unwrap();
    let ended = vm.ended().await;
    assert_eq!(
        (ended.exit, ended.reason.as_str()),
        (Some(ExitStatus::Code(9)), "shutdown")
    );
    if let Some(event) = report.borrow().as_ref() {
        assert_eq!(event, &ended);
    }
    let console = vm.console();
    assert!(
        console.contains("hello from root\n") && console.contains("stopping\n"),
        "{console}"
    );
    assert!(vm.root_is_clean());
}

async fn exec_with_terminal(client: &AgentClient) {
    let request = ExecRequest {
        argv: [
            "/bin/sh",
            "-c",
            "[ -t 0 ] && id -u && id -G && echo $HOME && kill -15 $$",
        ]
        .map(str::to_owned)
        .to_vec(),
        user: Some("web".into()),
        tty: Some(TtySize { rows: 24, cols: 80 }),
        ..ExecRequest::default()
    };
    let mut session = client.exec(request).await.unwrap();
    let mut out = String::new();
    session
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .await
        .unwrap();
    assert_eq!(out, "33\r\n34 50\r\n/home/web\r\n");
    assert_eq!(session.wait().await.unwrap(), ExitStatus::Signal(15));
}

async fn frozen_disks_take_no_writes(client: &AgentClient) {
    client.freeze(Duration::from_secs(100)).await.unwrap();
    let argv = ["/bin/sh", "-c", "echo written > /var/data/file"]
        .map(str::to_owned)
        .to_vec();
    let mut writer = client
        .exec(ExecRequest {
            argv,
            ..ExecRequest::default()
        })
        .await
        .unwrap();
    client.ping(5, PATIENCE).await.unwrap();
    let stuck = tokio::time::timeout(Duration::from_millis(300), writer.wait()).await;
    assert!(stuck.is_err(), "the write went through");
    client.thaw().await.unwrap();
    assert_eq!(writer.wait().await.unwrap(), ExitStatus::Code(0));
    assert!(
        client.thaw().await.is_err(),
        "a second thaw tells that nothing is frozen"
    );
    client.freeze(Duration::from_millis(1)).await.unwrap();
    sh(client, "echo by itself > /var/data/file").await;
}

#[tokio::test]
async fn qemu_the_entrypoints_end_is_the_machines_end() {
    let parts = parts_or_skip!();
    let mut config = config(&["./job", "an argument"]);
    config.process.user = Some("web".into());
    config.process.workdir = Some("/srv/made/for/it".into());
    let mut vm = Vm::boot(parts, &config, |tree| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(tree.join("srv/made/for/it")).unwrap();
        let job = tree.join("srv/made/for/it/job");
        std::fs::write(&job, "#!/bin/sh\necho \"$1\" $(id -u) $PWD\nexit 42\n").unwrap();
        std::fs::set_permissions(job, std::fs::Permissions::from_mode(0o755)).unwrap();
    });
    let ended = vm.ended().await;
    assert_eq!(
        (ended.exit, ended.reason.as_str()),
        (Some(ExitStatus::Code(42)), "exited")
    );
    assert!(
        vm.console().contains("an argument 33 /srv/made/for/it\n"),
        "{}",
        vm.console()
    );
}

#[tokio::test]
async fn qemu_a_missing_program_is_reported_as_docker_does() {
    let parts = parts_or_skip!();
    let mut vm = Vm::boot(parts, &config(&["no-such-program"]), |_| {});
    let ended = vm.ended().await;
    assert_eq!(
        (ended.exit, ended.reason.as_str()),
        (Some(ExitStatus::Code(127)), "failed")
    );
    assert!(ended.message.unwrap().contains("no-such-program"));
}

#[tokio::test]
async fn qemu_the_power_button_asks_and_then_insists() {
    let parts = parts_or_skip!();
    let mut config = config(&[
        "/bin/sh",
        "-c",
        "trap 'echo deaf' QUIT; echo up; while :; do sleep 1; done",
    ]);
    config.stop_signal = Some("SIGQUIT".into());
    config.stop_timeout_ms = Some(3000);
    let mut vm = Vm::boot(parts, &config, |_| {});
    let client = vm.client().await;
    client.ping(1, PATIENCE).await.unwrap();
    vm.says("up\n").await;
    vm.power_button().await;
    let ended = vm.ended().await;
    assert_eq!(
        (ended.exit, ended.reason.as_str()),
        (Some(ExitStatus::Signal(9)), "shutdown")
    );
    assert!(ended.message.unwrap().contains("killed"));
    assert!(vm.console().contains("deaf\n"), "{}", vm.console());
}

#[tokio::test]
async fn qemu_the_images_own_init_runs_beside_the_agent() {
    let parts = parts_or_skip!();
    let mut config = config(&[]);
    config.init = InitMode::Image;
    let mut vm = Vm::boot(parts, &config, |tree| {
        std::os::unix::fs::symlink("../bin/busybox", tree.join("sbin/init")).unwrap();
        let inittab =
            "::sysinit:/bin/echo init of the image\n::shutdown:/bin/echo init says good-bye\n";
        std::fs::write(tree.join("etc/inittab"), inittab).unwrap();
    });
    let client = vm.client().await;
    assert_eq!(sh(&client, "cat /proc/1/comm").await, "init\n");
    assert!(sh(&client, "ls -l /proc/1/exe").await.contains("busybox"));
    client
        .shutdown(Duration::from_secs(60), ShutdownKind::Poweroff)
        .await
        .unwrap();
    let ended = vm.ended().await;
    assert_eq!((ended.exit, ended.reason.as_str()), (None, "shutdown"));
    let console = vm.console();
    for line in ["init of the image\n", "init says good-bye\n"] {
        assert!(console.contains(line), "{console}");
    }
}
