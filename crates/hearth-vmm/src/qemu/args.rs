//! QEMU's command line.
//!
//! All paths are relative to the VM's folder or file descriptors that the shim passes, so
//! QEMU needs no permission on any folder above its own after it has lost its privileges.
//! `{fd:NAME}` is filled in by the shim.

use hearth_shim::{AgentSocket, PassedFile, PassedSocket, PassedTap, REPORT, Request, Stop, Words};
use hearth_types::spec::Machine;
use hearth_types::units::MIB;

use crate::{Disk, LaunchSpec, VmmError};

/// QMP's socket within the VM's folder.
pub(super) const QMP_SOCKET: &str = "qmp.sock";
/// The socket of the agent's virtio-serial port within the VM's folder.
pub(super) const AGENT_SOCKET: &str = "agent.sock";
/// The agent's virtio-serial port.
pub(super) const AGENT_PORT: &str = "org.hearth.agent";
/// The socket of the port of QEMU's guest agent within the VM's folder.
pub(super) const QEMU_AGENT_SOCKET: &str = "qga.sock";
/// The virtio-serial port that QEMU's guest agent listens on by default.
pub const QEMU_AGENT_PORT: &str = "org.qemu.guest_agent.0";
/// The virtio-serial port for the guest's exit report.
pub(super) const REPORT_PORT: &str = "org.hearth.report";

/// Memory for translated code under emulation, in MiB. A Linux boot translates some 60; a
/// full buffer is thrown away and costs time, not correctness.
pub(super) const CODE_BUFFER_MIB: u64 = 256;

/// With what guest code is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// Hardware virtualisation, with the groups that may open its device.
    Kvm { groups: Vec<u32> },
    /// Emulation. The frequency of the host's clock in kHz goes to the guest: a microvm has
    /// no HPET and no PM timer, and the kernel's own calibration against the PIT fails at
    /// random under emulation, after which the guest spins for ever.
    Tcg { khz: Option<u64> },
}

impl Accelerator {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Kvm { .. } => "kvm",
            Self::Tcg { .. } => "tcg",
        }
    }
}

