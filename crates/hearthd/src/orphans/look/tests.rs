use std::path::Path;

use hearth_types::OwnerMark;
use hearth_types::names::unit_name;

use super::*;

/// A data folder and a kernel that tells what a test wants.
struct Stage {
    dir: tempfile::TempDir,
    scene: Scene,
}

fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
    let places = Places {
        block: root.join("block"),
        mounts: root.join("mountinfo"),
        namespaces: root.join("netns"),
        processes: "/proc".into(),
    };
    for folder in ["data/vms", "block", "netns"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::write(&places.mounts, "").unwrap();
    let scene = Scene {
        paths: Paths::new(root.join("data")),
        living: Living {
            known: true,
            ..Living::default()
        },
        desired: BTreeMap::new(),
        strangers: Vec::new(),
        old_logs: 1,
        places,
    };
    Stage { dir, scene }
}

impl Stage {
    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Every object found, all kinds having been seen.
    fn found(&self) -> Vec<Orphan> {
        let found = self.scene.beyond();
        assert_eq!(found.unknown, Vec::<String>::new());
        found.items
    }

    fn the(&self, kind: OrphanKind) -> Orphan {
        let mut found = self.found();
        found.retain(|orphan| orphan.kind == kind);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn web(&mut self) -> VmId {
        let vm = VmId::new();
        let wanted = Wanted {
            name: "web".to_owned(),
            volumes: ["data".to_owned()].into(),
        };
        self.scene.desired.insert(vm, wanted);
        vm
    }
}

fn data(stage: &Stage) -> &Path {
    stage.scene.paths.data().as_std_path()
}

#[test]
fn what_cannot_be_read_is_unknown_for_its_kind_and_no_other() {
    let mut stage = stage();
    stage.put("netns/hearth-test", "");
    let missing = Utf8PathBuf::from("/nowhere/at/all");
    stage.scene.places.mounts = missing;
    let file = stage.scene.places.namespaces.join("hearth-test");
    stage.scene.places.block = file;
    let found = stage.scene.beyond();
    let unknown: Vec<_> = found
        .unknown
        .iter()
        .map(|why| why.split(':').next().unwrap())
        .collect();
    assert_eq!(unknown, ["loop devices", "mounts", "cgroups"]);
    assert_eq!(found.items.len(), 1, "the namespace was seen");
}

#[test]
fn loop_devices_and_mounts_are_ours_by_the_data_folder() {
    let stage = stage();
    assert_eq!(stage.found(), []);
    let data = data(&stage).display().to_string();
    stage.put("block/sda/size", "8");
    stage.put("block/loop0/loop/backing_file", "/elsewhere/disk.img\n");
    stage.put(
        "block/loop1/loop/backing_file",
        &format!("{data}/images/a\n"),
    );
    // The pool tells of its own, for as long as they are its files.
    stage.put("data/pool/hearth-pool-data.img", "");
    for (device, file) in [
        ("loop2", "hearth-pool-data.img"),
        ("loop3", "hearth-pool-data.img (deleted)"),
    ] {
        let backing = format!("{data}/pool/{file}\n");
        stage.put(&format!("block/{device}/loop/backing_file"), &backing);
    }
    let mounts = format!(
        "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
         30 1 8:2 / {data} rw - ext4 /dev/sda2 rw\n\
         31 1 8:3 / {data}/vms/x rw - tmpfs none rw\n"
    );
    stage.put("mountinfo", &mounts);
    let mut devices = stage.found();
    devices.retain(|orphan| orphan.kind == OrphanKind::LoopDevice);
    devices.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: Vec<_> = devices.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(ids, ["loop_device-loop1", "loop_device-loop3"]);
    assert_eq!(devices[0].state, OrphanState::Unwanted);
    let mount = stage.the(OrphanKind::Mount);
    assert!(mount.object.ends_with("/vms/x"), "{mount:?}");
    assert_eq!(mount.fate.what, FateKind::Never);
}

#[test]
fn cgroups_of_units_of_no_vm_are_told_and_not_touched() {
    let mut stage = stage();
    let (web, lost, alike) = (stage.web(), VmId::new(), VmId::new());
    stage.scene.living.any.insert(lost);
    let root = stage.dir.path().join("cgroup").display().to_string();
    stage.put(
        "mountinfo",
        &format!("29 1 0:1 / {root} rw - cgroup2 cgroup2 rw\n"),
    );
    for vm in [web, lost, alike] {
        let path = format!("cgroup/hearth.slice/{}/cgroup.events", unit_name(vm));
        stage.put(&path, "populated 1\nfrozen 0\n");
    }
    stage.put("cgroup/hearth.slice/cgroup.procs", "");
    let mut found = stage.found();
    found.retain(|orphan| orphan.kind == OrphanKind::Cgroup);
    let state = |vm: VmId| {
        let id = format!("cgroup-{vm}");
        found
            .iter()
            .find(|orphan| orphan.id == id)
            .map(|it| it.state)
    };
    assert_eq!(state(web), None);
    assert_eq!(state(lost), Some(OrphanState::Unwanted));
    assert_eq!(state(alike), Some(OrphanState::Unproven));
}

#[test]
fn namespaces_that_are_named_like_us_are_not_ours() {
    let stage = stage();
    stage.put("netns/hearthstone", "");
    stage.put("netns/hearth-1", "");
    let namespace = stage.the(OrphanKind::NetworkNamespace);
    assert!(namespace.id.ends_with("hearth-1"));
    assert_eq!(namespace.state, OrphanState::Unproven);
}

#[test]
fn a_cage_is_told_of_a_vmm_that_has_one() {
    let mut stage = stage();
    let own = i32::try_from(std::process::id()).unwrap();
    let stranger = |pid| ProcessIdentity {
        boot_id: "boot".to_owned(),
        pid,
        start_time: 7,
        exe: "/vmm".to_owned(),
        mark: OwnerMark::of_vm(InstallationId::new(), VmId::new()),
    };
    stage.scene.strangers = vec![stranger(own), stranger(i32::MAX)];
    assert_eq!(
        stage.found(),
        [],
        "it sees the root that we see, or is gone"
    );
    stage.scene.places.processes = stage.scene.paths.data().join("proc");
    stage.put(&format!("data/proc/{own}/root/run/api.sock"), "");
    let cage = stage.the(OrphanKind::Cage);
    assert_eq!(cage.id, format!("cage-{own}-7"));
    assert_eq!(cage.fate.what, FateKind::Kept);
}

#[test]
fn files_in_the_folder_of_a_vm() {
    let mut stage = stage();
    let web = stage.web();
    let put = |name: &str, text: &str| stage.put(&format!("data/vms/{web}/{name}"), text);
    for ours in [
        "root.img",
        "initrd",
        "vm.json",
        "volume-data.img",
        "console.log",
        "console.log.1",
        "vmm.log",
        "vmm.log.1",
        "vmm.lock",
        "exit.json",
        "launch.json",
    ] {
        put(ours, "");
    }
    let marker = r#"{"image": "x", "volumes": [{"name": "data", "size": 1}]}"#;
    put("disks.json", marker);
    assert_eq!(stage.found(), []);

    put("console.log.2", "old");
    put("volume-gone.img", "data");
    put(".root.img.tmp-00", "half");
    put("core", "dumped");
    let log = stage.the(OrphanKind::Log);
    assert!(log.bytes.is_some() && log.since.is_some(), "{log:?}");
    let volume = stage.the(OrphanKind::Volume);
    assert_eq!(volume.fate.what, FateKind::Reported);
    let mut files = stage.found();
    files.retain(|orphan| orphan.kind == OrphanKind::File);
    files.sort_by_key(|orphan| orphan.state);
    let states: Vec<_> = files.iter().map(|it| it.state).collect();
    assert_eq!(states, [OrphanState::Unwanted, OrphanState::Unproven]);
    // While it runs, what its VMM makes is its own affair.
    stage.scene.living.any.insert(web);
    let mut files = stage.found();
    files.retain(|orphan| orphan.kind == OrphanKind::File);
    assert_eq!(files, []);

    std::fs::remove_file(stage.scene.paths.vm(web).join("root.img")).unwrap();
    let mut missing = stage.found();
    missing.retain(|orphan| orphan.state == OrphanState::Missing);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0].id, "missing-volume-web-root.img");
    assert_eq!(missing[0].name.as_deref(), Some("web"));
}
