//! A VMM in memory, for fast tests of whatever drives VMs.
//!
//! It keeps the drivers' contract (the same suite runs against it), so it may stand for
//! them; and it fails where a test tells it to.
//!
//! ```text
//!   launch ──► Running ◄──► Paused
//!                 │            │
//!                 └─ quit, kill, power button, Fault::Dies, crash ─► dead + exit record
//! ```
//!
//! Nothing here is a process. Identities are made up: pids count up from one that Linux
//! never gives out, so that a fake pid that strays into real code hits nobody.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::api::DeviceStats;
use hearth_types::ids::VmId;
use hearth_types::observe::RunState;
use hearth_types::process::{ExitRecord, GuestReport, ProcessExit, ProcessIdentity};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{KernelFiles, LaunchSpec, Probe, Stream, Vmm, VmmError};

/// The kernel's `PID_MAX_LIMIT` is 2^22 on 64 bits; no process has a pid above it.
const FIRST_PID: i32 = 1 << 23;

/// What can be called, for faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// [`Vmm::launch`].
    Launch,
    /// [`Vmm::run_state`].
    RunState,
    /// [`Vmm::device_stats`].
    DeviceStats,
    /// [`Vmm::pause`].
    Pause,
    /// [`Vmm::resume`].
    Resume,
    /// [`Vmm::power_button`].
    PowerButton,
    /// [`Vmm::quit`].
    Quit,
    /// [`Vmm::kill`].
    Kill,
}

/// What goes wrong at a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The call fails; nothing has happened.
    Fails(String),
    /// The call fails, but its effect has happened.
    FailsAfter(String),
    /// The VMM accepts and does nothing.
    Ignored,
    /// The VMM dies instead.
    Dies,
    /// The call never returns.
    Hangs,
}

/// VMs in memory. Clones share them, as two daemons share a host.
#[derive(Debug, Clone, Default)]
pub struct FakeVmm {
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
struct World {
    vms: BTreeMap<VmId, Machine>,
    records: BTreeMap<Utf8PathBuf, ExitRecord>,
    faults: BTreeMap<Call, VecDeque<Fault>>,
    started: i32,
}

#[derive(Debug)]
struct Machine {
    identity: ProcessIdentity,
    dir: Utf8PathBuf,
    paused: bool,
    /// Dropped when the machine dies: that is what watchers wait for.
    alive: watch::Sender<()>,
}

impl World {
    fn end(&mut self, vm: VmId, vmm: ProcessExit, guest: Option<GuestReport>) {
        if let Some(machine) = self.vms.remove(&vm) {
            let record = ExitRecord {
                identity: machine.identity,
                vmm,
                guest,
                evidence: hearth_types::process::Evidence::default(),
                ended_at: Timestamp::now(),
            };
            self.records.insert(machine.dir, record);
        }
    }

    fn by_pid(&self, pid: i32) -> Option<(VmId, &Machine)> {
        self.vms
            .iter()
            .find(|(_, machine)| machine.identity.pid == pid)
            .map(|(vm, machine)| (*vm, machine))
    }
}

impl FakeVmm {
    /// A host without VMs and without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next call of this kind goes wrong; several are used up in order.
    pub fn inject(&self, call: Call, fault: Fault) {
        self.world()
            .faults
            .entry(call)
            .or_default()
            .push_back(fault);
    }

    /// Ends a VM from outside, as a crash or somebody's `kill -9` does.
    pub fn crash(&self, vm: VmId, exit: ProcessExit) {
        self.world().end(vm, exit, None);
    }

    /// The guest's workload ends and the guest powers off.
    pub fn guest_ends(&self, vm: VmId, report: GuestReport) {
        self.world().end(vm, ProcessExit::Code(0), Some(report));
    }

