//! What checks of real guests see, and what follows where a restart is asked for.

use hearth_types::api::{Health, Vm, VmHealth};
use hearth_types::spec::health::{CheckKind, CheckSpec, OnFailure};
use hearth_types::spec::{RestartPolicy, VmSpec};
use hearth_types::status::{EndClass, Phase};
use hearth_types::units::Span;

use crate::harness::{Host, eventually, spec, words};

/// Checked every second, so that nobody has to wait.
fn watched(name: &str) -> VmSpec {
    let mut spec = spec(name);
    spec.health.interval = Some(Span::secs(1));
    spec.health.timeout = Some(Span::secs(2));
    spec
}

fn exec(command: &[&str]) -> CheckSpec {
    CheckSpec {
        command: Some(words(command)),
        ..CheckSpec::new(CheckKind::Exec)
    }
}

fn state(health: &VmHealth, name: &str) -> Option<Health> {
    let check = health.checks.iter().find(|check| check.name == name)?;
    Some(check.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_checked_from_all_sides() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut web = watched("web");
    web.command = Some(words(&["sh", "-c", "echo ready to serve; sleep 100000"]));
    web.health.checks = vec![
        exec(&["test", "!", "-e", "/tmp/ill"]),
        CheckSpec {
            pattern: Some("ready to serve".to_owned()),
            ..CheckSpec::new(CheckKind::Console)
        },
    ];
    let vm = host.run(web).await;
    vm.healthy().await;
    let health = vm.health().await;
    for name in ["process", "vmm-api", "agent", "console", "exec"] {
        assert_eq!(state(&health, name), Some(Health::Healthy), "{name}");
    }
    // What its own check says decides, and the reason says which it was.
    vm.must("touch /tmp/ill").await;
    let ill = |now: &Vm| now.health == Health::Unhealthy;
    let now = vm.until("unhealthy", ill).await;
    assert_eq!(now.phase, Phase::Running);
    let health = vm.health().await;
    assert_eq!(state(&health, "agent"), Some(Health::Healthy));
    let reason = health.reason.unwrap();
    assert!(reason.contains("check exec: exit status 1"), "{reason}");
    vm.must("rm /tmp/ill").await;
    vm.healthy().await;
    // A line that only the kernel writes.
    vm.must("echo 'EXT4-fs (vda): Remounting filesystem read-only' > /dev/console")
        .await;
    vm.until("unhealthy by its console", ill).await;
    let health = vm.health().await;
    assert_eq!(state(&health, "console"), Some(Health::Unhealthy));
    assert_eq!(vm.look().await.restarts, 0);
    vm.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_hangs_is_started_again_where_that_is_asked_for() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut hung = watched("hung");
    hung.restart = RestartPolicy::Always;
    hung.stop_timeout = Span::secs(1);
    hung.health.on_failure = Some(OnFailure::Restart);
    let vm = host.run(hung).await;
    vm.healthy().await;
    let first = vm.pid().await;
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let back = |now: &Vm| now.phase == Phase::Running && now.pid.is_some_and(|pid| pid != first);
    let now = vm.until("a new VMM", back).await;
    let end = now.last_end.unwrap();
    assert_eq!(end.class, EndClass::Unresponsive, "{end:?}");
    assert!(end.failure, "{end:?}");
    vm.healthy().await;
    assert_eq!(vm.must("echo there").await, "there");
    eventually("the events", || async {
        let events = host.events().await;
        let told = |code: &str| events.iter().any(|event| event.code == code);
        (told("vm.unhealthy") && told("vm.unresponsive") && told("vm.restarted")).then_some(())
    })
    .await;
    vm.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_asked_through_qemus_own_agent_where_that_is_asked_for() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let Some(image) = host.import_program("qemu-ga").await else {
        return;
    };
    // How the kernel numbers a port depends on the machine: its name does not.
    let port = "grep -x org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name";
    let without = host.run(watched("without")).await;
    assert!(without.sh(port).await.code != 0, "nobody asked for a port");
    without.remove().await;

    let mut web = watched("web");
    web.image = image;
    // As a unit of Debian's starts it: it looks for its port by the name that udev would give it.
    let agent = "while :; do qemu-ga -t /tmp; sleep 0.2; done";
    web.command = Some(words(&["sh", "-c", agent]));
    web.health.checks = vec![CheckSpec::new(CheckKind::QemuAgent)];
    let vm = host.run(web).await;
    vm.healthy().await;
    vm.must(port).await;
    let health = vm.health().await;
    assert_eq!(state(&health, "qemu-agent"), Some(Health::Healthy));
    // It stops answering, and the VM's own agent says nothing of it.
    vm.must("kill -STOP $(pidof qemu-ga)").await;
    let ill = |now: &Vm| now.health == Health::Unhealthy;
    vm.until("unhealthy", ill).await;
    let health = vm.health().await;
    assert_eq!(state(&health, "agent"), Some(Health::Healthy));
    let reason = health.reason.unwrap();
    assert!(reason.contains("qemu-agent: no answer"), "{reason}");
    vm.must("kill -CONT $(pidof qemu-ga)").await;
    vm.healthy().await;
    // Another one has its place: what was asked of the first is not answered to us.
    vm.must("kill -KILL $(pidof qemu-ga)").await;
    vm.healthy().await;
    vm.remove().await;
    host.clean().await;
}
