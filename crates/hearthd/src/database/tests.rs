mod records;

use std::process::{Child, Command};

use hearth_config::DaemonFlags;
use hearth_store::{LeaseRanges, NewVm, Store, VmRow};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::observe::ROLE_ENV;
use hearth_types::spec::VmSpec;
use hearth_types::status::{Goal, Phase};

use super::*;
use crate::orphans::keepsake::{KEEPSAKE, Keepsake};

/// A data folder in which a daemon once ran.
struct Ruin {
    _dir: tempfile::TempDir,
    config: Config,
    installation: InstallationId,
    rows: Vec<VmRow>,
}

impl Ruin {
    /// With these VMs, all of which were to run.
    async fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
        let env = |name: &str| (name == "HEARTH_DATA_DIR").then(|| data.to_string());
        let file = data.join("config");
        std::fs::write(&file, "").unwrap();
        let flags = DaemonFlags {
            config: Some(file),
            ..DaemonFlags::default()
        };
        let config = Config::load(&flags, env).unwrap().config;
        let store = Store::open(data.join("hearth.db")).unwrap();
        let mut ruin = Self {
            _dir: dir,
            config,
            installation: store.installation(),
            rows: Vec::new(),
        };
        for name in names {
            let row = ruin.create(&store, name).await;
            ruin.keep(&Keepsake::of(&row, ruin.installation));
            ruin.rows.push(row);
        }
        ruin
    }

    async fn create(&self, store: &Store, name: &str) -> VmRow {
        let mut spec = VmSpec::new(name.parse().unwrap(), "demo:1");
        spec.env = [("PASSWORD".to_owned(), "hunter2".to_owned())].into();
        let new = NewVm {
            spec,
            goal: Goal::Running,
            image: format!("sha256:{}", "5".repeat(64)).parse().unwrap(),
            kernel: None,
        };
        let ranges = LeaseRanges {
            subnet: self.config.subnet,
            uid_base: 2_000_000_000,
            uid_count: 1000,
            cid_base: 3,
        };
        let made = store.create_vm(new, ranges, Timestamp::now()).await;
        made.unwrap()
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        self.config.data_dir.join(name)
    }

    fn keep(&self, kept: &Keepsake) {
        let folder = self.path("vms").join(kept.vm.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(KEEPSAKE), serde_json::to_vec(kept).unwrap()).unwrap();
    }

    /// As a disk that lies does it.
    fn damage(&self) {
        std::fs::write(self.path("hearth.db"), "not a database").unwrap();
        drop(std::fs::remove_file(self.path("hearth.db-wal")));
    }

    async fn rebuild(&self, force: bool, installation: Option<InstallationId>) -> String {
        self.try_rebuild(force, installation).await.unwrap()
    }

    async fn try_rebuild(
        &self,
        force: bool,
        installation: Option<InstallationId>,
    ) -> anyhow::Result<String> {
        let command = DbCommand::Rebuild {
            force,
            installation,
        };
        run(&self.config, command).await
    }

    async fn recorded(&self) -> (InstallationId, Vec<VmRow>) {
        let store = Store::open(self.path("hearth.db")).unwrap();
        (store.installation(), store.vms().await)
    }

    /// Files beside the database that hold what was there.
    fn old(&self) -> Vec<String> {
        let entries = self.config.data_dir.read_dir_utf8().unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_owned());
        names.filter(|name| name.contains(".old-")).collect()
    }
}

/// A process that is a VM's VMM by its mark; ends with this value.
struct Living(Child);

impl Living {
    fn of(installation: InstallationId, vm: VmId) -> Self {
        let mark = OwnerMark::of_vm(installation, vm);
        let child = Command::new("sleep")
            .arg("1000")
            .env("HEARTH_OWNER", mark.to_string())
            .env(ROLE_ENV, "vmm")
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn a_damaged_database_is_made_anew_from_what_folders_keep_and_what_lives() {
    let ruin = Ruin::new(&["web", "shop"]).await;
    let shop = ruin.rows[1].clone();
    let living = Living::of(ruin.installation, shop.id);
    ruin.damage();
    let said = ruin.rebuild(false, None).await;
    assert!(
        said.contains("run on: shop") && said.contains("stopped: web"),
        "{said}"
    );
    assert!(
        said.contains("the values of web's environment: PASSWORD"),
        "{said}"
    );
    let (installation, rows) = ruin.recorded().await;
    assert_eq!(installation, ruin.installation);
    assert_eq!(rows.len(), 2);
    for (row, was) in rows.iter().zip(&ruin.rows) {
        assert_eq!((row.id, &row.leases), (was.id, &was.leases));
        assert_eq!((&row.image, row.created_at), (&was.image, was.created_at));
        assert_eq!(row.spec.name, was.spec.name);
    }
    // Nobody knows what was wanted of one that does not run.
    assert_eq!(
        (rows[0].goal, rows[0].status.phase),
        (Goal::Stopped, Phase::Exited)
    );
    assert_eq!(
        (rows[1].goal, rows[1].status.phase),
        (Goal::Running, Phase::Running)
    );
    let vmm = rows[1].status.vmm.clone().unwrap();
    assert_eq!(vmm.pid.unsigned_abs(), living.0.id());
    assert_eq!(ruin.old().len(), 1, "what was there is kept");
    let store = Store::open(ruin.path("hearth.db")).unwrap();
    assert_eq!(store.installation(), ruin.installation);
}

#[tokio::test]
async fn a_whole_database_is_replaced_only_when_that_is_said() {
    let ruin = Ruin::new(&["web"]).await;
    let error = ruin.try_rebuild(false, None).await.unwrap_err();
    assert!(
        error.to_string().contains("is whole and records 1 VM(s)"),
        "{error:#}"
    );
    assert_eq!(ruin.old(), Vec::<String>::new());
    ruin.rebuild(true, None).await;
    let (_, rows) = ruin.recorded().await;
    assert_eq!(rows.len(), 1);
    // A database that is gone is made, too.
    for file in ["hearth.db", "hearth.db-wal", "hearth.db-shm"] {
        drop(std::fs::remove_file(ruin.path(file)));
    }
    ruin.rebuild(false, None).await;
    assert_eq!(ruin.recorded().await.1.len(), 1);
}

#[tokio::test]
async fn what_gives_no_record_is_told_and_stays_as_it_is() {
    let ruin = Ruin::new(&["web"]).await;
    let web = Keepsake::of(&ruin.rows[0], ruin.installation);
    let same_name = Keepsake {
        vm: VmId::new(),
        created_at: Timestamp::now(),
        ..web.clone()
    };
    ruin.keep(&same_name);
    let foreign = Keepsake {
        vm: VmId::new(),
        installation: InstallationId::new(),
        ..web.clone()
    };
    ruin.keep(&foreign);
    let empty = ruin.path("vms").join(VmId::new().to_string());
    std::fs::create_dir_all(&empty).unwrap();
    ruin.damage();
    // Two installations speak, and the database says nothing any more.
    let error = ruin.try_rebuild(false, None).await.unwrap_err();
    assert!(
        error.to_string().contains("several installations"),
        "{error:#}"
    );
    let said = ruin.rebuild(false, Some(ruin.installation)).await;
    let left: Vec<_> = said
        .lines()
        .filter(|line| line.contains("not recorded: "))
        .collect();
    assert_eq!(left.len(), 3, "{said}");
    assert!(said.contains("it belongs to installation"), "{said}");
    let (_, rows) = ruin.recorded().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].id, web.vm, "the older one has the name");
    for vm in [same_name.vm, foreign.vm] {
        assert!(
            ruin.path("vms")
                .join(vm.to_string())
                .join(KEEPSAKE)
                .is_file()
        );
    }
}