    /// All living VMMs: what a survey would find.
    #[must_use]
    pub fn alive(&self) -> Vec<ProcessIdentity> {
        let world = self.world();
        world
            .vms
            .values()
            .map(|machine| machine.identity.clone())
            .collect()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A panic while it was held is a failed test; the data is a set of plain values.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next fault of a call; one that hangs is waited for here.
    async fn fault(&self, call: Call) -> Option<Fault> {
        let fault = self
            .world()
            .faults
            .get_mut(&call)
            .and_then(VecDeque::pop_front);
        if fault == Some(Fault::Hangs) {
            std::future::pending::<()>().await;
        }
        fault
    }

    async fn control(
        &self,
        vm: VmId,
        call: Call,
        act: impl FnOnce(&mut World) + Send,
    ) -> Result<(), VmmError> {
        let failed = |detail: String| VmmError::Control {
            vm,
            command: format!("{call:?}"),
            detail,
        };
        let fault = self.fault(call).await;
        let mut world = self.world();
        if !world.vms.contains_key(&vm) {
            return Err(failed("nobody answers".to_owned()));
        }
        match fault {
            Some(Fault::Fails(why)) => Err(failed(why)),
            Some(Fault::FailsAfter(why)) => {
                act(&mut world);
                Err(failed(why))
            }
            Some(Fault::Dies) => {
                world.end(vm, ProcessExit::Signal(11), None);
                Err(failed("the connection broke".to_owned()))
            }
            Some(Fault::Ignored | Fault::Hangs) => Ok(()),
            None => {
                act(&mut world);
                Ok(())
            }
        }
    }

    fn start(&self, spec: &LaunchSpec) -> Result<ProcessIdentity, VmmError> {
        check_files(spec)?;
        let mut world = self.world();
        if world.vms.contains_key(&spec.vm) {
            return Err(VmmError::AlreadyRunning { vm: spec.vm });
        }
        world.started += 1;
        let number = world.started;
        let identity = ProcessIdentity {
            boot_id: "fake-boot".to_owned(),
            pid: FIRST_PID + number,
            start_time: u64::try_from(number).unwrap_or(0),
            exe: "/fake/vmm".to_owned(),
            mark: spec.mark,
        };
        world.records.remove(&spec.dir);
        world.vms.insert(
            spec.vm,
            Machine {
                identity: identity.clone(),
                dir: spec.dir.clone(),
                paused: false,
                alive: watch::Sender::new(()),
            },
        );
        Ok(identity)
    }
}

/// A launch with missing or wrong files fails as it does with a real VMM, if there is a
/// folder at all: tests without files are welcome.
fn check_files(spec: &LaunchSpec) -> Result<(), VmmError> {
    if !spec.dir.is_dir() {
        return Ok(());
    }
    let disks = spec.disks.iter().map(|disk| spec.dir.join(&disk.file));
    let files = spec.kernel.bzimage.iter().chain([&spec.initramfs]).cloned();
    if let Some(absent) = disks.chain(files).find(|path| !path.exists()) {
        return Err(VmmError::Missing {
            what: absent.to_string(),
            detail: "there is no such file".to_owned(),
        });
    }
    let magic = |path: &Utf8PathBuf| {
        let text = std::fs::read(path).unwrap_or_default();
        text.get(0x202..0x206) == Some(b"HdrS")
    };
    match &spec.kernel.bzimage {
        Some(kernel) if !magic(kernel) => Err(VmmError::Start {
            vm: spec.vm,
            detail: format!("could not load kernel {kernel}"),
        }),
        _ => Ok(()),
    }
}

#[async_trait]
impl Vmm for FakeVmm {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn probe(&self, _kernel: Option<&KernelFiles>) -> Result<Probe, VmmError> {
        Ok(Probe {
            version: "fake".to_owned(),
            accelerator: "fake".to_owned(),
            detail: "nothing runs here".to_owned(),
        })
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<ProcessIdentity, VmmError> {
        let failed = |detail: String| VmmError::Start {
            vm: spec.vm,
            detail,
        };
        match self.fault(Call::Launch).await {
            Some(Fault::Fails(why)) => Err(failed(why)),
            Some(Fault::FailsAfter(why)) => {
                self.start(spec)?;
                Err(failed(why))
            }
            Some(Fault::Dies) => {
                let identity = self.start(spec)?;
                self.crash(spec.vm, ProcessExit::Code(1));
                Ok(identity)
            }
            Some(Fault::Ignored | Fault::Hangs) | None => self.start(spec),
        }
    }

