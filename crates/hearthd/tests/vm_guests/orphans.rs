//! What carries our mark and belongs to nobody goes; what only looks like ours stays.

use std::process::{Child, Command};

use hearth_types::names::tap_name;
use hearth_types::{InstallationId, OwnerMark, VmId};

use crate::harness::{Host, eventually};

/// A process that carries a mark, or none.
fn process(name: &str, mark: Option<&str>) -> Child {
    let mut command = Command::new("bash");
    command.args(["-c", "exec -a \"$0\" sleep 1000", name]);
    if let Some(mark) = mark {
        command.env("HEARTH_OWNER", mark).env("HEARTH_ROLE", "vmm");
    }
    command.spawn().unwrap()
}

fn tap(host: &Host, name: &str, alias: Option<&str>) {
    let ip = |arguments: &[&str]| host.netns.run("ip", arguments);
    ip(&["tuntap", "add", "dev", name, "mode", "tap"]);
    if let Some(alias) = alias {
        ip(&["link", "set", "dev", name, "alias", alias]);
    }
}

fn has_link(host: &Host, name: &str) -> bool {
    let shown = host.netns.output("ip", &["link", "show", "dev", name]);
    shown.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_orphans_are_removed_and_look_alikes_are_not() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.set("ORPHAN_GRACE", "0s");
    // The journal knows none of what this test puts there.
    host.set("ORPHAN_VMMS", "remove");
    host.set("ORPHAN_DIRS", "remove");
    host.start_daemon().await;
    host.terminate_daemon().await;

    // Ours, and nobody's.
    let installation: InstallationId = host.installation().parse().unwrap();
    let lost = VmId::new();
    let mark = OwnerMark::of_vm(installation, lost);
    let mut our_process = process("hearth-vm", Some(&mark.to_string()));
    tap(&host, &tap_name(lost), Some(&mark.interface_alias()));
    let our_dir = host.data().join("vms").join(lost.to_string());
    std::fs::create_dir_all(our_dir.join("some")).unwrap();
    std::fs::write(our_dir.join("root.img"), "disk").unwrap();

    // Somebody else's, however much it looks like ours.
    let foreign = OwnerMark::of_vm(InstallationId::new(), VmId::new());
    let strangers = [
        process("qemu-system-x86_64 -name guest=web,process=hearth-vm", None),
        process("hearth-vm", Some(&foreign.to_string())),
    ];
    tap(&host, "ht0123456789a", None);
    tap(&host, "ht1123456789a", Some(&foreign.interface_alias()));
    tap(&host, "ht2123456789a", Some("hearth:mine"));
    host.netns
        .run("nft", &["add", "table", "inet", "hearth-of-others"]);
    let vms = host.data().join("vms");
    std::fs::write(vms.join("README"), "mine").unwrap();
    std::fs::create_dir(vms.join("not-an-id")).unwrap();
    std::fs::write(vms.join(VmId::new().to_string()), "a file, no folder").unwrap();
    let kept = vms.read_dir().unwrap().count() - 1;

    host.start_daemon().await;
    eventually("the end of our orphans", || {
        let gone = our_process.try_wait().unwrap().is_some()
            && !has_link(&host, &tap_name(lost))
            && !our_dir.exists();
        std::future::ready(gone.then_some(()))
    })
    .await;
    host.settled().await;
    let log = host.log();
    for kind in ["process", "TAP", "folder"] {
        let line = format!("[reconcile] removed orphaned {kind}");
        assert!(log.contains(&line), "no line {line:?} in {log}");
    }
    let events = host.events().await;
    let told = events.iter().filter(|event| event.code == "orphan.removed");
    assert_eq!(told.count(), 3);

    for mut stranger in strangers {
        assert!(
            stranger.try_wait().unwrap().is_none(),
            "a stranger was killed"
        );
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    for name in ["ht0123456789a", "ht1123456789a", "ht2123456789a"] {
        assert!(has_link(&host, name), "{name} was removed");
    }
    host.netns
        .run("nft", &["list", "table", "inet", "hearth-of-others"]);
    assert_eq!(vms.read_dir().unwrap().count(), kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_orphans_within_their_grace_age_are_only_noted() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.set("ORPHAN_GRACE", "1h");
    host.set("ORPHAN_VMMS", "remove");
    host.set("ORPHAN_DIRS", "remove");
    host.start_daemon().await;
    let lost = VmId::new();
    let dir = host.data().join("vms").join(lost.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let mark = OwnerMark::of_vm(host.installation().parse().unwrap(), lost);
    let mut child = process("hearth-vm", Some(&mark.to_string()));
    let plan = host.plan().await;
    assert_eq!(plan.steps, []);
    let noted = |note: &String| note.contains("left alone until they are 3600 s old");
    assert!(plan.notes.iter().any(noted), "{:?}", plan.notes);
    assert!(dir.exists() && child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}
