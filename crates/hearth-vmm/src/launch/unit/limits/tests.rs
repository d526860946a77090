use super::*;

/// A folder with the files of a control group.
fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Utf8PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
    for (name, text) in files {
        std::fs::write(path.join(name), format!("{text}\n")).unwrap();
    }
    (dir, path)
}

const FILES: [(&str, &str); 7] = [
    ("memory.max", "1000000"),
    ("memory.current", "900000"),
    (
        "memory.stat",
        "anon 1\nactive_file 100000\ninactive_file 200000",
    ),
    ("cpu.max", "250000 100000"),
    ("cpu.weight", "50"),
    ("pids.max", "66"),
    ("io.max", "8:0 rbps=max wbps=9 riops=max wiops=max"),
];

fn asked() -> Vec<Property> {
    let device = |limit| Setting::Limits(vec![("/data".to_owned(), limit)]);
    vec![
        Property::flag("CPUAccounting", true),
        Property::number("CPUQuotaPerSecUSec", 2_500_000),
        Property::number("MemoryMax", 1_000_000),
        Property::number("TasksMax", 66),
        Property::number("CPUWeight", 50),
        Property::number("LimitCORE", 0),
        Property::new("IOWriteBandwidthMax", device(9)),
    ]
}

fn names(changed: &[ChangedLimit]) -> Vec<&str> {
    changed.iter().map(|limit| limit.name.as_str()).collect()
}

#[test]
fn what_was_changed_is_found_and_nothing_else() {
    let (_dir, path) = group(&FILES);
    let kept = Kept::of(&path, &asked()).unwrap();
    assert_eq!(kept.changed(&path).unwrap(), []);
    // It outlives the daemon that kept it.
    let text = serde_json::to_vec(&kept).unwrap();
    let kept: Kept = serde_json::from_slice(&text).unwrap();
    for (name, text) in [
        ("cpu.max", "max 100000"),
        ("pids.max", "max"),
        ("io.max", ""),
    ] {
        std::fs::write(path.join(name), text).unwrap();
    }
    let changed = kept.changed(&path).unwrap();
    assert_eq!(names(&changed), ["cpu.max", "io.max", "pids.max"]);
    assert_eq!(changed[0].wanted, "250000 100000");
    assert_eq!(changed[0].found, "max 100000");
    assert!(changed.iter().all(|limit| limit.fits));
}

#[test]
fn a_control_group_of_another_run_is_not_compared() {
    let (_dir, path) = group(&FILES);
    let mut kept = Kept::of(&path, &asked()).unwrap();
    std::fs::write(path.join("pids.max"), "7").unwrap();
    assert_eq!(kept.changed(&path).unwrap().len(), 1);
    kept.cgroup += 1;
    assert_eq!(kept.changed(&path).unwrap(), []);
    kept.cgroup -= 1;
    assert_eq!(kept.changed(&path.join("gone")).unwrap(), []);
    // What cannot be read is an error and never "unchanged".
    std::fs::remove_file(path.join("pids.max")).unwrap();
    std::fs::create_dir(path.join("pids.max")).unwrap();
    kept.changed(&path).unwrap_err();
}

#[test]
fn memory_that_is_used_is_not_taken_away() {
    let (_dir, path) = group(&FILES);
    let kept = Kept::of(&path, &asked()).unwrap();
    std::fs::write(path.join("memory.max"), "max").unwrap();
    assert!(kept.changed(&path).unwrap()[0].fits);
    // 300,000 of it are cache.
    std::fs::write(path.join("memory.current"), "1300000").unwrap();
    assert!(kept.changed(&path).unwrap()[0].fits);
    std::fs::write(path.join("memory.current"), "1300001").unwrap();
    assert!(!kept.changed(&path).unwrap()[0].fits);
}

#[test]
fn systemd_is_asked_for_what_was_asked_at_the_start() {
    let (_dir, path) = group(&FILES);
    let kept = Kept::of(&path, &asked()).unwrap();
    for (name, _) in LIMITS {
        if path.join(name).exists() {
            std::fs::write(path.join(name), "somebody's").unwrap();
        }
    }
    let changed = kept.changed(&path).unwrap();
    let list = |name, limits: &[(&str, u64)]| {
        let limits = limits
            .iter()
            .map(|(path, limit)| ((*path).to_owned(), *limit));
        Property::new(name, Setting::Limits(limits.collect()))
    };
    let wanted = [
        Property::number("MemoryMax", 1_000_000),
        Property::number("TasksMax", 66),
        Property::number("CPUQuotaPerSecUSec", 2_500_000),
        Property::number("CPUWeight", 50),
        list("IOReadBandwidthMax", &[]),
        list("IOWriteBandwidthMax", &[]),
        list("IOWriteBandwidthMax", &[("/data", 9)]),
        list("IOReadIOPSMax", &[]),
        list("IOWriteIOPSMax", &[]),
    ];
    assert_eq!(kept.properties(&changed), wanted);
    // A weight that nobody had asked for is not set again.
    let plain = Kept::of(&path, &asked()[..4]).unwrap();
    let weight = changed.iter().filter(|limit| limit.name == "cpu.weight");
    let weight: Vec<_> = weight.cloned().collect();
    let not_set = [Property::number("CPUWeight", u64::MAX)];
    assert_eq!(plain.properties(&weight), not_set);
}

#[test]
fn a_start_forgets_the_last_runs_record() {
    let (_dir, path) = group(&[(FILE, "{}")]);
    forget(&path).unwrap();
    forget(&path).unwrap();
    assert_eq!(kept(&path).unwrap(), None);
    std::fs::write(path.join(FILE), "cut").unwrap();
    kept(&path).unwrap_err();
}