    async fn run_state(
        &self,
        vm: VmId,
        _dir: &Utf8Path,
        deadline: Duration,
    ) -> Result<RunState, VmmError> {
        let mut paused = false;
        let asked = self.control(vm, Call::RunState, |world| {
            paused = world.vms.get(&vm).is_some_and(|machine| machine.paused);
        });
        tokio::time::timeout(deadline, asked)
            .await
            .map_err(|_| VmmError::Control {
                vm,
                command: "RunState".to_owned(),
                detail: format!("no answer within {} ms", deadline.as_millis()),
            })??;
        Ok(if paused {
            RunState::Paused
        } else {
            RunState::Running
        })
    }

    async fn device_stats(
        &self,
        vm: VmId,
        _dir: &Utf8Path,
    ) -> Result<Option<DeviceStats>, VmmError> {
        self.control(vm, Call::DeviceStats, |_| ()).await?;
        Ok(Some(DeviceStats::default()))
    }

    async fn pause(&self, vm: VmId, _dir: &Utf8Path) -> Result<(), VmmError> {
        self.control(vm, Call::Pause, |world| set_paused(world, vm, true))
            .await
    }

    async fn resume(&self, vm: VmId, _dir: &Utf8Path) -> Result<(), VmmError> {
        self.control(vm, Call::Resume, |world| set_paused(world, vm, false))
            .await
    }

    async fn power_button(&self, vm: VmId, _dir: &Utf8Path) -> Result<(), VmmError> {
        let report = GuestReport {
            exit: Some(ProcessExit::Code(0)),
            reason: "shutdown".to_owned(),
            message: None,
        };
        self.control(vm, Call::PowerButton, |world| {
            world.end(vm, ProcessExit::Code(0), Some(report));
        })
        .await
    }

    async fn quit(&self, vm: VmId, _dir: &Utf8Path) -> Result<(), VmmError> {
        self.control(vm, Call::Quit, |world| {
            world.end(vm, ProcessExit::Code(0), None);
        })
        .await
    }

    async fn kill(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        let refused = |detail: String| VmmError::NotProven {
            identity: Box::new(identity.clone()),
            detail,
        };
        let fault = self.fault(Call::Kill).await;
        let mut world = self.world();
        let vm = match world.by_pid(identity.pid) {
            None => return Ok(()),
            Some((_, machine)) if machine.identity != *identity => {
                return Err(refused("it is somebody else".to_owned()));
            }
            Some((vm, _)) => vm,
        };
        if let Some(Fault::Fails(why)) = fault {
            return Err(refused(why));
        }
        if fault != Some(Fault::Ignored) {
            world.end(vm, ProcessExit::Signal(9), None);
        }
        match fault {
            Some(Fault::FailsAfter(why)) => Err(refused(why)),
            _ => Ok(()),
        }
    }

    async fn wait_dead(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        let alive = match self.world().by_pid(identity.pid) {
            Some((_, machine)) if machine.identity == *identity => Some(machine.alive.subscribe()),
            _ => None,
        };
        if let Some(mut alive) = alive {
            // Nothing is ever sent: this ends when the machine is dropped.
            while alive.changed().await.is_ok() {}
        }
        Ok(())
    }

    /// Echoes.
    async fn agent(&self, _vm: VmId, _dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        Ok(echo())
    }

    /// Echoes.
    async fn console(&self, _vm: VmId, _dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        Ok(echo())
    }

    async fn exit_record(&self, dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError> {
        Ok(self.world().records.get(dir).cloned())
    }
}

fn set_paused(world: &mut World, vm: VmId, paused: bool) {
    if let Some(machine) = world.vms.get_mut(&vm) {
        machine.paused = paused;
    }
}

fn echo() -> Box<dyn Stream> {
    let (near, far) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(far);
        // Ends when the other end is dropped.
        drop(tokio::io::copy(&mut from, &mut to).await);
    });
    Box::new(near)
}

#[cfg(test)]
mod tests;
