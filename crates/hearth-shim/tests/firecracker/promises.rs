//! What the contract of all drivers does not ask: the fences, and what stays when the shim goes.

use super::*;

pub(crate) async fn survives_its_shim(vms: &Vms) {
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let mut shims = survey(vms.installation).unwrap();
    shims.retain(|process| process.role == ProcessRole::Shim);
    let shim = prove(&shims[0].identity).unwrap();
    shim.signal(Signal::KILL).unwrap();
    shim.wait_dead(STEP).await.unwrap();
    if vms.pauses {
        vms.driver.pause(spec.vm, &spec.dir).await.unwrap();
        assert_eq!(vms.state(&spec).await, RunState::Paused);
        vms.driver.resume(spec.vm, &spec.dir).await.unwrap();
    }
    assert_eq!(vms.state(&spec).await, RunState::Running);
    let found = survey(vms.installation).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].identity, identity);
    vms.driver.kill(&identity).await.unwrap();
    let again = vms.driver.launch(&spec).await.unwrap();
    vms.driver.kill(&again).await.unwrap();
}

fn status(identity: &ProcessIdentity, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", identity.pid)).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap().trim().replace('\t', " ")
}

pub(crate) async fn has_no_privileges(vms: &Vms) {
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let same = [UID; 4].map(|uid| uid.to_string()).join(" ");
    assert_eq!(status(&identity, "Uid:"), same);
    assert_eq!(status(&identity, "Gid:"), same);
    assert_eq!(status(&identity, "CapPrm:"), "0000000000000000");
    assert_eq!(status(&identity, "CapBnd:").len(), 16);
    assert_eq!(status(&identity, "NoNewPrivs:"), "1");
    if !vms.standin {
        assert_eq!(status(&identity, "Seccomp:"), "2", "its filter is on");
    }
    vms.driver.kill(&identity).await.unwrap();
}

pub(crate) async fn sees_nothing_of_the_host(vms: &Vms) {
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let root = Utf8PathBuf::from(format!("/proc/{}/root", identity.pid));
    let mut names: Vec<String> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // A program that is not static comes with the host's libraries, to be read only.
        .filter(|name| !["usr", "lib", "lib64", "etc"].contains(&name.as_str()))
        .collect();
    names.sort();
    let program = Utf8Path::new(&identity.exe).file_name().unwrap();
    let mut expected = [
        "data.img", "dev", "initrd", "root.img", "run", "vmlinux", program,
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    for (file, writable) in [("root.img", true), ("data.img", false), ("vmlinux", false)] {
        // As root, only the mount itself can refuse.
        let opened = std::fs::File::options().write(true).open(root.join(file));
        assert_eq!(opened.is_ok(), writable, "{file}: {opened:?}");
    }
    let there = std::fs::metadata(root.join("root.img")).unwrap();
    let here = std::fs::metadata(spec.dir.join("root.img")).unwrap();
    assert_eq!((there.dev(), there.ino()), (here.dev(), here.ino()));
    let devices: Vec<_> = std::fs::read_dir(root.join("dev")).unwrap().collect();
    assert_eq!(devices.len(), 1, "without a network, only KVM: {devices:?}");
    for namespace in ["mnt", "ipc", "uts"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of("self"), of(&identity.pid.to_string()), "{namespace}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&spec.vm.to_string()), "{mounts}");
    vms.driver.kill(&identity).await.unwrap();
    std::fs::remove_dir_all(&spec.dir).unwrap();
}

pub(crate) async fn a_stopped_one_keeps_nobody_waiting(vms: &Vms) {
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    prove(&identity).unwrap().signal(Signal::STOP).unwrap();
    let short = Duration::from_millis(200);
    for _ in 0..20 {
        // More often than it takes connections.
        let asked = vms.driver.run_state(spec.vm, &spec.dir, short / 20).await;
        asked.unwrap_err();
    }
    prove(&identity).unwrap().signal(Signal::CONT).unwrap();
    assert_eq!(vms.state(&spec).await, RunState::Running);
    vms.driver.kill(&identity).await.unwrap();
}

pub(crate) async fn figures(vms: &Vms) {
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let work = async {
        loop {
            // The shim takes them from a pipe.
            let figures = vms.driver.device_stats(spec.vm, &spec.dir).await.unwrap();
            if let Some(figures) = figures {
                return figures;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let figures = tokio::time::timeout(STEP, work).await.unwrap();
    assert!(figures.net_rx_bytes.is_some(), "{figures:?}");
    assert_eq!(figures.seccomp_faults, Some(0));
    vms.driver.kill(&identity).await.unwrap();
}

pub(crate) async fn a_mark_of_the_run_before_does_not_count(vms: &Vms) {
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    assert!(spec.dir.join("launched").exists());
    vms.driver.kill(&identity).await.unwrap();
    let mut broken = spec.clone();
    broken.disks[0].file = "absent.img".to_owned();
    vms.driver.launch(&broken).await.unwrap_err();
    assert!(!spec.dir.join("launched").exists());
}
