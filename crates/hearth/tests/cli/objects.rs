//! The objects of the fake daemon, as the API's JSON.

use serde_json::{Value, json};

use hearth_types::api::Vm;

pub(crate) const WEB: &str = "01950000-0000-7000-8000-0000000000a1";
pub(crate) const DB: &str = "01950000-0000-7000-8000-0000000000b2";
pub(crate) const BROKEN: &str = "01950000-0000-7000-8000-0000000000c3";
pub(crate) const NEW: &str = "01950000-0000-7000-8000-0000000000d4";

fn vm(value: Value) -> Vm {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn web() -> Vm {
    vm(json!({
        "id": WEB,
        "spec": {
            "name": "web-1", "image": "localhost:5000/demo:1", "memory": "512MiB",
            "env": {"TOKEN": "s3cret"},
            "ports": [
                {"host_port": 8080, "guest_port": 80},
                {"host_ip": "127.0.0.1", "host_port": 53, "guest_port": 53, "protocol": "udp"}
            ],
            "labels": {"tier": "web"}, "restart": "always"
        },
        "generation": 3, "goal": "running", "phase": "running", "reason": null, "health": "healthy",
        "leases": {"ip": "10.213.0.2", "mac": "06:48:0a:d5:00:02", "cid": 3, "uid": 100_000},
        "pid": 4711, "driver": "qemu", "accelerator": "kvm",
        "created_at": "2026-02-27T12:00:00Z", "started_at": "2026-03-01T10:00:00Z",
        "last_end": null, "restarts": 1, "next_start": null
    }))
}

pub(crate) fn db() -> Vm {
    vm(json!({
        "id": DB,
        "spec": {"name": "db", "image": "debian:12", "labels": {"tier": "data"}},
        "generation": 2, "goal": "stopped", "phase": "exited", "reason": null, "health": "none",
        "leases": {"ip": "10.213.0.3", "mac": "06:48:0a:d5:00:03", "cid": 4, "uid": 100_001},
        "pid": null, "driver": null, "accelerator": null,
        "created_at": "2026-02-01T12:00:00Z", "started_at": null,
        "last_end": {"exit_code": 0, "vmm": {"code": 0}, "guest": null, "failure": false,
            "reason": "stopped", "at": "2026-03-01T11:59:15Z"},
        "restarts": 0, "next_start": null
    }))
}

pub(crate) fn broken() -> Vm {
    vm(json!({
        "id": BROKEN,
        "spec": {"name": "broken", "image": "debian:12", "network": {"mode": "none"}, "restart": "on-failure:3"},
        "generation": 2, "goal": "running", "phase": "backoff", "reason": "the VMM ended with status 1",
        "health": "none", "leases": {"ip": null, "mac": null, "cid": 5, "uid": 100_002},
        "pid": null, "driver": null, "accelerator": null,
        "created_at": "2026-03-01T11:00:00Z", "started_at": null,
        "last_end": {"exit_code": null, "vmm": {"code": 1}, "guest": null, "failure": true,
            "reason": "the VMM ended with status 1", "at": "2026-03-01T11:59:50Z"},
        "restarts": 2, "next_start": "2026-03-01T12:00:08Z"
    }))
}

/// A VM as it is right after its creation.
pub(crate) fn created(spec: &Value) -> Value {
    json!({
        "id": NEW, "spec": spec, "generation": 1, "goal": "stopped", "phase": "created",
        "reason": null, "health": "none",
        "leases": {"ip": "10.213.0.4", "mac": "06:48:0a:d5:00:04", "cid": 6, "uid": 100_003},
        "pid": null, "driver": null, "accelerator": null,
        "created_at": "2026-03-01T12:00:00Z", "started_at": null, "last_end": null,
        "restarts": 0, "next_start": null
    })
}

pub(crate) fn image() -> Value {
    json!({
        "id": format!("sha256:{}", "ab12".repeat(16)),
        "references": ["localhost:5000/demo:1", "docker.io/library/demo:latest"],
        "source": "registry", "architecture": "amd64", "created": "2026-02-20T12:00:00Z",
        "imported_at": "2026-02-28T12:00:00Z", "volume_bytes": 734_003_200, "disk_bytes": 240_123_904,
        "layers": 3,
        "config": {"entrypoint": ["/bin/demo"], "cmd": [], "env": ["PATH=/bin"], "user": null,
            "workdir": "/", "exposed_ports": ["80/tcp"], "stop_signal": null, "labels": {}}
    })
}

/// Pulls and imports: one that waits, one that is done, one that was aborted.
pub(crate) fn image_jobs() -> Vec<Value> {
    let job = |end: &str, name: &str, state: &str| {
        json!({
            "id": format!("01950000-0000-7000-8000-0000000000{end}"), "kind": "pull", "name": name,
            "state": state, "attempts": {"resolve": 1, "download": 2}, "restarts": 0,
            "done": 1_048_576, "total": 4_194_304, "detached": true,
            "created_at": "2026-02-28T12:00:00Z", "state_since": "2026-02-28T12:00:02Z"
        })
    };
    let mut waits = job("01", "docker.io/library/debian:12", "download");
    waits["waits_for"] = json!("a place among the downloads");
    let mut done = job("02", "localhost:5000/demo:1", "ready");
    done["ended_at"] = json!("2026-02-28T12:01:00Z");
    let mut aborted = job("03", "s3://images/node/5.tar", "aborted");
    aborted["ended_at"] = json!("2026-02-28T12:01:00Z");
    aborted["left"] = json!({"blobs": 1, "bytes": 1_048_576, "partial_bytes": 524_288});
    aborted["failure"] = json!({
        "state": "download", "reason": "digest", "at": "2026-02-28T12:01:00Z",
        "problem": {"type": "urn:hearth:problem:upstream", "title": "Another server failed",
            "status": 502, "code": "upstream",
            "detail": "s3://images/node/5.tar (CRC-32) has digest 00, expected 01"}
    });
    vec![waits, done, aborted]
}

pub(crate) fn image_view() -> Value {
    json!({"image": image(), "used_by": ["db", "web-1"]})
}

pub(crate) fn kernel(default: bool) -> Value {
    json!({
        "name": "6.1.0-39-cloud-amd64", "version": "6.1.0-39-cloud-amd64 #1 SMP Debian",
        "digest": "0f".repeat(32), "default": default, "has_bzimage": true, "has_elf": false,
        "modules": ["virtio_mmio", "virtio_blk"], "initramfs_bytes": 3_145_728,
        "imported_at": "2026-02-28T12:00:00Z"
    })
}

pub(crate) fn recovered(vm: &Vm) -> Value {
    let done = vm.pid.is_none();
    let detail = if done {
        "started: it was waiting"
    } else {
        "it runs"
    };
    json!({"vm": vm.id, "name": vm.spec.name, "done": done, "detail": detail})
}

pub(crate) fn vm_plan() -> Value {
    json!({
        "vm": BROKEN, "name": "broken", "steps": [],
        "reasons": [
            {"topic": "goal", "text": "the user wants it to run"},
            {"topic": "phase", "text": "backoff: breaker open until 2026-03-01T12:04:00Z"},
            {"topic": "breaker", "text": "breaker open until 2026-03-01T12:04:00Z: 5 failures in 10m, last: no disk"},
            {"topic": "mode", "text": "normal"}
        ],
        "next_pass": "2026-03-01T12:01:00Z"
    })
}

/// A VM whose breaker is open and that is held.
pub(crate) fn wary() -> Vm {
    let mut vm = serde_json::to_value(broken()).unwrap();
    vm["spec"]["name"] = json!("wary");
    vm["next_start"] = json!("2026-03-01T12:04:00Z");
    vm["breaker"] = json!({
        "opened_at": "2026-03-01T11:59:00Z", "until": "2026-03-01T12:04:00Z", "opens": 1,
        "reason": "5 failures in 10m, last: no disk"
    });
    vm["hold"] = json!({"since": "2026-03-01T11:59:30Z", "reason": "disk swap"});
    self::vm(vm)
}

/// VMs after a reboot of the host: one that a policy left, and some that wait.
pub(crate) fn booted() -> Vec<Vm> {
    let booted = |name: &str, phase: &str, fate: &str, wait: Value| {
        let mut vm = serde_json::to_value(broken()).unwrap();
        vm["spec"]["name"] = json!(name);
        vm["spec"]["labels"] = json!({"booted": ""});
        vm["phase"] = json!(phase);
        vm["next_start"] = Value::Null;
        vm["bootstrap"] = json!({"since": "2026-03-01T11:59:00Z", "fate": fate});
        if fate == "left" {
            vm["bootstrap"]["policy"] = json!("manual");
        }
        vm["reason"] = wait["reason"].clone();
        if wait != Value::Null {
            vm["wait"] = wait;
        }
        self::vm(vm)
    };
    let waits = |on: &str, reason: &str| {
        let since = "2026-03-01T11:59:00Z";
        json!({"since": since, "on": on, "reason": reason})
    };
    let others = waits("vms", "waits for db: booting, cache: starting");
    let disks = waits("disks", "waits for its disks: its folder is missing");
    vec![
        booted("left", "exited", "left", Value::Null),
        booted("web", "starting", "due", others),
        booted("data", "starting", "due", disks),
        booted("next", "starting", "due", Value::Null),
    ]
}

pub(crate) fn plan() -> Value {
    json!({
        "steps": [
            {"step": "start_vmm", "vm": BROKEN, "name": "broken", "object": "VMM of broken",
             "reason": "it should run and does not", "destructive": false},
            {"step": "remove_tap", "vm": "01950000-0000-7000-8000-0000000000ee", "name": null,
             "object": "TAP ht0000000000ee", "reason": "no VM wants it", "destructive": true},
            {"step": "apply_rules", "vm": null, "name": null, "object": "table inet hearth",
             "reason": "one port is missing", "destructive": false}
        ],
        "notes": ["folders could not be surveyed: nothing is removed"],
        "held": [{"by": "mode maintenance", "step": {"step": "start_vmm", "vm": WEB, "name": "web-1",
            "object": "VMM", "reason": "restart policy always", "destructive": false}}],
        "next_pass": "2026-03-01T12:00:30Z"
    })
}

pub(crate) fn history() -> Value {
    json!({"items": [
        {"class": "vmm_crashed", "exit_code": null, "vmm": {"signal": 11}, "failure": true,
            "reason": "VMM crashed with signal 11", "started_at": "2026-03-01T10:00:00Z",
            "ended_at": "2026-03-01T11:59:00Z", "recorded_at": "2026-03-01T11:59:00.005Z",
            "back_at": "2026-03-01T11:59:03.250Z",
            "tried": [
                {"at": "2026-03-01T11:59:02Z", "step": "ensure_tap", "problem": "no such device"},
                {"at": "2026-03-01T11:59:03.250Z", "step": "start_vmm", "problem": null}],
            "console": ["login:", "Oops"], "vmm_log": ["segfault"],
            "core": "its core is /var/crash/core.4711 (12 MiB)"},
        {"class": "workload_failed", "exit_code": 1, "vmm": {"code": 0}, "failure": true,
            "reason": "entrypoint exited with status 1", "started_at": null,
            "ended_at": "2026-03-01T10:00:00Z", "recorded_at": "2026-03-01T10:05:00Z",
            "back_at": null, "tried": [], "console": [], "vmm_log": []}
    ], "dumps": [
        {"kind": "vmm_core", "file": "/var/lib/hearth/vms/1/dumps/vmm-20260301T115900.000Z.core", "size": "12MiB",
            "at": "2026-03-01T11:59:00Z"},
        {"kind": "guest_memory", "file": "/var/lib/hearth/vms/1/dumps/guest-20260301T100000.000Z.kdump",
            "size": "64MiB", "at": "2026-03-01T10:00:00Z"}
    ]})
}

/// As found, or as one clean-up left it.
pub(crate) fn garbage(force: bool) -> Value {
    let item = |id, kind, object, bytes: Option<u64>, done, why: Option<&str>| {
        json!({"id": id, "kind": kind, "object": object, "reason": "mkfs timed out", "bytes": bytes,
            "since": "2026-02-27T12:00:00Z", "outcome": if force { done } else { "found" }, "why": why})
    };
    json!({"dry_run": !force, "bytes": 240_123_904, "unknown": ["dumps of db: permission denied"],
        "items": [
            item("thin-7", "thin_device", "web-root", Some(240_123_904), "cleaned", None),
            item("thin-9", "thin_device", "db-root", None, "failed", force.then_some("device busy")),
            {"id": "sha256:77", "kind": "image", "object": "debian:12", "reason": "no VM uses it",
                "bytes": 1024, "outcome": "skipped", "why": "images go only when they are asked for"},
        ],
        "summary": {"cleaned": usize::from(force), "failed": usize::from(force), "orphaned": 3,
            "skipped": 1, "total_devices": 5}})
}

pub(crate) fn orphans() -> Value {
    let fate = |what, at: Option<&str>, why| json!({"what": what, "at": at, "why": why});
    let orphan = |id, kind, state, object, since: Option<&str>, fate: Value| {
        json!({"id": id, "kind": kind, "state": state, "object": object,
            "vm": "01950000-0000-7000-8000-0000000000ee", "name": null, "image": null, "since": since,
            "bytes": null, "reason": "no VM has it", "fate": fate, "adoptable": false,
            "removable": state == "unwanted"})
    };
    let mut vmm = orphan(
        "vmm-4711-99",
        "vmm",
        "unwanted",
        "pid 4711 (/usr/bin/qemu)",
        Some("2026-02-27T12:00:00Z"),
        fate("reported", None, "its record may be lost"),
    );
    vmm["name"] = json!("shop");
    vmm["image"] = json!("debian:12");
    vmm["adoptable"] = json!(true);
    let mut folder = orphan(
        "folder-01950000-0000-7000-8000-0000000000ee",
        "folder",
        "unwanted",
        "/var/lib/hearth/vms/01950000-0000-7000-8000-0000000000ee",
        Some("2026-03-01T11:59:40Z"),
        fate("removed", Some("2026-03-01T12:00:10Z"), "grace age"),
    );
    folder["bytes"] = json!(240_123_904);
    json!({"items": [
        vmm,
        orphan("tap-ht0000000000ee", "tap", "unwanted", "ht0000000000ee", None,
            fate("kept", None, "a process of its VM lives and may use it")),
        folder,
        orphan("missing-rules-all-VMs", "rules", "missing", "network rules", None,
            fate("held", None, "AUTO_DRIFT")),
        orphan("folder-mine", "folder", "unproven", "/var/lib/hearth/vms/mine", None,
            fate("never", None, "nothing proves that it is ours")),
    ], "unknown": ["name server: permission denied"]})
}

/// A mode set by hand; `readonly` meets a rule, too.
pub(crate) fn mode(word: &str, reason: Option<&str>) -> Value {
    let since = "2026-03-01T11:00:00Z";
    let hand = (word != "normal").then(
        || json!({"mode": word, "reason": reason, "since": since, "stored": word != "readonly"}),
    );
    let rules = if word == "maintenance" {
        json!([{"rule": "disk_full", "mode": "readonly", "reason": "the file system has 3MiB free",
            "since": "2026-03-01T10:00:00Z", "set_aside": true}])
    } else {
        json!([])
    };
    let by = if word == "normal" { "default" } else { "hand" };
    json!({"mode": word, "since": hand.is_some().then_some(since), "by": by, "reason": reason,
        "hand": hand, "rules": rules})
}

pub(crate) fn doctor() -> Value {
    json!({"checks": [
        {"name": "kvm", "status": "warning", "detail": "/dev/kvm opens, but a probe guest did not boot",
         "hint": "VMs run with TCG, many times slower; enable nested virtualisation"},
        {"name": "qemu", "status": "ok", "detail": "7.2.0", "hint": null},
        {"name": "nftables", "status": "failed", "detail": "no nft in PATH", "hint": "apt install nftables"}
    ]})
}

pub(crate) fn config() -> Value {
    json!({"entries": [
        {"key": "DATA_DIR", "value": "/var/lib/hearth", "source": "default"},
        {"key": "API_TOKEN", "value": "(set)", "source": "environment HEARTH_API_TOKEN"}
    ]})
}

pub(crate) fn events() -> Vec<Value> {
    vec![
        json!({"seq": 1, "at": "2026-03-01T10:00:00.123Z", "severity": "info", "code": "vm.started",
            "vm": WEB, "name": "web-1", "message": "web-1 runs", "details": {"pid": 4711}}),
        json!({"seq": 2, "at": "2026-03-01T11:59:50Z", "severity": "error", "code": "vm.failed",
            "vm": BROKEN, "name": "broken", "message": "the VMM ended\u{1b}[31m with status 1"}),
        json!({"seq": 3, "at": "2026-03-01T11:59:55Z", "severity": "warning", "code": "orphan.removed",
            "vm": null, "name": null, "message": "removed TAP ht0000000000ee"}),
    ]
}

pub(crate) fn health() -> Value {
    let check = |name: &str, kind: &str, state: &str, failures: u32, message: &str| {
        json!({
            "name": name, "kind": kind, "state": state, "since": "2026-03-01T11:00:00Z",
            "failures": failures, "successes": 0, "failure_threshold": 3, "success_threshold": 2,
            "interval_millis": 30_000, "timeout_millis": 5_000,
            "on_failure": if kind == "http" { "restart" } else { "none" },
            "history": [{"at": "2026-03-01T11:59:50Z", "verdict": if failures == 0 { "pass" } else { "fail" },
                "millis": 12, "message": message}]
        })
    };
    json!({
        "health": "unhealthy", "since": "2026-03-01T11:58:00Z",
        "reason": "check http: it answers with 503, good is 200-399",
        "checks": [
            check("process", "process", "healthy", 0, "it runs"),
            check("agent", "agent", "degraded", 1, "no answer within 5000 ms"),
            check("http", "http", "unhealthy", 7, "it answers with 503, good is 200-399")
        ]
    })
}

pub(crate) fn stats() -> Value {
    json!({"cpu_millis": 61_250, "vmm_rss": 157_286_400, "devices": {
        "disk_read_bytes": 33_554_432, "disk_write_bytes": 4096, "disk_flushes": 3,
        "disk_failures": 0}, "guest": {
        "uptime_secs": 7200, "mem_total": 536_870_912, "mem_available": 402_653_184,
        "load1_centi": 25, "processes": 12, "disk_total": 1_073_741_824, "disk_free": 536_870_912,
        "net_rx": 1_048_576, "net_tx": 2048
    }})
}
