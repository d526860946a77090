//! What Hearth's steps do to the simulated host. Each effect proves what it acts on, as the real rooms do.

use std::time::Duration;

use hearth_plan::transition::later;
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::names::tap_name;
use hearth_types::observe::{ObservedTap, ObservedUnit, ProcessRole, UnitState};
use hearth_types::process::{GuestReport, ProcessExit, ProcessIdentity};
use hearth_types::status::StopRung;

use super::{Reaction, SimDir, SimHost, SimTap, SimUnit};

/// Why an effect did not happen; the host is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Injected.
    #[error("simulated fault in step {0}")]
    Fault(&'static str),
    /// Injected: the host is only slow.
    #[error("simulated deadline of step {0} has passed")]
    Slow(&'static str),
    /// The process is gone or another one.
    #[error("process {0} is not the one that was meant")]
    NotProven(i32),
    /// The rung of the stop cannot work on this guest.
    #[error("the guest offers no {0:?}")]
    NoRung(StopRung),
    /// What the step builds on is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The VM's folder is locked by a living VMM or shim.
    #[error("VM {0} already has a living VMM")]
    AlreadyRunning(VmId),
    /// An object with our name exists and is not ours.
    #[error("{0} exists and does not belong to this installation")]
    Foreign(String),
}

impl SimHost {
    /// Counts the attempt, and fails if a fault is due in this kind of step.
    pub(crate) fn fault(&mut self, kind: &'static str) -> Result<(), HostError> {
        *self.attempts.entry(kind).or_default() += 1;
        if let Some(left) = self.slow.get_mut(kind).filter(|left| **left > 0) {
            *left -= 1;
            return Err(HostError::Slow(kind));
        }
        match self.faults.get_mut(kind) {
            Some(left) if *left > 0 => {
                *left -= 1;
                Err(HostError::Fault(kind))
            }
            _ => Ok(()),
        }
    }

    /// The process of this identity, if it lives and is the same one.
    fn prove(&mut self, identity: &ProcessIdentity) -> Result<(), HostError> {
        if identity.mark.installation != self.installation {
            self.violation(format!("acted on foreign process {}", identity.pid));
            return Err(HostError::NotProven(identity.pid));
        }
        match self.processes.get(&identity.pid) {
            Some(process) if process.identity == *identity && !process.foreign => Ok(()),
            _ => Err(HostError::NotProven(identity.pid)),
        }
    }

    /// Launches a shim and a VMM.
    ///
    /// # Errors
    /// When the folder is locked or disk, TAP or bridge are missing.
    pub fn launch(&mut self, vm: VmId, bridged: bool) -> Result<ProcessIdentity, HostError> {
        let mark = OwnerMark::of_vm(self.installation, vm);
        if self.processes.values().any(|p| p.identity.mark == mark) {
            self.violation(format!("VM {vm} was started while a process of it lives"));
            return Err(HostError::AlreadyRunning(vm));
        }
        if !self.dirs.get(&vm).is_some_and(|dir| dir.has_disk) {
            return Err(HostError::Missing("the root disk"));
        }
        let tap = self.taps.get(&tap_name(vm));
        if bridged && !tap.is_some_and(|tap| tap.attached && !tap.foreign) {
            return Err(HostError::Missing("the TAP"));
        }
        if self.systemd {
            // A unit that is left over gives way.
            let unit = SimUnit {
                mark: Some(mark),
                state: UnitState::Active,
                since: self.now,
                changed: Vec::new(),
            };
            self.units.insert(vm, unit);
        }
        if let Some(dir) = self.dirs.get_mut(&vm) {
            // The record of an earlier run goes before the next one begins.
            dir.exit = None;
        }
        self.spawn(mark, ProcessRole::Shim, false);
        Ok(self.spawn(mark, ProcessRole::Vmm, false))
    }

    /// Makes folder and disk.
    pub fn make_dir(&mut self, vm: VmId) {
        let now = self.now;
        let dir = self.dirs.entry(vm).or_insert(SimDir {
            has_disk: true,
            exit: None,
            changed_at: now,
        });
        dir.has_disk = true;
    }

    /// Makes a TAP or puts it right.
    ///
    /// # Errors
    /// When there is no bridge or the name is a neighbour's.
    pub fn make_tap(&mut self, vm: VmId) -> Result<(), HostError> {
        if self.bridge.is_none() {
            return Err(HostError::Missing("the bridge"));
        }
        self.ticks += 1;
        let index = u32::try_from(self.ticks).unwrap_or(u32::MAX);
        let name = tap_name(vm);
        let mark = OwnerMark::of_vm(self.installation, vm);
        let tap = self.taps.entry(name.clone()).or_insert(SimTap {
            index,
            mark: Some(mark),
            attached: true,
            foreign: false,
        });
        if tap.foreign || tap.mark != Some(mark) {
            return Err(HostError::Foreign(name));
        }
        tap.attached = true;
        Ok(())
    }

    /// Removes a TAP if it is still the one that was seen.
    ///
    /// # Errors
    /// When it is another one.
    pub fn remove_tap(&mut self, seen: &ObservedTap) -> Result<(), HostError> {
        if seen.mark.installation != self.installation {
            self.violation(format!("acted on foreign TAP {}", seen.name));
        }
        match self.taps.get(&seen.name) {
            None => Ok(()),
            Some(tap) if tap.index == seen.index && tap.mark == Some(seen.mark) && !tap.foreign => {
                self.taps.remove(&seen.name);
                Ok(())
            }
            Some(_) => Err(HostError::Foreign(seen.name.clone())),
        }
    }

    /// Removes a unit that holds no process, if it is still ours.
    ///
    /// # Errors
    /// When it is another's.
    pub fn remove_unit(&mut self, seen: &ObservedUnit) -> Result<(), HostError> {
        let Some(vm) = seen.mark.vm() else {
            return Err(HostError::Missing("the unit's VM"));
        };
        if self
            .processes
            .values()
            .any(|p| p.identity.mark == seen.mark)
        {
            self.violation(format!(
                "the unit of VM {vm} was removed under a living process"
            ));
        }
        match self.units.get(&vm) {
            None => Ok(()),
            Some(unit) if unit.mark == Some(seen.mark) => {
                self.units.remove(&vm);
                Ok(())
            }
            Some(_) => {
                self.violation(format!("acted on a foreign unit of VM {vm}"));
                Err(HostError::Foreign(format!("the unit of VM {vm}")))
            }
        }
    }

    /// Puts back the limits of a VMM's unit that it keeps within.
    ///
    /// # Errors
    /// When the process is another one.
    pub fn restore_limits(&mut self, identity: &ProcessIdentity) -> Result<(), HostError> {
        self.prove(identity)?;
        let vm = identity.mark.vm();
        if let Some(unit) = vm.and_then(|vm| self.units.get_mut(&vm)) {
            unit.changed.retain(|limit| !limit.fits);
        }
        Ok(())
    }

    /// Removes a VM's folder.
    pub fn remove_dir(&mut self, vm: VmId) {
        let mark = OwnerMark::of_vm(self.installation, vm);
        if self.processes.values().any(|p| p.identity.mark == mark) {
            self.violation(format!(
                "the folder of VM {vm} was removed under a living process"
            ));
        }
        self.dirs.remove(&vm);
    }

    /// Stops or resumes the vCPUs.
    ///
    /// # Errors
    /// When the process is another one.
    pub fn set_paused(
        &mut self,
        identity: &ProcessIdentity,
        paused: bool,
    ) -> Result<(), HostError> {
        self.prove(identity)?;
        if let Some(process) = self.processes.get_mut(&identity.pid) {
            process.paused = paused;
        }
        Ok(())
    }

    /// Takes a rung of the stop ladder.
    ///
    /// # Errors
    /// When the process is another one or the guest has no such rung.
    pub fn stop(&mut self, identity: &ProcessIdentity, rung: StopRung) -> Result<(), HostError> {
        self.prove(identity)?;
        let now = self.now;
        let Some(process) = self.processes.get_mut(&identity.pid) else {
            return Err(HostError::NotProven(identity.pid));
        };
        if rung == StopRung::Kill {
            self.slay(identity.pid);
            return Ok(());
        }
        if process.stuck {
            return Ok(());
        }
        match Self::reaction(&process.guest, rung) {
            Reaction::Missing => Err(HostError::NoRung(rung)),
            Reaction::Ignores => Ok(()),
            // A guest that is paused hears nothing.
            Reaction::Obeys(_) if process.paused && rung != StopRung::Quit => Ok(()),
            Reaction::Obeys(seconds) => {
                let at = later(now, Duration::from_secs(seconds.into()));
                let report = (rung != StopRung::Quit).then(|| GuestReport {
                    exit: None,
                    reason: "shutdown".to_owned(),
                    message: None,
                });
                if process.ends.as_ref().is_none_or(|(when, ..)| *when > at) {
                    process.ends = Some((at, ProcessExit::Code(0), report));
                }
                Ok(())
            }
        }
    }

    /// Kills a process of ours.
    ///
    /// # Errors
    /// When it is another one; one that is gone already is a success.
    pub fn kill(&mut self, identity: &ProcessIdentity) -> Result<(), HostError> {
        if !self.processes.contains_key(&identity.pid) {
            return Ok(());
        }
        self.prove(identity)?;
        self.slay(identity.pid);
        Ok(())
    }

    /// SIGKILL: works at once, or when the process leaves the kernel.
    fn slay(&mut self, pid: i32) {
        match self.processes.get_mut(&pid) {
            Some(process) if process.stuck => process.doomed = true,
            _ => self.end(pid, ProcessExit::Signal(9), None),
        }
    }
}
