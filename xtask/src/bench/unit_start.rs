//! What a unit of its own costs: a VMM's start by systemd beside the same as a detached
//! process. The VMM is a stand-in, so that what is measured is the start and not QEMU's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::resources::Resources;
use hearth_types::spec::{CrashDump, DriverChoice, Machine};
use hearth_types::units::Bytes;
use hearth_vmm::qemu::{KvmMode, QemuConfig, QemuDriver};
use hearth_vmm::{KernelFiles, LaunchSpec, Launcher, LogLimits, Vmm};

use super::{Case, Context, Unit, rig};

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    rig::build_once()?;
    let folder = Utf8Path::from_path(&context.folder).context("the folder is not UTF-8")?;
    let kernel = folder.join("vmlinuz");
    // What a bzImage has for the stand-in to look at: its magic at 0x202.
    let mut image = vec![0; 4096];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    std::fs::write(&kernel, image)?;
    Ok(vec![
        case("in a unit of systemd", Launcher::Unit, folder)?,
        case("a detached process", Launcher::Direct, folder)?,
    ])
}

fn case(name: &str, launcher: Launcher, folder: &Utf8Path) -> anyhow::Result<Case> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let program = |name: &str| utf8(&rig::binary(name));
    let driver = Arc::new(QemuDriver::new(QemuConfig {
        binary: Some(program("hearth-vmm-standin")?),
        shim: Some(program("hearth-shim")?),
        probe_cache: None,
        kvm: KvmMode::Off,
        launcher,
    }));
    let folder = folder.to_owned();
    let installation = InstallationId::new();
    Ok(Case::measured(name, Unit::Seconds, move || {
        if launcher == Launcher::Unit && !Launcher::Detect.makes_units() {
            bail!("systemd is not the init here, or this is not root");
        }
        let spec = spec(&folder, installation)?;
        runtime.block_on(async {
            let begun = std::time::Instant::now();
            let identity = driver.launch(&spec).await?;
            let took = begun.elapsed();
            driver.kill(&identity).await?;
            let ended = driver.exit_record(&spec.dir).await?;
            ensure!(ended.is_some(), "the VMM left no record");
            Ok(took.as_secs_f64())
        })
    }))
}

fn utf8(path: &Path) -> anyhow::Result<Utf8PathBuf> {
    Utf8PathBuf::from_path_buf(path.to_owned())
        .ok()
        .context("a program's path is not UTF-8")
}

/// A VM with a folder of its own and no guest worth the name.
fn spec(folder: &Utf8Path, installation: InstallationId) -> anyhow::Result<LaunchSpec> {
    let vm = VmId::new();
    let dir = folder.join(vm.to_string());
    std::fs::create_dir(&dir)?;
    std::fs::write(dir.join("initrd"), "")?;
    Ok(LaunchSpec {
        vm,
        name: "bench".to_owned(),
        mark: OwnerMark::of_vm(installation, vm),
        vcpus: 1,
        memory: Bytes::mib(128),
        machine: Machine::Microvm,
        kernel: KernelFiles {
            bzimage: Some(folder.join("vmlinuz")),
            elf: None,
        },
        initramfs: dir.join("initrd"),
        cmdline: Vec::new(),
        disks: Vec::new(),
        nic: None,
        cid: 3,
        driver: DriverChoice::Qemu,
        resources: Resources::default(),
        stop_timeout: Duration::from_secs(10),
        user: None,
        qemu_agent: false,
        crash_dump: CrashDump::default(),
        console: LogLimits {
            max_bytes: 1 << 20,
            keep: 0,
        },
        dir,
    })
}
