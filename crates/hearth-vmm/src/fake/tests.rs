//! The contract, and that faults do what they say.

use hearth_types::OwnerMark;
use hearth_types::ids::InstallationId;
use hearth_types::spec::Machine as MachineModel;
use hearth_types::units::Bytes;

use super::*;
use crate::contract::{self, Fixture};
use crate::{Disk, LogLimits};

struct Fakes {
    vmm: FakeVmm,
    root: tempfile::TempDir,
}

#[async_trait]
impl Fixture for Fakes {
    fn vmm(&self) -> &dyn Vmm {
        &self.vmm
    }

    async fn spec(&self) -> LaunchSpec {
        let vm = VmId::new();
        let dir = Utf8Path::from_path(self.root.path())
            .unwrap()
            .join(vm.to_string());
        std::fs::create_dir(&dir).unwrap();
        let mut kernel = vec![0; 4096];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        std::fs::write(dir.join("vmlinuz"), kernel).unwrap();
        std::fs::write(dir.join("initrd"), "").unwrap();
        std::fs::write(dir.join("root.img"), "").unwrap();
        LaunchSpec {
            vm,
            name: "test".to_owned(),
            mark: OwnerMark::of_vm(InstallationId::new(), vm),
            vcpus: 1,
            memory: Bytes::mib(128),
            machine: MachineModel::Microvm,
            kernel: KernelFiles {
                bzimage: Some(dir.join("vmlinuz")),
                elf: None,
            },
            initramfs: dir.join("initrd"),
            cmdline: Vec::new(),
            disks: vec![Disk {
                file: "root.img".to_owned(),
                serial: "root".to_owned(),
                read_only: false,
                device: None,
                lent: false,
            }],
            nic: None,
            cid: 3,
            driver: hearth_types::spec::DriverChoice::Auto,
            resources: hearth_types::resources::Resources::default(),
            stop_timeout: Duration::from_secs(10),
            user: None,
            qemu_agent: false,
            crash_dump: hearth_types::spec::CrashDump::default(),
            console: LogLimits {
                max_bytes: 1000,
                keep: 1,
            },
            dir,
        }
    }

    fn guest_reports(&self) -> bool {
        true
    }

    fn console_echoes(&self) -> bool {
        true
    }

    fn has_processes(&self) -> bool {
        false
    }
}

fn fakes() -> Fakes {
    Fakes {
        vmm: FakeVmm::new(),
        root: tempfile::tempdir().unwrap(),
    }
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    contract::all(&fakes()).await;
}

#[tokio::test]
async fn faults_happen_once_and_as_told() {
    let fakes = fakes();
    let spec = fakes.spec().await;
    let vmm = &fakes.vmm;
    vmm.inject(Call::Launch, Fault::Fails("no memory".to_owned()));
    vmm.inject(Call::Launch, Fault::FailsAfter("lost answer".to_owned()));
    let error = vmm.launch(&spec).await.unwrap_err();
    assert!(error.to_string().contains("no memory"));
    assert_eq!(vmm.alive(), []);
    vmm.launch(&spec).await.unwrap_err();
    let identity = vmm.alive().pop().unwrap();

    vmm.inject(Call::Quit, Fault::Ignored);
    vmm.quit(spec.vm, &spec.dir).await.unwrap();
    assert_eq!(vmm.alive(), std::slice::from_ref(&identity));

    vmm.inject(Call::RunState, Fault::Hangs);
    let asked = vmm
        .run_state(spec.vm, &spec.dir, Duration::from_millis(10))
        .await;
    assert!(matches!(asked, Err(VmmError::Control { .. })));

    vmm.inject(Call::Pause, Fault::Dies);
    vmm.pause(spec.vm, &spec.dir).await.unwrap_err();
    vmm.wait_dead(&identity).await.unwrap();
    let record = vmm.exit_record(&spec.dir).await.unwrap().unwrap();
    assert_eq!(record.vmm, ProcessExit::Signal(11));
}

#[tokio::test]
async fn guests_end_with_their_report() {
    let fakes = fakes();
    let spec = fakes.spec().await;
    let identity = fakes.vmm.launch(&spec).await.unwrap();
    let report = GuestReport {
        exit: Some(ProcessExit::Code(3)),
        reason: "exited".to_owned(),
        message: None,
    };
    fakes.vmm.guest_ends(spec.vm, report.clone());
    fakes.vmm.wait_dead(&identity).await.unwrap();
    let record = fakes.vmm.exit_record(&spec.dir).await.unwrap().unwrap();
    assert_eq!(record.guest, Some(report));
}
