use camino::Utf8PathBuf;
use hearth_shim::{Cage, PassedTap};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::resources::Resources;
use hearth_types::spec::Machine;
use hearth_types::units::Bytes;

use super::*;
use crate::{KernelFiles, LogLimits};

const VERSION: u32 = 252;

fn spec(dir: &str) -> LaunchSpec {
    let vm = VmId::new();
    LaunchSpec {
        vm,
        name: "web".to_owned(),
        mark: OwnerMark::of_vm(InstallationId::new(), vm),
        dir: dir.into(),
        vcpus: 2,
        memory: Bytes::mib(512),
        machine: Machine::Microvm,
        kernel: KernelFiles {
            bzimage: None,
            elf: None,
        },
        initramfs: Utf8PathBuf::from(dir).join("initrd"),
        cmdline: Vec::new(),
        disks: Vec::new(),
        nic: None,
        cid: 3,
        driver: hearth_types::spec::DriverChoice::Auto,
        resources: Resources::default(),
        stop_timeout: Duration::from_secs(10),
        user: Some(200_001),
        qemu_agent: false,
        crash_dump: hearth_types::spec::CrashDump::default(),
        console: LogLimits {
            max_bytes: 1 << 20,
            keep: 1,
        },
    }
}

fn request(spec: &LaunchSpec) -> Request {
    let request = serde_json::json!({
        "vm": spec.vm,
        "mark": spec.mark,
        "dir": spec.dir,
        "program": "/usr/bin/qemu-system-x86_64",
        "args": [],
        "files": [{ "name": "initrd", "path": spec.initramfs }],
        "sockets": [],
        "owned": [],
        "user": spec.user,
        "groups": [],
        "console_bytes": 0,
        "console_keep": 0,
        "max_millis": null,
    });
    serde_json::from_value(request).unwrap()
}

const NEEDS: fn() -> Needs = || Needs {
    devices: vec!["/dev/kvm"],
    makes_code: false,
    overhead: Bytes::mib(100),
    threads: 64,
};

fn properties(spec: &LaunchSpec, needs: &Needs) -> Vec<Property> {
    with(VERSION, spec, &request(spec), needs)
}

fn with(version: u32, spec: &LaunchSpec, request: &Request, needs: &Needs) -> Vec<Property> {
    let shim = Utf8Path::new("/usr/lib/hearth/hearth-shim");
    let used: Vec<_> = used(shim, request).map(Utf8Path::to_owned).collect();
    of(version, shim, spec, request, needs, &used)
}

fn get(all: &[Property], name: &str) -> Option<Setting> {
    let mut found = all.iter().filter(|property| property.name == name);
    let first = found.next().map(|property| property.value.clone());
    assert!(found.next().is_none(), "{name} stands there twice");
    first
}

#[test]
fn limits_follow_the_specification() {
    let mut spec = spec("/var/lib/hearth/vms/x");
    let plain = properties(&spec, &NEEDS());
    assert_eq!(
        get(&plain, "CPUQuotaPerSecUSec"),
        Some(Setting::Number(2_500_000))
    );
    assert_eq!(get(&plain, "MemoryMax"), Some(Setting::Number(612 << 20)));
    assert_eq!(get(&plain, "MemorySwapMax"), Some(Setting::Number(0)));
    assert_eq!(get(&plain, "TasksMax"), Some(Setting::Number(66)));
    assert_eq!(get(&plain, "OOMScoreAdjust"), Some(Setting::Signed(-1000)));
    for absent in ["CPUWeight", "IOWeight", "IOReadBandwidthMax", "MemoryHigh"] {
        assert_eq!(get(&plain, absent), None, "{absent}");
    }
    spec.resources = Resources {
        cpu_weight: Some(50),
        cpu_quota: Some(80),
        io_weight: Some(200),
        io_read_bps: Some(Bytes::mib(10)),
        io_write_bps: Some(Bytes::mib(5)),
        io_read_iops: Some(300),
        io_write_iops: Some(100),
        priority: Priority::High,
    };
    let limited = properties(&spec, &NEEDS());
    let on_disk = |limit| Some(Setting::Limits(vec![(spec.dir.to_string(), limit)]));
    for (name, value) in [
        ("CPUQuotaPerSecUSec", Some(Setting::Number(800_000))),
        ("CPUWeight", Some(Setting::Number(50))),
        ("IOWeight", Some(Setting::Number(200))),
        ("IOReadBandwidthMax", on_disk(10 << 20)),
        ("IOWriteBandwidthMax", on_disk(5 << 20)),
        ("IOReadIOPSMax", on_disk(300)),
        ("IOWriteIOPSMax", on_disk(100)),
    ] {
        assert_eq!(get(&limited, name), value, "{name}");
    }
}

