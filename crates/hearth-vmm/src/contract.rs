//! What every driver must do, as tests: run against real QEMU, a stand-in process and the
//! fake, so that the fake cannot drift from what it stands for.
//!
//! Each function is one promise. It panics when the promise is broken.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; they are not under cfg(test) because other crates run them"
)]

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use hearth_types::observe::RunState;
use hearth_types::process::{ProcessExit, ProcessIdentity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{KernelFiles, LaunchSpec, Vmm, VmmError};

/// Longest that any one step may take. Far above what it takes; below it a hang is a hang.
const STEP: Duration = Duration::from_secs(60);
/// How long a VMM may take to answer a question.
const ANSWER: Duration = Duration::from_secs(20);

/// A driver under test, and VMs for it.
#[async_trait]
pub trait Fixture: Sync {
    /// The driver.
    fn vmm(&self) -> &dyn Vmm;

    /// A new VM with a folder of its own, whose guest stays until it is ended.
    async fn spec(&self) -> LaunchSpec;

    /// The power button ends the guest, which then reports.
    fn guest_reports(&self) -> bool;

    /// What is typed at the console comes back.
    fn console_echoes(&self) -> bool;

    /// VMMs are processes of the host.
    fn has_processes(&self) -> bool;

    /// Its VMMs can be paused. Where not, they refuse and go on.
    fn pauses(&self) -> bool {
        true
    }

    /// How a VMM ends that is asked to quit: one without such a command ends by a signal.
    fn quit_exit(&self) -> ProcessExit {
        ProcessExit::Code(0)
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(STEP, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not end within {} s", STEP.as_secs()),
    }
}

async fn launch(fixture: &dyn Fixture, spec: &LaunchSpec) -> ProcessIdentity {
    within("launch", fixture.vmm().launch(spec)).await.unwrap()
}

async fn state(fixture: &dyn Fixture, spec: &LaunchSpec) -> RunState {
    let state = fixture.vmm().run_state(spec.vm, &spec.dir, ANSWER);
    within("run_state", state).await.unwrap()
}

async fn end(fixture: &dyn Fixture, identity: &ProcessIdentity) {
    within("kill", fixture.vmm().kill(identity)).await.unwrap();
    within("wait_dead", fixture.vmm().wait_dead(identity))
        .await
        .unwrap();
}

/// Waits until `condition` is true.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    within(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// All promises, one after the other.
pub async fn all(fixture: &dyn Fixture) {
    runs_after_launch(fixture).await;
    one_vmm_per_vm(fixture).await;
    pause_and_resume_are_idempotent(fixture).await;
    devices_are_counted(fixture).await;
    quit_ends_and_leaves_a_record(fixture).await;
    kill_needs_proof(fixture).await;
    death_is_noticed(fixture).await;
    failed_launches_leave_nothing(fixture).await;
    consoles_are_served(fixture).await;
    guests_report(fixture).await;
}

/// A launched VMM runs, under the identity that was returned, and a killed one can be
/// launched again at once.
pub async fn runs_after_launch(fixture: &dyn Fixture) {
    let spec = fixture.spec().await;
    let first = launch(fixture, &spec).await;
    assert_eq!(first.mark, spec.mark);
    assert_eq!(state(fixture, &spec).await, RunState::Running);
    assert_eq!(fixture.vmm().exit_record(&spec.dir).await.unwrap(), None);
    end(fixture, &first).await;
    let second = launch(fixture, &spec).await;
    assert_ne!(first, second);
    assert_eq!(state(fixture, &spec).await, RunState::Running);
    end(fixture, &second).await;
}

/// A second launch is refused while the first VMM lives, and harms it not.
pub async fn one_vmm_per_vm(fixture: &dyn Fixture) {
    let spec = fixture.spec().await;
    let identity = launch(fixture, &spec).await;
    let second = within("second launch", fixture.vmm().launch(&spec)).await;
    assert!(
        matches!(second, Err(VmmError::AlreadyRunning { vm }) if vm == spec.vm),
        "{second:?}"
    );
    assert_eq!(state(fixture, &spec).await, RunState::Running);
    end(fixture, &identity).await;
}

/// Pausing twice pauses, resuming twice resumes.
pub async fn pause_and_resume_are_idempotent(fixture: &dyn Fixture) {
    let vmm = fixture.vmm();
    let spec = fixture.spec().await;
    let identity = launch(fixture, &spec).await;
    if !fixture.pauses() {
        let refused = within("pause", vmm.pause(spec.vm, &spec.dir)).await;
        assert!(
            matches!(refused, Err(VmmError::Unsuitable { .. })),
            "{refused:?}"
        );
        assert_eq!(state(fixture, &spec).await, RunState::Running);
        return end(fixture, &identity).await;
    }
    for _ in 0..2 {
        within("pause", vmm.pause(spec.vm, &spec.dir))
            .await
            .unwrap();
        assert_eq!(state(fixture, &spec).await, RunState::Paused);
    }
    for _ in 0..2 {
        within("resume", vmm.resume(spec.vm, &spec.dir))
            .await
            .unwrap();
        assert_eq!(state(fixture, &spec).await, RunState::Running);
    }
    end(fixture, &identity).await;
}

/// A running VMM says what its devices did since it started: the sums never fall.
pub async fn devices_are_counted(fixture: &dyn Fixture) {
    let vmm = fixture.vmm();
    let spec = fixture.spec().await;
    let identity = launch(fixture, &spec).await;
    let read = async || {
        let stats = within("figures", vmm.device_stats(spec.vm, &spec.dir)).await;
        stats.unwrap()
    };
    // A VMM may answer before it has written its first figures.
    until("first figures", async || read().await.is_some()).await;
    let (first, second) = (read().await.unwrap(), read().await.unwrap());
    assert!(
        second.disk_read_bytes >= first.disk_read_bytes,
        "{second:?}"
    );
    assert!(second.disk_write_bytes >= first.disk_write_bytes);
    assert!(second.net_rx_bytes >= first.net_rx_bytes);
    end(fixture, &identity).await;
}

/// A VMM that quits is dead, leaves a record, and answers no more.
pub async fn quit_ends_and_leaves_a_record(fixture: &dyn Fixture) {
    let vmm = fixture.vmm();
    let spec = fixture.spec().await;
    let identity = launch(fixture, &spec).await;
    within("quit", vmm.quit(spec.vm, &spec.dir)).await.unwrap();
    within("wait_dead", vmm.wait_dead(&identity)).await.unwrap();
    let record = vmm.exit_record(&spec.dir).await.unwrap().unwrap();
    assert_eq!(record.identity, identity);
    assert_eq!(record.vmm, fixture.quit_exit());
    assert_eq!(record.guest, None);
    let asked = within("run_state", vmm.run_state(spec.vm, &spec.dir, ANSWER)).await;
    assert!(matches!(asked, Err(VmmError::Control { .. })), "{asked:?}");
    within("kill of a dead VMM", vmm.kill(&identity))
        .await
        .unwrap();
}

/// A wrong identity kills nobody.
pub async fn kill_needs_proof(fixture: &dyn Fixture) {
    let vmm = fixture.vmm();
    let spec = fixture.spec().await;
    let identity = launch(fixture, &spec).await;
    let reused = ProcessIdentity {
        start_time: identity.start_time + 1,
        ..identity.clone()
    };
    let refused = within("kill", vmm.kill(&reused)).await;
    assert!(
        matches!(refused, Err(VmmError::NotProven { .. })),
        "{refused:?}"
    );
    within("wait for somebody else", vmm.wait_dead(&reused))
        .await
        .unwrap();
    assert_eq!(state(fixture, &spec).await, RunState::Running);
    end(fixture, &identity).await;
    within("kill of a dead VMM", vmm.kill(&identity))
        .await
        .unwrap();
}

/// A watcher wakes when the VMM dies, not before; the record names the signal.
pub async fn death_is_noticed(fixture: &dyn Fixture) {
    let vmm = fixture.vmm();
    let spec = fixture.spec().await;
    let identity = launch(fixture, &spec).await;
    let mut watch = vmm.wait_dead(&identity);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut watch).await;
    assert!(early.is_err(), "the VMM lives");
    within("kill", vmm.kill(&identity)).await.unwrap();
    within("wait_dead", watch).await.unwrap();
    let record = vmm.exit_record(&spec.dir).await.unwrap().unwrap();
    assert_eq!(record.vmm, ProcessExit::Signal(9));
    assert_eq!(record.identity, identity);
}

/// The same file as every kind of kernel.
fn kernel_at(path: &camino::Utf8Path) -> KernelFiles {
    KernelFiles {
        bzimage: Some(path.to_owned()),
        elf: Some(path.to_owned()),
    }
}

/// What cannot be launched leaves no process, socket or record, and says why.
pub async fn failed_launches_leave_nothing(fixture: &dyn Fixture) {
    let vmm = fixture.vmm();
    let mut no_disk = fixture.spec().await;
    no_disk.disks[0].file = "absent.img".to_owned();
    let mut no_kernel = fixture.spec().await;
    no_kernel.kernel = kernel_at(&no_kernel.dir.join("absent"));
    let mut bad_kernel = fixture.spec().await;
    let path = bad_kernel.dir.join("bad-kernel");
    std::fs::write(&path, "not a kernel\n".repeat(1000)).unwrap();
    bad_kernel.kernel = kernel_at(&path);
    let mut no_initramfs = fixture.spec().await;
    no_initramfs.initramfs = no_initramfs.dir.join("absent");
    for (what, spec) in [
        ("absent.img", no_disk),
        ("absent", no_kernel),
        ("kernel", bad_kernel),
        ("absent", no_initramfs),
    ] {
        let error = within("failing launch", vmm.launch(&spec))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(vmm.exit_record(&spec.dir).await.unwrap(), None, "{what}");
        if fixture.has_processes() {
            let ours = hearth_host::process::survey(spec.mark.installation).unwrap();
            let left: Vec<_> = ours
                .iter()
                .filter(|process| process.identity.mark == spec.mark)
                .collect();
            assert!(left.is_empty(), "{what}: {left:?}");
        }
        for entry in std::fs::read_dir(&spec.dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.ends_with(".sock"), "{what}: {name} stayed");
        }
    }
}

