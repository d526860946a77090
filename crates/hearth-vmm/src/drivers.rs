//! All drivers of this host behind one: each VM's calls go to the driver that runs it.
//!
//! Which one that is stands in the lock of the VM's folder, written by the shim with the
//! process itself. So it is right for a VM that was started by another daemon, with another
//! configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::api::DeviceStats;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::observe::{ObservedUnit, RunState};
use hearth_types::process::{ExitRecord, ProcessIdentity};
use hearth_types::spec::{DriverChoice, VmSpec};

use crate::firecracker::{self, place};
use crate::{
    Disk, GrownDisk, KernelFiles, LaunchSpec, Launcher, Probe, Stream, Terms, Vmm, VmmError,
    launch, record,
};

/// QEMU and Firecracker.
pub struct Drivers {
    /// Runs what asks for QEMU.
    pub qemu: Arc<dyn Vmm>,
    /// Runs what asks for Firecracker.
    pub firecracker: Arc<dyn Vmm>,
    /// What `auto` means; `auto` itself means QEMU.
    pub default: DriverChoice,
}

impl std::fmt::Debug for Drivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drivers")
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

impl Drivers {
    fn chosen(&self, choice: DriverChoice) -> &dyn Vmm {
        let choice = match choice {
            DriverChoice::Auto => self.default,
            named => named,
        };
        match choice {
            DriverChoice::Auto | DriverChoice::Qemu => &*self.qemu,
            DriverChoice::Firecracker => &*self.firecracker,
        }
    }

    /// The driver of the VMM in this folder. One without a name is older than the second
    /// driver.
    fn of(&self, dir: &Utf8Path) -> &dyn Vmm {
        let holder = place::holder(dir).ok();
        match holder.and_then(|holder| holder.driver).as_deref() {
            Some(firecracker::NAME) => &*self.firecracker,
            _ => &*self.qemu,
        }
    }
}

#[async_trait]
impl Vmm for Drivers {
    fn name(&self) -> &'static str {
        self.chosen(DriverChoice::Auto).name()
    }

    async fn probe(&self, kernel: Option<&KernelFiles>) -> Result<Probe, VmmError> {
        self.chosen(DriverChoice::Auto).probe(kernel).await
    }

    async fn probe_all(
        &self,
        kernel: Option<&KernelFiles>,
    ) -> Vec<(&'static str, Result<Probe, VmmError>)> {
        let first = self.chosen(DriverChoice::Auto);
        let mut all = vec![(first.name(), first.probe(kernel).await)];
        for other in [&*self.qemu, &*self.firecracker] {
            if other.name() != first.name() {
                all.push((other.name(), other.probe(kernel).await));
            }
        }
        all
    }

    async fn admits(&self, spec: &VmSpec) -> Result<(), VmmError> {
        self.chosen(spec.driver).admits(spec).await
    }

    async fn terms(
        &self,
        choice: DriverChoice,
        kernel: &KernelFiles,
        dir: &Utf8Path,
        disks: &[Disk],
    ) -> Result<Terms, VmmError> {
        self.chosen(choice).terms(choice, kernel, dir, disks).await
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<ProcessIdentity, VmmError> {
        self.chosen(spec.driver).launch(spec).await
    }

    async fn run_state(
        &self,
        vm: VmId,
        dir: &Utf8Path,
        deadline: Duration,
    ) -> Result<RunState, VmmError> {
        self.of(dir).run_state(vm, dir, deadline).await
    }

    async fn device_stats(
        &self,
        vm: VmId,
        dir: &Utf8Path,
    ) -> Result<Option<DeviceStats>, VmmError> {
        self.of(dir).device_stats(vm, dir).await
    }

    async fn pause(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        self.of(dir).pause(vm, dir).await
    }

    async fn resume(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        self.of(dir).resume(vm, dir).await
    }

    async fn power_button(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        self.of(dir).power_button(vm, dir).await
    }

    async fn quit(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        self.of(dir).quit(vm, dir).await
    }

    async fn disk_grown(&self, vm: VmId, dir: &Utf8Path, disk: &GrownDisk) -> Result<(), VmmError> {
        self.of(dir).disk_grown(vm, dir, disk).await
    }

    async fn panicked(&self, vm: VmId, dir: &Utf8Path) -> Result<bool, VmmError> {
        self.of(dir).panicked(vm, dir).await
    }

    async fn dump_memory(
        &self,
        vm: VmId,
        dir: &Utf8Path,
        file: &str,
        deadline: Duration,
    ) -> Result<(), VmmError> {
        self.of(dir).dump_memory(vm, dir, file, deadline).await
    }

    async fn kill(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        launch::kill(identity).await
    }

    async fn units(
        &self,
        installation: InstallationId,
        known: &BTreeMap<VmId, Utf8PathBuf>,
    ) -> Result<Vec<ObservedUnit>, VmmError> {
        // Both drivers launch in the same way.
        if !Launcher::Detect.makes_units() {
            return Ok(Vec::new());
        }
        let units = launch::survey_units(installation, known).await;
        units.map_err(|error| VmmError::Missing {
            what: "the list of units".to_owned(),
            detail: hearth_types::survey::chain(&error),
        })
    }

    async fn remove_unit(&self, unit: &ObservedUnit) -> Result<(), VmmError> {
        launch::remove_unit(unit.mark).await
    }

    async fn ensure_limits(
        &self,
        identity: &ProcessIdentity,
        dir: &Utf8Path,
    ) -> Result<(), VmmError> {
        launch::ensure_limits(identity, dir).await
    }

    async fn wait_dead(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        hearth_host::process::watch(identity.clone()).await;
        Ok(())
    }

    async fn agent(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        self.of(dir).agent(vm, dir).await
    }

    async fn qemu_agent(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        self.of(dir).qemu_agent(vm, dir).await
    }

    async fn console(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        self.of(dir).console(vm, dir).await
    }

    async fn exit_record(&self, dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError> {
        record::exit_record(dir).await
    }
}
