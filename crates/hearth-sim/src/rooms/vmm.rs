//! The simulated VMM driver.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};

use hearth_types::Survey;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::observe::{ObservedUnit, RunState};
use hearth_types::process::{ExitRecord, ProcessIdentity};
use hearth_types::status::StopRung;
use hearth_vmm::{KernelFiles, LaunchSpec, Probe, Stream, Vmm, VmmError};

use super::Rooms;
use crate::host::{HostError, Kind, Reaction};

fn control(vm: VmId, command: &str, detail: impl ToString) -> VmmError {
    VmmError::Control {
        vm,
        command: command.to_owned(),
        detail: detail.to_string(),
    }
}

/// Somebody asks a VMM for its state, and may stop asking at any moment.
struct Asking(Rooms);

impl Asking {
    fn of(rooms: &Rooms) -> Self {
        let (now, most) = &mut rooms.look().asked_at_once;
        *now += 1;
        *most = (*most).max(*now);
        Self(rooms.clone())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let (now, _) = &mut self.0.look().asked_at_once;
        *now = now.saturating_sub(1);
    }
}

/// How long the real launcher waits for its shim.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(20);

/// How long the real drivers wait for a shim between its VMM's death and the record.
const RECORD_WAIT: Duration = Duration::from_secs(3);

/// A VMM that is being launched.
struct Launching(Rooms);

impl Launching {
    /// It, and how long it takes beside the others.
    fn of(rooms: &Rooms) -> (Self, Duration) {
        let mut host = rooms.look();
        let (now, most) = &mut host.launched_at_once;
        *now += 1;
        *most = (*most).max(*now);
        let beside = u32::try_from(*now).unwrap_or(u32::MAX);
        let takes = host.launch_takes.saturating_mul(beside);
        drop(host);
        (Self(rooms.clone()), takes)
    }
}

impl Drop for Launching {
    fn drop(&mut self) {
        let (now, _) = &mut self.0.look().launched_at_once;
        *now = now.saturating_sub(1);
    }
}

impl Rooms {
    async fn launch_takes(&self, vm: VmId) -> Result<(), VmmError> {
        if self.look().launch_takes.is_zero() {
            return Ok(());
        }
        let (_launching, takes) = Launching::of(self);
        tokio::time::sleep(takes.min(LAUNCH_DEADLINE)).await;
        if takes < LAUNCH_DEADLINE {
            return Ok(());
        }
        let detail = "its shim did not answer in time".to_owned();
        Err(VmmError::Slow { vm, detail })
    }

    fn identity(&self, vm: VmId, command: &str) -> Result<ProcessIdentity, VmmError> {
        let host = self.look();
        let identity = host.vmms(vm).next().map(|p| p.identity.clone());
        identity.ok_or_else(|| control(vm, command, "no VMM lives"))
    }

    fn rung(&self, vm: VmId, command: &str, rung: StopRung) -> Result<(), VmmError> {
        let identity = self.identity(vm, command)?;
        self.change(|host| {
            host.fault("stop")?;
            host.stop(&identity, rung)
        })
        .map_err(|error| control(vm, command, error))
    }

    fn set_paused(&self, vm: VmId, paused: bool) -> Result<(), VmmError> {
        let command = if paused { "pause" } else { "resume" };
        let identity = self.identity(vm, command)?;
        self.change(|host| {
            host.fault(command)?;
            host.set_paused(&identity, paused)
        })
        .map_err(|error| control(vm, command, error))
    }
}

