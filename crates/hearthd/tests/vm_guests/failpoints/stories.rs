//! The stories: what a user does, where the daemon dies, and how it has to end.

use hearth_client::Action;
use hearth_types::api::Vm as View;
use hearth_types::names::tap_name;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::Phase;
use hearth_types::{InstallationId, OwnerMark, VmId};

use super::{arm, dies, dies_and_comes_back};
use crate::harness::strangers::{process, tap};
use crate::harness::{Host, Vm, eventually, kill, processes_of, spec};

/// What happens while the daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Story {
    Start,
    Stop,
    /// By its policy.
    Restart,
    /// By the user.
    Again,
    Pause,
    Adopt,
    Orphans,
    Remove,
}

impl Story {
    /// Tells it with a death at this place. Begins and ends with a host without VMs; the daemon
    /// runs in the end.
    pub(super) async fn tell(self, host: &mut Host, place: &str, name: &str) {
        match self {
            Self::Start => start(host, place, name).await,
            Self::Stop => stop(host, place, name).await,
            Self::Restart => restart(host, place, name).await,
            Self::Again => again(host, place, name).await,
            Self::Pause => pause(host, place, name).await,
            Self::Adopt => adopt(host, place, name).await,
            Self::Orphans => orphans(host, place).await,
            Self::Remove => remove(host, place, name).await,
        }
    }
}

fn vmms(host: &Host) -> Vec<i32> {
    let all = processes_of(host.installation());
    let vmms = all.into_iter().filter(|(_, role)| role == "vmm");
    vmms.map(|(pid, _)| pid).collect()
}

/// The VM has one VMM, and it is the one that the daemon knows.
async fn has_one_vmm(host: &Host, vm: &Vm, place: &str) {
    vm.healthy().await;
    assert_eq!(
        vmms(host),
        [vm.pid().await],
        "{place}: one VMM, the known one"
    );
    host.settled().await;
}

/// A VM that runs, under a sound daemon; then one that will die.
async fn run_and_arm(host: &mut Host, place: &str, name: &str, policy: RestartPolicy) -> Vm {
    host.start_daemon().await;
    let mut wanted = spec(name);
    wanted.restart = policy;
    let vm = host.run(wanted).await;
    vm.healthy().await;
    rearm(host, place).await;
    vm
}

async fn rearm(host: &mut Host, place: &str) {
    host.terminate_daemon().await;
    arm(host, place);
    host.start_daemon().await;
}

async fn start(host: &mut Host, place: &str, name: &str) {
    arm(host, place);
    host.start_daemon().await;
    // It may die before the answer is out; the same request has the same key.
    host.create(spec(name), true, None).await.ok();
    dies_and_comes_back(host, place).await;
    let vm = host.ask_for(spec(name)).await;
    has_one_vmm(host, &vm, place).await;
    vm.remove().await;
}

async fn stop(host: &mut Host, place: &str, name: &str) {
    let vm = run_and_arm(host, place, name, RestartPolicy::No).await;
    vm.ask_to_stop().await;
    dies_and_comes_back(host, place).await;
    vm.phase(Phase::Exited).await;
    assert_eq!(vmms(host), Vec::<i32>::new());
    host.settled().await;
    vm.remove().await;
}

/// Its VMM dies, and the policy starts it again.
async fn restart(host: &mut Host, place: &str, name: &str) {
    let vm = run_and_arm(host, place, name, RestartPolicy::Always).await;
    let first = vm.pid().await;
    kill(first).unwrap();
    dies_and_comes_back(host, place).await;
    let again = |now: &View| now.phase == Phase::Running && now.pid.is_some_and(|pid| pid != first);
    vm.until("a new VMM", again).await;
    has_one_vmm(host, &vm, place).await;
    vm.remove().await;
}

/// The user wants another run.
async fn again(host: &mut Host, place: &str, name: &str) {
    let vm = run_and_arm(host, place, name, RestartPolicy::No).await;
    let first = vm.pid().await;
    // It may die before the answer is out.
    vm.act(Action::Restart).await.ok();
    dies_and_comes_back(host, place).await;
    let again = |now: &View| now.phase == Phase::Running && now.pid.is_some_and(|pid| pid != first);
    vm.until("a new VMM", again).await;
    has_one_vmm(host, &vm, place).await;
    vm.remove().await;
}

async fn pause(host: &mut Host, place: &str, name: &str) {
    let resumes = place.ends_with("resume");
    let first = if resumes { "none:none" } else { place };
    let vm = run_and_arm(host, first, name, RestartPolicy::No).await;
    let pid = vm.pid().await;
    if resumes {
        vm.act(Action::Pause).await.unwrap();
        rearm(host, place).await;
        // It may die before the answer is out.
        vm.act(Action::Resume).await.ok();
    } else {
        vm.act(Action::Pause).await.ok();
    }
    dies_and_comes_back(host, place).await;
    if !resumes {
        vm.phase(Phase::Paused).await;
        host.settled().await;
        vm.act(Action::Resume).await.unwrap();
    }
    has_one_vmm(host, &vm, place).await;
    assert_eq!(vm.pid().await, pid, "{place}: the same run");
    vm.remove().await;
}

/// A VMM that the daemon before had no time to write down.
async fn adopt(host: &mut Host, place: &str, name: &str) {
    let lost = "after:launch";
    arm(host, lost);
    host.start_daemon().await;
    host.create(spec(name), true, None).await.ok();
    dies(host, lost).await;
    let launched = vmms(host);
    arm(host, place);
    // It takes what lives before it answers.
    host.start_doomed_daemon();
    dies_and_comes_back(host, place).await;
    let vm = host.ask_for(spec(name)).await;
    has_one_vmm(host, &vm, place).await;
    assert_eq!(vmms(host), launched, "{place}: the same run");
    vm.remove().await;
}

/// A process, a TAP and a folder that are ours and nobody's.
async fn orphans(host: &mut Host, place: &str) {
    host.set("ORPHAN_VMMS", "remove");
    host.set("ORPHAN_DIRS", "remove");
    host.start_daemon().await;
    host.terminate_daemon().await;
    let installation: InstallationId = host.installation().parse().unwrap();
    let lost = VmId::new();
    let mark = OwnerMark::of_vm(installation, lost);
    let mut ours = process("hearth-vm", Some(&mark.to_string()));
    tap(host, &tap_name(lost), Some(&mark.interface_alias()));
    std::fs::create_dir_all(host.data().join("vms").join(lost.to_string())).unwrap();
    arm(host, place);
    host.start_doomed_daemon();
    dies_and_comes_back(host, place).await;
    eventually("the process to be gone", || {
        std::future::ready(ours.try_wait().unwrap())
    })
    .await;
    host.settled().await;
}

async fn remove(host: &mut Host, place: &str, name: &str) {
    let vm = run_and_arm(host, place, name, RestartPolicy::No).await;
    vm.ask_to_remove().await;
    dies_and_comes_back(host, place).await;
    let gone = || async {
        let vms = host.client.all_vms(&[]).await.unwrap();
        vms.is_empty().then_some(())
    };
    eventually("the removal", gone).await;
    host.settled().await;
}
