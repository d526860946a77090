//! VM folders: what a process that nobody knows still uses is not removed, and what is no name
//! of ours is no reason to see nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use hearth_host::lock::LockFile;
use hearth_types::ids::VmId;
use hearth_types::orphan::RemoveOrphans;
use hearth_types::status::Goal;

use super::world::{World, root, spec};

#[test]
fn a_folder_in_which_an_unknown_vmm_runs_is_removed_by_nobody() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vm = VmId::new();
    let folder = world.data().join("vms").join(vm.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("root.img"), "precious").unwrap();
    std::fs::write(folder.join("vmm.lock"), "").unwrap();
    // A VMM without our mark, as one of an installation whose database was moved away.
    let lock = LockFile::of_existing(&folder.join("vmm.lock"))
        .unwrap()
        .unwrap();
    world.live(async |life| {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(folder.join("root.img").exists(), "the loop removed it");
        let asked = RemoveOrphans {
            ids: vec![format!("folder-{vm}")],
            ..RemoveOrphans::default()
        };
        let removed = life.engine.remove_orphans(&asked).await.unwrap();
        let problem = removed.items[0].problem.as_deref().unwrap_or_default();
        assert!(problem.contains("a VMM may run in it"), "{removed:?}");
        assert!(folder.join("root.img").exists());
        drop(lock);
        let removed = life.engine.remove_orphans(&asked).await.unwrap();
        assert_eq!(removed.items[0].problem, None, "{removed:?}");
        assert!(!folder.exists());
    });
}

#[test]
fn a_name_that_is_no_text_hides_no_folder() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let strange = world.data().join("vms");
    let strange = strange.as_std_path().join(OsStr::from_bytes(b"\xff"));
    std::fs::create_dir(&strange).unwrap();
    world.live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        assert!(strange.is_dir());
        assert!(life.engine.paths.vm(vm).is_dir());
    });
}