#[test]
fn a_vmm_gets_what_it_needs_and_no_more() {
    let spec = spec("/var/lib/hearth/vms/x");
    let text = |value: &str| Some(Setting::Text(value.to_owned()));
    let device = |name: &str| (name.to_owned(), "rw".to_owned());
    let all = properties(&spec, &NEEDS());
    assert_eq!(
        get(&all, "ReadWritePaths"),
        Some(Setting::Texts(vec![spec.dir.to_string()]))
    );
    assert_eq!(get(&all, "ProtectHome"), text("yes"));
    assert_eq!(get(&all, "PrivateTmp"), Some(Setting::Flag(true)));
    assert_eq!(
        get(&all, "DeviceAllow"),
        Some(Setting::Pairs(vec![device("/dev/kvm")]))
    );
    assert_eq!(
        get(&all, "MemoryDenyWriteExecute"),
        Some(Setting::Flag(true))
    );
    // chown, dac_read_search, kill, setgid, setuid; sys_resource
    assert_eq!(
        get(&all, "CapabilityBoundingSet"),
        Some(Setting::Number(0b1110_0101 | 1 << 24))
    );
    let emulated = Needs {
        devices: Vec::new(),
        makes_code: true,
        ..NEEDS()
    };
    let mut with_tap = request(&spec);
    with_tap.taps = vec![PassedTap {
        name: "tap".to_owned(),
        interface: "ht0".to_owned(),
    }];
    let all = with(VERSION, &spec, &with_tap, &emulated);
    assert_eq!(
        get(&all, "DeviceAllow"),
        Some(Setting::Pairs(vec![device("/dev/net/tun")]))
    );
    assert_eq!(
        get(&all, "MemoryDenyWriteExecute"),
        Some(Setting::Flag(false))
    );
    let as_daemon = LaunchSpec { user: None, ..spec };
    assert_eq!(
        get(&properties(&as_daemon, &NEEDS()), "CapabilityBoundingSet"),
        Some(Setting::Number(0))
    );
}

#[test]
fn nothing_that_is_used_is_hidden() {
    for (dir, home, temporary) in [
        ("/srv/hearth", "yes", true),
        ("/run/hearth/vms", "yes", true),
        ("/home/me/hearth", "read-only", true),
        ("/rootfs", "yes", true),
        ("/root/hearth", "read-only", true),
        ("/tmp/hearth", "yes", false),
        ("/var/tmp/hearth", "yes", false),
    ] {
        let all = properties(&spec(dir), &NEEDS());
        assert_eq!(
            get(&all, "ProtectHome"),
            Some(Setting::Text(home.to_owned())),
            "{dir}"
        );
        assert_eq!(
            get(&all, "PrivateTmp"),
            Some(Setting::Flag(temporary)),
            "{dir}"
        );
        let Some(Setting::Texts(hidden)) = get(&all, "InaccessiblePaths") else {
            panic!("no hidden paths");
        };
        assert_eq!(
            hidden.contains(&"-/run/hearth".to_owned()),
            !dir.starts_with("/run"),
            "{dir}"
        );
    }
}

#[test]
fn old_systemd_is_not_asked_for_what_it_does_not_know() {
    let spec = spec("/srv/x");
    let at = |version| with(version, &spec, &request(&spec), &NEEDS());
    assert_eq!(
        get(&at(250), "ExitType"),
        Some(Setting::Text("cgroup".to_owned()))
    );
    assert_eq!(get(&at(249), "ExitType"), None);
}

#[test]
fn the_journal_knows_whose_line_it_is() {
    let spec = spec("/srv/x");
    let all = properties(&spec, &NEEDS());
    let Some(Setting::Fields(fields)) = get(&all, "LogExtraFields") else {
        panic!("no fields");
    };
    assert!(fields.contains(&"HEARTH_VM_NAME=web".to_owned()));
    assert!(fields.contains(&format!("HEARTH_VM_ID={}", spec.vm)));
    assert_eq!(
        get(&all, "SyslogLevelPrefix"),
        Some(Setting::Flag(false)),
        "a guest's \"<0>\" would be an emergency on every terminal"
    );
}

#[test]
fn a_cage_is_made_with_more_rights_of_the_shim() {
    let spec = spec("/srv/x");
    let mut caged = request(&spec);
    caged.cage = Some(Cage {
        devices: vec!["kvm".to_owned()],
        ..Cage::default()
    });
    let needs = Needs {
        devices: Vec::new(),
        ..NEEDS()
    };
    let all = with(VERSION, &spec, &caged, &needs);
    assert_eq!(
        get(&all, "DeviceAllow"),
        Some(Setting::Pairs(vec![(
            "/dev/kvm".to_owned(),
            "rwm".to_owned()
        )]))
    );
    assert_eq!(
        get(&all, "CapabilityBoundingSet"),
        Some(Setting::Number(0b1110_0101 | 1 << 24 | 1 << 21 | 1 << 27))
    );
    assert_eq!(
        get(&all, "RestrictNamespaces"),
        Some(Setting::Number(0x0c02_0000))
    );
}

#[test]
fn a_stop_reaches_the_shim_alone_and_waits_for_all_of_its_deadlines() {
    let mut spec = spec("/var/lib/hearth/vms/x");
    spec.stop_timeout = Duration::from_secs(100);
    let all = service(VERSION, Utf8Path::new("/shim"), &spec, &request(&spec));
    let value = |name: &str| {
        let found = all.iter().find(|property| property.name == name);
        found.map(|property| property.value.clone())
    };
    assert_eq!(value("KillMode"), Some(Setting::Text("mixed".to_owned())));
    // 100 s for the workload, 5 for the guest, 15 for the VMM, 10 for the record.
    assert_eq!(value("TimeoutStopUSec"), Some(Setting::Number(130_000_000)));
    let Some(Setting::Texts(after)) = value("After") else {
        unreachable!("no order");
    };
    assert!(after.contains(&"network.target".to_owned()), "{after:?}");
}

#[test]
fn a_vmm_goes_for_want_of_memory_by_its_priority() {
    let scores = [Priority::Low, Priority::Normal, Priority::High].map(oom_score);
    assert_eq!(scores, [800, 400, 0]);
}