#[tokio::test]
async fn nothing_is_done_behind_a_daemons_back() {
    let ruin = Ruin::new(&["web"]).await;
    ruin.damage();
    let before = std::fs::read(ruin.path("hearth.db")).unwrap();
    let daemon = LockFile::acquire(&ruin.path("hearthd.lock"), Timestamp::now()).unwrap();
    for command in [
        DbCommand::Check,
        DbCommand::Rebuild {
            force: true,
            installation: None,
        },
    ] {
        let error = run(&ruin.config, command).await.unwrap_err();
        assert!(error.to_string().contains("a daemon runs"), "{error:#}");
    }
    drop(daemon);
    assert!(std::fs::read(ruin.path("hearth.db")).unwrap() == before);
}

#[tokio::test]
async fn a_backup_takes_the_place_of_what_is_damaged() {
    let ruin = Ruin::new(&["web"]).await;
    let said = run(&ruin.config, DbCommand::Check).await.unwrap();
    assert!(
        said.contains("is whole") && said.contains("1 VM(s)"),
        "{said}"
    );
    let file = ruin.path("backup");
    let backup = DbCommand::Backup { file: file.clone() };
    run(&ruin.config, backup).await.unwrap();
    let store = Store::open(ruin.path("hearth.db")).unwrap();
    ruin.create(&store, "later").await;
    drop(store);
    let restore = |force| DbCommand::Restore {
        file: Some(file.clone()),
        force,
    };
    run(&ruin.config, restore(false)).await.unwrap_err();
    ruin.damage();
    run(&ruin.config, DbCommand::Check).await.unwrap_err();
    run(&ruin.config, restore(false)).await.unwrap();
    let (installation, rows) = ruin.recorded().await;
    assert_eq!((installation, rows.len()), (ruin.installation, 1));
    assert!(file.is_file(), "the backup is still one");
}

/// The whole way: a daemon's own backup, a disk that lies, the VMs back.
#[tokio::test]
async fn the_newest_whole_backup_brings_the_vms_back() {
    let ruin = Ruin::new(&["web", "db"]).await;
    let store = Store::open(ruin.path("hearth.db")).unwrap();
    let backups = crate::backups::Backups::new(ruin.path("backups"));
    let now = Timestamp::now();
    let earlier = now - jiff::SignedDuration::from_secs(3600);
    backups.take(&store, earlier).await.unwrap();
    // The newest one was damaged where it lies.
    let newest = backups.take(&store, now).await.unwrap();
    std::fs::write(&newest.file, "not a database").unwrap();
    drop(store);
    ruin.damage();
    let asked = |file| DbCommand::Restore { file, force: false };
    let newest = Utf8PathBuf::from(newest.file);
    run(&ruin.config, asked(Some(newest))).await.unwrap_err();
    let said = run(&ruin.config, asked(None)).await.unwrap();
    assert!(said.contains("2 VM(s)"), "{said}");
    let (installation, rows) = ruin.recorded().await;
    assert_eq!(installation, ruin.installation);
    let mut names: Vec<String> = rows.iter().map(|row| row.spec.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["db", "web"]);
    assert_eq!(rows[0].spec.env.len(), 1, "also what no folder keeps");
    assert_eq!(ruin.old().len(), 1);
}

#[tokio::test]
async fn without_a_whole_backup_nothing_is_replaced() {
    let ruin = Ruin::new(&["web"]).await;
    ruin.damage();
    let command = DbCommand::Restore {
        file: None,
        force: false,
    };
    let error = run(&ruin.config, command).await.unwrap_err().to_string();
    assert!(error.contains("rebuild"), "{error}");
    assert!(ruin.old().is_empty());
}
