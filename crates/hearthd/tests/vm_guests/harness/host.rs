//! A host: a network namespace, a data folder and a daemon.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt as _;
use hearth_client::{Client, ClientError, Endpoint, Wait};
use hearth_types::api::{CreateVm, ImportImage, ImportKernel, PlanView, Progress};
use hearth_types::event::Event;
use hearth_types::spec::VmSpec;
use tempfile::TempDir;

use super::netns::Netns;
use super::small_disk::SmallDisk;
use super::tools::{Tools, hearthd};
use super::traces::{Traces, processes_of};
use super::{PATIENCE, Vm, eventually, template};

/// A host of one test.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    pub(crate) client: Client,
    // Before the folder that it is mounted in.
    disk: Option<SmallDisk>,
    dir: TempDir,
    settings: BTreeMap<String, String>,
    daemon: Option<Child>,
    installation: Option<String>,
    before: Traces,
}

impl Host {
    /// A host with an image and a kernel, whose daemon does not run yet. `None`, with a
    /// printed reason, where real guests cannot run.
    pub(crate) async fn new() -> Option<Self> {
        match Tools::find() {
            Ok(tools) => {
                let host = Self::empty(&tools);
                template::fill(&tools, &host.data()).await;
                Some(host)
            }
            Err(reason) => {
                println!("SKIP: {reason}");
                None
            }
        }
    }

    /// The same, whose data folder is a file system of this size.
    pub(crate) async fn on_small_disk(mib: u64) -> Option<Self> {
        Self::on_disk(mib, &["mkfs.ext4", "-q", "-m", "0"]).await
    }

