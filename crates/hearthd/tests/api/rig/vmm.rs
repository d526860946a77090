//! The VMM in memory, with agents that are processes where a test wants one.

use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8Path;
use hearth_types::api::DeviceStats;
use hearth_types::ids::VmId;
use hearth_types::observe::RunState;
use hearth_types::process::{ExitRecord, ProcessIdentity};
use hearth_vmm::fake::FakeVmm;
use hearth_vmm::{KernelFiles, LaunchSpec, Probe, Stream, Vmm, VmmError};

use super::Agents;

#[derive(Default)]
pub(crate) struct RigVmm {
    pub(crate) fake: FakeVmm,
    pub(crate) agents: Agents,
}

#[async_trait]
impl Vmm for RigVmm {
    fn name(&self) -> &'static str {
        self.fake.name()
    }

    async fn probe(&self, kernel: Option<&KernelFiles>) -> Result<Probe, VmmError> {
        self.fake.probe(kernel).await
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<ProcessIdentity, VmmError> {
        self.fake.launch(spec).await
    }

    async fn run_state(
        &self,
        vm: VmId,
        dir: &Utf8Path,
        deadline: Duration,
    ) -> Result<RunState, VmmError> {
        self.fake.run_state(vm, dir, deadline).await
    }

    async fn device_stats(
        &self,
        vm: VmId,
        dir: &Utf8Path,
    ) -> Result<Option<DeviceStats>, VmmError> {
        self.fake.device_stats(vm, dir).await
    }

    async fn pause(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        self.fake.pause(vm, dir).await
    }

    async fn resume(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        self.fake.resume(vm, dir).await
    }

    async fn power_button(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        self.fake.power_button(vm, dir).await
    }

    async fn quit(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        self.fake.quit(vm, dir).await
    }

    async fn kill(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        self.fake.kill(identity).await
    }

    async fn wait_dead(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        self.fake.wait_dead(identity).await
    }

    async fn agent(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        self.agents
            .connect(dir)
            .await
            .map_err(|detail| VmmError::Control {
                vm,
                command: "connect to the agent".to_owned(),
                detail,
            })
    }

    async fn console(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        self.fake.console(vm, dir).await
    }

    async fn exit_record(&self, dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError> {
        self.fake.exit_record(dir).await
    }
}