/// The request to the shim for one VM.
pub(super) fn request(
    spec: &LaunchSpec,
    program: &camino::Utf8Path,
    accelerator: &Accelerator,
) -> Result<Request, VmmError> {
    check(spec)?;
    let kernel = spec
        .kernel
        .bzimage
        .clone()
        .ok_or_else(|| VmmError::Missing {
            what: "a bzImage".to_owned(),
            detail: "the kernel of this VM has none, and QEMU boots no other; import it again"
                .to_owned(),
        })?;
    let passed = |name: &str, path| PassedFile {
        name: name.to_owned(),
        path,
    };
    let socket = |name: &str, file: &str| PassedSocket {
        name: name.to_owned(),
        file: file.to_owned(),
    };
    let names = |which: fn(&&Disk) -> bool| {
        let disks = spec.disks.iter().filter(which);
        disks.map(|disk| disk.file.clone()).collect()
    };
    Ok(Request {
        vm: spec.vm,
        mark: spec.mark,
        dir: spec.dir.clone(),
        program: program.to_owned(),
        args: arguments(spec, accelerator),
        files: vec![
            passed("kernel", kernel),
            passed("initrd", spec.initramfs.clone()),
        ],
        taps: spec
            .nic
            .iter()
            .map(|nic| PassedTap {
                name: "tap".to_owned(),
                interface: nic.tap.clone(),
            })
            .collect(),
        sockets: [
            Some(socket("qmp", QMP_SOCKET)),
            Some(socket("agent", AGENT_SOCKET)),
            spec.qemu_agent.then(|| socket("qga", QEMU_AGENT_SOCKET)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        owned: names(|disk| !disk.lent),
        lent: names(|disk| disk.lent),
        user: spec.user,
        groups: match accelerator {
            Accelerator::Kvm { groups } => groups.clone(),
            Accelerator::Tcg { .. } => Vec::new(),
        },
        oom_score: None,
        core_bytes: spec.crash_dump.core_bytes(),
        console_bytes: spec.console.max_bytes,
        console_keep: spec.console.keep,
        max_millis: None,
        driver: Some("qemu".to_owned()),
        caller: None,
        cage: None,
        stop: Some(stop(spec)),
    })
}

/// How the guest is asked to go down by its shim. One that is paused has to go on first.
fn stop(spec: &LaunchSpec) -> Stop {
    let commands = ["qmp_capabilities", "cont", "system_powerdown"];
    Stop {
        patience_millis: u64::try_from(spec.stop_timeout.as_millis()).unwrap_or(u64::MAX),
        agent: Some(AgentSocket {
            socket: AGENT_SOCKET.to_owned(),
            vsock_port: None,
        }),
        words: vec![Words {
            name: "system_powerdown".to_owned(),
            socket: QMP_SOCKET.to_owned(),
            text: commands
                .map(|command| format!("{{\"execute\":\"{command}\"}}\n"))
                .concat(),
            until: "\"return\"".to_owned(),
            answers: commands.len(),
        }],
    }
}

/// Refuses what would change the meaning of an argument. QEMU splits option values at
/// commas; names of ours never hold any.
fn check(spec: &LaunchSpec) -> Result<(), VmmError> {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let refused = |what: String, detail: &str| {
        Err(VmmError::Start {
            vm: spec.vm,
            detail: format!("{what} {detail}"),
        })
    };
    if !plain(&spec.name) {
        return refused(format!("the name {:?}", spec.name), "is not a plain name");
    }
    for disk in &spec.disks {
        if !plain(&disk.file) || disk.file.starts_with('.') {
            return refused(
                format!("the disk file {:?}", disk.file),
                "is not a file name",
            );
        }
        // VIRTIO_BLK_ID_BYTES is 20 (linux/virtio_blk.h).
        if !plain(&disk.serial) || disk.serial.len() > 20 {
            return refused(
                format!("the disk serial {:?}", disk.serial),
                "must have 1 to 20 plain characters",
            );
        }
    }
    match &spec.nic {
        Some(nic) if !plain(&nic.tap) => {
            refused(format!("the TAP {:?}", nic.tap), "is not an interface name")
        }
        _ => Ok(()),
    }
}

fn arguments(spec: &LaunchSpec, accelerator: &Accelerator) -> Vec<String> {
    let mut args = Args(Vec::with_capacity(64));
    args.flag("-name")
        .value(format!("guest={},process=hearth-vm", spec.name));
    args.flag("-uuid").value(spec.vm.to_string());
    machine(&mut args, spec.machine, accelerator);
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        args.flag(flag);
    }
    if spec.crash_dump.guest_memory {
        // Its guest's kernel says so by this device when it panics, and is kept as it is then.
        args.flag("-device").value("pvpanic");
        args.flag("-action").value("panic=pause");
    }
    args.flag("-display").value("none");
    args.flag("-sandbox").value(
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
    );
    args.flag("-smp").value(spec.vcpus.to_string());
    args.flag("-m")
        .value(format!("{}M", spec.memory.0.div_ceil(MIB)));
    // QEMU opens both with a plain fopen: by descriptor, the path above does not matter.
    args.flag("-kernel").value("/proc/self/fd/{fd:kernel}");
    args.flag("-initrd").value("/proc/self/fd/{fd:initrd}");
    args.flag("-append").value(command_line(spec, accelerator));
    let bus = match spec.machine {
        Machine::Microvm => "device",
        Machine::Q35 => "pci",
    };
    disks(&mut args, spec, bus);
    network(&mut args, spec, bus);
    channels(&mut args, spec, bus);
    args.0
}

fn machine(args: &mut Args, machine: Machine, accelerator: &Accelerator) {
    let accel = match accelerator {
        Accelerator::Kvm { .. } => "kvm".to_owned(),
        // QEMU's own default is up to 1 GiB, which no limit of the VM's memory could foresee.
        Accelerator::Tcg { .. } => format!("tcg,thread=multi,tb-size={CODE_BUFFER_MIB}"),
    };
    args.flag("-accel").value(accel);
    args.flag("-machine").value(match machine {
        // acpi=on: Debian's kernel finds the devices in no other way, and powers off by it.
        Machine::Microvm => "microvm,acpi=on,rtc=on,pcie=off,usb=off",
        Machine::Q35 => "q35,usb=off,sata=off,smbus=off,vmport=off",
    });
    args.flag("-cpu").value(match accelerator {
        Accelerator::Kvm { .. } => "host",
        Accelerator::Tcg { .. } => "max",
    });
}

fn command_line(spec: &LaunchSpec, accelerator: &Accelerator) -> String {
    // noaux, nokbd: most of a second is spent on looking for a keyboard otherwise.
    let mut words = vec!["console=ttyS0 panic=-1 quiet i8042.noaux i8042.nokbd".to_owned()];
    if let Accelerator::Tcg { khz: Some(khz) } = accelerator {
        words.push(format!("tsc_early_khz={khz}"));
    }
    words.extend(spec.cmdline.iter().cloned());
    words.join(" ")
}

/// Write-back with the host's page cache: a guest's flush is an fdatasync on the host, so
/// what the guest was told is durable is durable, and page cache is shared. Discard frees
/// space in the file. The image lock refuses a second writer.
///
/// A write that finds no room stops the guest until it is told to go on, and is made again
/// then; the guest is told any other failure, as a disk of iron would tell it.
fn disks(args: &mut Args, spec: &LaunchSpec, bus: &str) {
    for (number, disk) in spec.disks.iter().enumerate() {
        let read_only = if disk.read_only { "on" } else { "off" };
        // A device is no file to QEMU, whatever its path; discards reach the pool that it is in.
        let driver = match disk.device {
            Some(_) => "host_device",
            None => "file",
        };
        args.flag("-blockdev").value(format!(
            "driver=raw,node-name=disk{number},read-only={read_only},discard=unmap,\
             file.driver={driver},file.filename={},file.locking=on,file.aio=threads,\
             cache.direct=off,cache.no-flush=off",
            disk.file
        ));
        args.flag("-device").value(format!(
            "virtio-blk-{bus},drive=disk{number},serial={},write-cache=on,\
             werror=enospc,rerror=report",
            disk.serial
        ));
    }
}

fn network(args: &mut Args, spec: &LaunchSpec, bus: &str) {
    let Some(nic) = &spec.nic else {
        return;
    };
    // The shim has attached to the TAP. vhost would need /dev/vhost-net, which the VMM's uid
    // may not open.
    args.flag("-netdev")
        .value("tap,id=net0,fd={fd:tap},vhost=off");
    // romfile: no boot from the network.
    let rom = if bus == "pci" { ",romfile=" } else { "" };
    args.flag("-device")
        .value(format!("virtio-net-{bus},netdev=net0,mac={}{rom}", nic.mac));
}

fn channels(args: &mut Args, spec: &LaunchSpec, bus: &str) {
    args.flag("-object")
        .value("rng-random,id=rng0,filename=/dev/urandom");
    args.flag("-device")
        .value(format!("virtio-rng-{bus},rng=rng0"));
    args.flag("-device")
        .value(format!("virtio-serial-{bus},id=serial0,max_ports=4"));
    let socket = |name: &str| format!("socket,id={name},fd={{fd:{name}}},server=on,wait=off");
    args.flag("-chardev").value(socket("agent"));
    args.flag("-device").value(format!(
        "virtserialport,bus=serial0.0,nr=1,chardev=agent,name={AGENT_PORT}"
    ));
    // Output only: with a chardev that also reads, QEMU would read back what it wrote.
    args.flag("-add-fd")
        .value(format!("fd={{fd:{REPORT}}},set=1"));
    // append: QEMU truncates the file otherwise, which a pipe refuses.
    args.flag("-chardev")
        .value("file,id=report,path=/dev/fdset/1,append=on");
    args.flag("-device").value(format!(
        "virtserialport,bus=serial0.0,nr=2,chardev=report,name={REPORT_PORT}"
    ));
    if spec.qemu_agent {
        args.flag("-chardev").value(socket("qga"));
        args.flag("-device").value(format!(
            "virtserialport,bus=serial0.0,nr=3,chardev=qga,name={QEMU_AGENT_PORT}"
        ));
    }
    args.flag("-chardev").value("stdio,id=console,signal=off");
    args.flag("-serial").value("chardev:console");
    args.flag("-chardev").value(socket("qmp"));
    args.flag("-mon").value("chardev=qmp,mode=control");
}

struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn value(&mut self, value: impl Into<String>) {
        self.0.push(value.into());
    }
}