/// Two clients see the console; one that does not read holds up nobody.
pub async fn consoles_are_served(fixture: &dyn Fixture) {
    if !fixture.console_echoes() {
        return;
    }
    let vmm = fixture.vmm();
    let spec = fixture.spec().await;
    let identity = launch(fixture, &spec).await;
    let _never_reads = vmm.console(spec.vm, &spec.dir).await.unwrap();
    let mut console = vmm.console(spec.vm, &spec.dir).await.unwrap();
    let line = [b'x'; 500];
    for _ in 0..2000 {
        console.write_all(&line).await.unwrap();
        let mut back = vec![0; line.len()];
        within("echo", console.read_exact(&mut back)).await.unwrap();
    }
    let mut agent = vmm.agent(spec.vm, &spec.dir).await.unwrap();
    agent.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    within("agent", agent.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"ping");
    if fixture.has_processes() {
        let cap = spec.console.max_bytes;
        let current = std::fs::metadata(spec.dir.join(crate::CONSOLE_LOG)).unwrap();
        assert!(current.len() <= cap, "{} > {cap}", current.len());
        let kept = spec.console.keep;
        let rotated = |number| spec.dir.join(format!("{}.{number}", crate::CONSOLE_LOG));
        assert!(rotated(kept).exists());
        assert!(!rotated(kept + 1).exists());
    }
    end(fixture, &identity).await;
}

/// The power button ends the guest, whose report is in the record.
pub async fn guests_report(fixture: &dyn Fixture) {
    if !fixture.guest_reports() {
        return;
    }
    let vmm = fixture.vmm();
    let spec = fixture.spec().await;
    let identity = launch(fixture, &spec).await;
    within("power_button", vmm.power_button(spec.vm, &spec.dir))
        .await
        .unwrap();
    within("wait_dead", vmm.wait_dead(&identity)).await.unwrap();
    let record = vmm.exit_record(&spec.dir).await.unwrap().unwrap();
    assert_eq!(record.guest.unwrap().exit, Some(ProcessExit::Code(0)));
    until("sockets to go", async || {
        !spec.dir.join("console.sock").exists()
    })
    .await;
}
