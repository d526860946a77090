//! What carries our mark and belongs to nobody goes; what only looks like ours stays.

use hearth_types::names::tap_name;
use hearth_types::{InstallationId, OwnerMark, VmId};

use crate::harness::strangers::{Strangers, process, tap};
use crate::harness::{Host, eventually};

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
    let mut strangers = Strangers::move_in(&host);

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

    assert_eq!(strangers.disturbed(&host), Vec::<String>::new());
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