    /// The same, where files can share blocks.
    pub(crate) async fn on_sharing_disk(mib: u64) -> Option<Self> {
        let xfs = std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("xfs"));
        if !xfs || !std::path::Path::new("/usr/sbin/mkfs.xfs").exists() {
            println!("SKIP: needs XFS and mkfs.xfs");
            return None;
        }
        Self::on_disk(mib, &["mkfs.xfs", "-q", "-m", "reflink=1"]).await
    }

    async fn on_disk(mib: u64, mkfs: &[&str]) -> Option<Self> {
        let tools = Tools::find().map_err(|reason| println!("SKIP: {reason}"));
        let tools = tools.ok()?;
        let mut host = Self::empty(&tools);
        host.disk = Some(SmallDisk::mount(host.dir(), &host.data(), mib, mkfs));
        host.before = Traces::of(&host.netns, &host.data(), None);
        template::fill(&tools, &host.data()).await;
        Some(host)
    }

    /// A host that knows no image and no kernel.
    pub(super) fn empty(tools: &Tools) -> Self {
        let parent = env!("CARGO_TARGET_TMPDIR");
        std::fs::create_dir_all(parent).unwrap();
        let dir = TempDir::with_prefix_in("vm-", parent).unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let settings = [
            ("DATA_DIR", root.join("data")),
            ("RUN_DIR", root.join("run")),
            ("GUEST_PATH", tools.guest.clone()),
            ("SHIM_PATH", tools.shim.clone()),
            ("KVM", "off".into()),
            ("BACKOFF_FIRST", "100ms".into()),
            ("CONFIG", root.join("config")),
        ];
        std::fs::write(root.join("config"), "").unwrap();
        let netns = Netns::new();
        Self {
            client: Client::new(Endpoint::Unix(root.join("run/hearthd.sock"))),
            before: Traces::of(&netns, &root.join("data"), None),
            settings: settings
                .into_iter()
                .map(|(key, value)| (format!("HEARTH_{key}"), value.into_string()))
                .collect(),
            netns,
            disk: None,
            dir,
            daemon: None,
            installation: None,
        }
    }

    pub(crate) fn dir(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).unwrap()
    }

    pub(crate) fn data(&self) -> Utf8PathBuf {
        self.dir().join("data")
    }

    /// The installation's id.
    pub(crate) fn installation(&self) -> &str {
        self.installation.as_deref().unwrap()
    }

    /// Sets a value of the configuration for the next start of the daemon.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.settings
            .insert(format!("HEARTH_{key}"), value.to_owned());
    }

    pub(crate) fn unset(&mut self, key: &str) {
        self.settings.remove(&format!("HEARTH_{key}"));
    }

    /// The API's socket.
    pub(crate) fn socket(&self) -> Utf8PathBuf {
        self.dir().join("run/hearthd.sock")
    }

    fn log_path(&self) -> Utf8PathBuf {
        self.dir().join("hearthd.log")
    }

    /// Everything that the daemons of this host have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn spawn_daemon(&mut self) {
        assert!(self.daemon.is_none(), "a daemon runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let child = self
            .netns
            .command(&hearthd())
            .envs(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.daemon = Some(child.unwrap());
    }

    /// Starts the daemon and waits for its first answer.
    pub(crate) async fn start_daemon(&mut self) {
        self.spawn_daemon();
        let info = loop {
            if let Ok(info) = self.client.info().await {
                break info;
            }
            if let Some(status) = self.daemon.as_mut().unwrap().try_wait().unwrap() {
                panic!("hearthd ended with {status}");
            }
            tokio::time::sleep(super::LOOK).await;
        };
        self.installation = Some(info.installation.to_string());
    }

    /// Starts a daemon that is meant to end by itself at some moment, answering or not.
    pub(crate) fn start_doomed_daemon(&mut self) {
        self.spawn_daemon();
    }

    /// Waits for the daemon's end by itself.
    pub(crate) async fn daemon_ends(&mut self) -> ExitStatus {
        let child = self.daemon.as_mut().unwrap();
        let status = eventually("the end of the daemon", || {
            std::future::ready(child.try_wait().unwrap())
        })
        .await;
        self.daemon = None;
        status
    }

    /// `kill -9`.
    pub(crate) async fn kill_daemon(&mut self) {
        self.daemon.as_mut().unwrap().kill().unwrap();
        let status = self.daemon_ends().await;
        assert_eq!(status.signal(), Some(9));
    }

    /// SIGTERM, and a clean end.
    pub(crate) async fn terminate_daemon(&mut self) {
        let pid = rustix::process::Pid::from_child(self.daemon.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.daemon_ends().await;
        assert!(status.success(), "hearthd ended with {status}");
    }

    pub(super) async fn import_kernel(&self, path: &Utf8Path) {
        let body = ImportKernel {
            path: Some(path.to_string()),
            modules: None,
            name: None,
            default: true,
        };
        finish(self.client.import_kernel(&body).await.unwrap()).await;
    }

    pub(crate) async fn import_image(&self, path: &Utf8Path, reference: &str) {
        let body = ImportImage {
            detach: false,
            path: path.to_string(),
            reference: reference.to_owned(),
            kind: None,
        };
        finish(self.client.import_image(&body).await.unwrap()).await;
    }

    /// `hearth run`: a new VM whose VMM runs.
    pub(crate) async fn run(&self, spec: VmSpec) -> Vm {
        let wait = Some(Wait {
            timeout: Some(PATIENCE),
        });
        self.create(spec, true, wait).await.unwrap()
    }

    /// Asks for a new VM that shall run, and waits for nothing.
    pub(crate) async fn ask_for(&self, spec: VmSpec) -> Vm {
        self.create(spec, true, None).await.unwrap()
    }

    pub(crate) async fn create(
        &self,
        spec: VmSpec,
        start: bool,
        wait: Option<Wait>,
    ) -> Result<Vm, ClientError> {
        let key = spec.name.to_string();
        let vm = self
            .client
            .create_vm(&CreateVm { spec, start }, &key, wait)
            .await?;
        Ok(Vm::new(self.client.clone(), vm.id))
    }

    /// What the next pass would do.
    pub(crate) async fn plan(&self) -> PlanView {
        self.client.plan().await.unwrap()
    }

    /// The log of events.
    pub(crate) async fn events(&self) -> Vec<Event> {
        self.client.events(None, Some(1000)).await.unwrap().items
    }

    /// Waits until nothing is left to be done.
    pub(crate) async fn settled(&self) {
        let empty = || async { self.plan().await.steps.is_empty().then_some(()) };
        eventually("a plan without steps", empty).await;
    }

    /// The daemon's process.
    pub(crate) fn daemon_pid(&self) -> Option<i32> {
        let daemon = self.daemon.as_ref()?;
        i32::try_from(daemon.id()).ok()
    }

    /// `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        let socket = self.socket();
        let url = "http://hearth/metrics";
        self.netns.run(
            "curl",
            &[
                "-sS",
                "--unix-socket",
                socket.as_str(),
                "--max-time",
                "60",
                url,
            ],
        )
    }

    /// Everything that is on this host now.
    pub(crate) fn traces(&self) -> Traces {
        Traces::of(&self.netns, &self.data(), self.installation.as_deref())
    }

    /// What is on this host that was not there before.
    pub(crate) fn leaks(&self) -> Vec<String> {
        self.traces().since(&self.before)
    }

    /// Waits until nothing is left behind.
    pub(crate) async fn clean(&self) {
        let mut leaks = Vec::new();
        for _ in 0..200 {
            leaks = self.leaks();
            if leaks.is_empty() {
                return;
            }
            tokio::time::sleep(super::LOOK).await;
        }
        panic!("left behind: {leaks:#?}");
    }
}

/// Kills a process of this test's.
pub(crate) fn kill(pid: i32) -> rustix::io::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
}

async fn finish(stream: impl futures::Stream<Item = Result<Progress, ClientError>>) {
    let mut stream = Box::pin(stream);
    let mut last = None;
    while let Some(progress) = stream.next().await {
        last = Some(progress.unwrap());
    }
    assert!(
        matches!(last, Some(Progress::Image { .. } | Progress::Kernel { .. })),
        "the import ended with {last:?}"
    );
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            println!(
                "hearthd's log:\n{}",
                lines[lines.len().saturating_sub(80)..].join("\n")
            );
        }
        if let Some(mut daemon) = self.daemon.take() {
            drop(daemon.kill());
            drop(daemon.wait());
        }
        let Some(installation) = &self.installation else {
            return;
        };
        // The folder can only go when nobody writes into it any more.
        for _ in 0..100 {
            let left = processes_of(installation);
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                // One that has ended meanwhile is as good.
                kill(pid).ok();
            }
            std::thread::sleep(super::LOOK);
        }
    }
}