#[async_trait]
impl Vmm for Rooms {
    fn name(&self) -> &'static str {
        "sim"
    }

    async fn probe(&self, _kernel: Option<&KernelFiles>) -> Result<Probe, VmmError> {
        Ok(Probe {
            version: "1.0".to_owned(),
            accelerator: "sim".to_owned(),
            detail: "nothing is run".to_owned(),
        })
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<ProcessIdentity, VmmError> {
        self.launch_takes(spec.vm).await?;
        self.change(|host| {
            host.fault("start_vmm")?;
            if spec
                .disks
                .iter()
                .any(|disk| !spec.dir.join(&disk.file).is_file())
            {
                return Err(HostError::Missing("a disk"));
            }
            // The folder is a real one here; the simulated one follows.
            host.make_dir(spec.vm);
            host.launch(spec.vm, spec.nic.is_some())
        })
        .map_err(|error| match error {
            HostError::AlreadyRunning(vm) => VmmError::AlreadyRunning { vm },
            slow @ HostError::Slow(_) => VmmError::Slow {
                vm: spec.vm,
                detail: slow.to_string(),
            },
            error => VmmError::Start {
                vm: spec.vm,
                detail: error.to_string(),
            },
        })
    }

    async fn run_state(
        &self,
        vm: VmId,
        _dir: &Utf8Path,
        deadline: Duration,
    ) -> Result<RunState, VmmError> {
        let latency = self.look().latency;
        if !latency.is_zero() {
            let _asking = Asking::of(self);
            tokio::time::sleep(latency.min(deadline)).await;
        }
        if latency >= deadline && !deadline.is_zero() {
            return Err(control(vm, "query-status", "no answer in time"));
        }
        let host = self.look();
        if host.unknown.contains(&Kind::RunStates) {
            return Err(control(vm, "query-status", "simulated failure"));
        }
        match host.vmms(vm).next() {
            Some(process) if process.stuck => Err(control(vm, "query-status", "no answer in time")),
            Some(process) if process.paused => Ok(RunState::Paused),
            Some(_) => Ok(RunState::Running),
            None => Err(control(vm, "query-status", "no VMM lives")),
        }
    }

    async fn pause(&self, vm: VmId, _dir: &Utf8Path) -> Result<(), VmmError> {
        self.set_paused(vm, true)
    }

    async fn resume(&self, vm: VmId, _dir: &Utf8Path) -> Result<(), VmmError> {
        self.set_paused(vm, false)
    }

    async fn power_button(&self, vm: VmId, _dir: &Utf8Path) -> Result<(), VmmError> {
        self.rung(vm, "system_powerdown", StopRung::PowerButton)
    }

    async fn quit(&self, vm: VmId, _dir: &Utf8Path) -> Result<(), VmmError> {
        self.rung(vm, "quit", StopRung::Quit)
    }

    async fn kill(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        self.change(|host| {
            host.fault("kill")?;
            host.kill(identity)
        })
        .map_err(|error| VmmError::NotProven {
            identity: Box::new(identity.clone()),
            detail: error.to_string(),
        })
    }

    async fn units(
        &self,
        _installation: InstallationId,
        _known: &BTreeMap<VmId, Utf8PathBuf>,
    ) -> Result<Vec<ObservedUnit>, VmmError> {
        self.look_begins("units").await;
        match self.look().survey().units {
            Survey::Known(units) => Ok(units),
            Survey::Unknown(detail) => Err(VmmError::Missing {
                what: "systemd".to_owned(),
                detail,
            }),
        }
    }

    async fn remove_unit(&self, unit: &ObservedUnit) -> Result<(), VmmError> {
        self.change(|host| {
            host.fault("remove_orphan_unit")?;
            host.remove_unit(unit)
        })
        .map_err(|error: HostError| VmmError::Missing {
            what: "the unit".to_owned(),
            detail: error.to_string(),
        })
    }

    async fn ensure_limits(
        &self,
        identity: &ProcessIdentity,
        _dir: &Utf8Path,
    ) -> Result<(), VmmError> {
        self.change(|host| {
            host.fault("ensure_limits")?;
            host.restore_limits(identity)
        })
        .map_err(|error: HostError| VmmError::NotProven {
            identity: Box::new(identity.clone()),
            detail: error.to_string(),
        })
    }

    async fn wait_dead(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        self.until(|host| {
            let process = host.processes.get(&identity.pid);
            process.is_none_or(|process| process.identity != *identity)
        })
        .await;
        Ok(())
    }

    async fn agent(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        let identity = self.identity(vm, "agent")?;
        *self.look().looks.entry("agent").or_default() += 1;
        let missing = self
            .look()
            .processes
            .get(&identity.pid)
            .is_none_or(|process| process.guest.agent == Reaction::Missing);
        if missing {
            return Err(control(vm, "agent", "this simulated guest has none"));
        }
        Ok(Box::new(super::agent::start(self, identity, dir)))
    }

    async fn console(&self, vm: VmId, _dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        Err(control(vm, "console", "a simulated guest has none"))
    }

    async fn exit_record(&self, dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError> {
        // The folder is named after its VM.
        let vm = dir.file_name().and_then(|name| name.parse::<VmId>().ok());
        let vm = vm.ok_or_else(|| VmmError::Io {
            operation: "find the VM of",
            path: Utf8PathBuf::from(dir),
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        let takes = self.look().record_takes;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        // One that is about to be written is waited for. Whoever gives up finds none.
        let ending = self.until(|host| !host.is_ending(vm));
        drop(tokio::time::timeout(RECORD_WAIT, ending).await);
        Ok(self.look().dirs.get(&vm).and_then(|dir| dir.exit.clone()))
    }
}
