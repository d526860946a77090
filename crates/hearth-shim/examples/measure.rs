//! Measures what a launch costs beside QEMU's own time, what shims and stand-ins weigh, and
//! how long a survey takes: `measure <folder of the shim> [kernel] [count]`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for the bench: it prints, and a failure ends it"
)]

use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::observe::ProcessRole;
use hearth_types::spec::Machine;
use hearth_types::units::Bytes;
use hearth_vmm::qemu::{KvmMode, QemuConfig, QemuDriver};
use hearth_vmm::{Disk, KernelFiles, LaunchSpec, Launcher, LogLimits, Vmm};

fn spec(root: &Utf8Path, installation: InstallationId, kernel: &Utf8Path) -> LaunchSpec {
    let vm = VmId::new();
    let dir = root.join(vm.to_string());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("initrd"), [0; 512]).unwrap();
    std::fs::write(dir.join("root.img"), [0; 4096]).unwrap();
    LaunchSpec {
        vm,
        name: "measure".to_owned(),
        mark: OwnerMark::of_vm(installation, vm),
        vcpus: 1,
        memory: Bytes::mib(256),
        machine: Machine::Microvm,
        kernel: KernelFiles {
            bzimage: Some(kernel.to_owned()),
            elf: None,
        },
        initramfs: dir.join("initrd"),
        cmdline: vec!["panic=0".to_owned()],
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
            max_bytes: 1 << 20,
            keep: 1,
        },
        dir,
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn rss_kib(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (field("Rss:"), field("Pss:"))
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

async fn launches(name: &str, driver: &QemuDriver, root: &Utf8Path, kernel: &Utf8Path) {
    let installation = InstallationId::new();
    let (mut launches, mut deaths) = (Vec::new(), Vec::new());
    for _ in 0..21 {
        let spec = spec(root, installation, kernel);
        let begun = Instant::now();
        let identity = driver.launch(&spec).await.unwrap();
        launches.push(begun.elapsed());
        let watcher = tokio::spawn(hearth_host::process::watch(identity.clone()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let begun = Instant::now();
        hearth_host::process::prove(&identity)
            .unwrap()
            .signal(hearth_host::process::Signal::KILL)
            .unwrap();
        watcher.await.unwrap();
        deaths.push(begun.elapsed());
    }
    println!("{name}: launch to answered {:?}", median(launches));
    println!("{name}: SIGKILL to noticed {:?}", median(deaths));
}

async fn scale(driver: &QemuDriver, root: &Utf8Path, kernel: &Utf8Path, count: usize) {
    let installation = InstallationId::new();
    let begun = Instant::now();
    let mut identities = Vec::new();
    for _ in 0..count {
        let spec = spec(root, installation, kernel);
        identities.push(driver.launch(&spec).await.unwrap());
    }
    println!(
        "{count} stand-ins launched one by one in {:?}",
        begun.elapsed()
    );
    let surveys = (0..11).map(|_| {
        let begun = Instant::now();
        let found = hearth_host::process::survey(installation).unwrap();
        assert_eq!(found.len(), 2 * count);
        begun.elapsed()
    });
    let took = median(surveys.collect());
    let cpu = cpu_time();
    hearth_host::process::survey(installation).unwrap();
    let cpu = cpu_time() - cpu;
    println!(
        "survey of {} processes of ours: {took:?}, of that processor {cpu:?}",
        2 * count
    );
    let found = hearth_host::process::survey(installation).unwrap();
    for role in [ProcessRole::Shim, ProcessRole::Vmm] {
        let one = found.iter().find(|process| process.role == role).unwrap();
        let (rss, pss) = rss_kib(one.identity.pid);
        println!("{role:?}: RSS {rss} KiB, PSS {pss} KiB");
    }
    let begun = Instant::now();
    for identity in &identities {
        driver.kill(identity).await.unwrap();
    }
    println!("{count} killed in {:?}", begun.elapsed());
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<Utf8PathBuf> = std::env::args().skip(1).map(Utf8PathBuf::from).collect();
    let count = args
        .get(2)
        .map_or(100, |count| count.as_str().parse().unwrap());
    let root = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(root.path()).unwrap();
    let config = |binary, launcher| QemuConfig {
        binary,
        shim: Some(args[0].join("hearth-shim")),
        probe_cache: None,
        kvm: KvmMode::Off,
        launcher,
    };
    let program = Some(args[0].join("hearth-vmm-standin"));
    let standin = QemuDriver::new(config(program.clone(), Launcher::Direct));
    let stub = root.join("kernel");
    let mut image = vec![0; 4096];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    std::fs::write(&stub, image).unwrap();
    launches("stand-in", &standin, root, &stub).await;
    if Launcher::Detect.makes_units() {
        let in_units = QemuDriver::new(config(program, Launcher::Unit));
        launches("stand-in in a unit", &in_units, root, &stub).await;
    } else {
        println!("SKIP: systemd is not the init here, or this is not root: no units");
    }
    if let Some(kernel) = args.get(1) {
        let qemu = QemuDriver::new(config(None, Launcher::Detect));
        launches("QEMU", &qemu, root, kernel).await;
    }
    scale(&standin, root, &stub, count).await;
}
