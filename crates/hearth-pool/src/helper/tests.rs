//! Helpers as processes of their own: this test program again, or a script that hangs in the kernel. The contracts
//! of grounds are kept over the wire in `tests/*_by_helper.rs`.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Instant;

use hearth_safeguards::{Elsewhere, GuardError, Operation, OperationGuard, Purpose, Settings};
use hearth_types::mark::OwnerMark;
use hearth_types::observe::{ProcessRole, ROLE_ENV};
use hearth_types::pool::PoolOperationState;
use hearth_types::units::Bytes;
use hearth_types::{InstallationId, survey::chain};
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::fake::FakeGround;
use crate::files;

const LONG: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(300);
/// Tells this program that it shall be a daemon, and where to write what its helper's number is.
const DAEMON: &str = "HEARTH_TEST_DAEMON";

/// Not a test of its own: what this program does when it was started as a helper.
#[test]
fn child() {
    if std::env::var(ROLE_ENV).ok().as_deref() != Some(ProcessRole::Helper.as_str()) {
        return;
    }
    hearth_host::signals::interrupt_only(Signal::TERM).unwrap();
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    serve(UnixStream::from(stdin), &FakeGround::default()).unwrap();
}

fn mark() -> OwnerMark {
    OwnerMark::shared(InstallationId::new())
}

fn ours() -> std::io::Result<Started> {
    command(
        "/proc/self/exe",
        &["--exact", "helper::tests::child", "--nocapture"],
        mark(),
    )
}

/// It hears one call, and hangs in the kernel from then on: as vfork(2) says, in state D until its child is
/// gone, which sleeps. 56 is clone on x86-64.
fn stuck() -> std::io::Result<Started> {
    let script = "$SIG{TERM} = 'IGNORE'; sysread(STDIN, my $call, 4096); my $p = syscall(56, 0x4000 | 17, 0, 0, 0, 0); \
                  if ($p == 0) { select(undef, undef, undef, 600); exit 0 }";
    command("/usr/bin/perl", &["-e", script], mark())
}

/// Ends the child for which such a helper waits.
fn let_go(helper: i32) {
    let file = format!("/proc/{helper}/task/{helper}/children");
    for child in std::fs::read_to_string(file).unwrap().split_whitespace() {
        let pid = Pid::from_raw(child.parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
}

fn has_perl() -> bool {
    let there = cfg!(target_arch = "x86_64") && std::path::Path::new("/usr/bin/perl").exists();
    if !there {
        println!("SKIP: perl on x86-64 is needed");
    }
    there
}

fn until(what: &str, met: impl Fn() -> bool) {
    let give_up = Instant::now() + LONG;
    while !met() {
        assert!(Instant::now() < give_up, "{what} never came true");
        std::thread::yield_now();
    }
}

struct World {
    place: Place,
    helpers: Helpers,
    ground: HelperGround,
    guard: OperationGuard,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(start: fn() -> std::io::Result<Started>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(folder.path().join("pool")).unwrap();
        let helpers = Helpers::new(start);
        let elsewhere: Arc<dyn Elsewhere> = Arc::new(helpers.clone());
        Self {
            place: Place::new(&dir, InstallationId::new()),
            ground: HelperGround::new(Arc::new(FakeGround::default()), helpers.clone()),
            guard: OperationGuard::with_elsewhere(Settings::default(), None, Some(elsewhere)),
            helpers,
            _folder: folder,
        }
    }

    /// A pool that the helper's kernel has, and whose next look waits until somebody writes.
    fn with_pool_that_hangs(&self) {
        let layout = Layout::of(Some(Bytes::mib(64))).unwrap();
        files::make_folder(&self.place).unwrap();
        files::make(&self.place, &layout, true).unwrap();
        self.ground.assemble(&self.place, &layout).unwrap();
        std::fs::remove_file(self.place.data()).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        let data = self.place.data();
        rustix::fs::mknodat(rustix::fs::CWD, data.as_std_path(), kind, mode, 0).unwrap();
    }

    /// What waits goes on.
    fn write(&self) {
        let data = self.place.data();
        drop(std::fs::OpenOptions::new().write(true).open(&data).unwrap());
        std::fs::remove_file(&data).unwrap();
        std::fs::write(&data, "").unwrap();
    }

    async fn look(&self, deadline: Duration) -> Result<Result<Found, PoolError>, GuardError> {
        let (ground, place) = (self.ground.clone(), self.place.clone());
        let operation = Operation {
            name: "a look",
            purpose: Purpose::Relief,
            deadline,
            pool: None,
        };
        self.guard.run(operation, move || ground.find(&place)).await
    }

    fn helper(&self) -> i32 {
        self.guard.queue()[0].helper.unwrap()
    }
}

#[tokio::test]
async fn one_helper_makes_all_calls_and_one_that_was_ended_is_replaced() {
    let world = World::new(ours);
    assert_eq!(world.helpers.started(), 0, "the first call starts it");
    assert_eq!(world.ground.find(&world.place).unwrap(), Found::Nothing);
    let error = world.ground.create_thin(&world.place, 1).unwrap_err();
    assert!(
        error.is_refusal() || chain(&error).contains("down"),
        "{error:?}"
    );
    assert_eq!(world.helpers.started(), 1);
    let own = std::process::id();
    let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
    let all = hearth_host::waits::children().unwrap();
    assert_eq!(all.len(), 1, "{children}");
    kill_process(Pid::from_raw(all[0]).unwrap(), Signal::KILL).unwrap();
    until("its end", || {
        std::fs::read_to_string(format!("/proc/{}/stat", all[0]))
            .is_ok_and(|stat| stat.contains(") Z "))
    });
    assert_eq!(world.ground.find(&world.place).unwrap(), Found::Nothing);
    assert_eq!(world.helpers.started(), 2);
    // Nobody needs them any more: they end, and are waited for.
    drop(world);
    assert_eq!(hearth_host::waits::children().unwrap(), Vec::<i32>::new());
}

#[tokio::test]
async fn one_that_hangs_is_given_up_others_go_on_and_its_late_end_frees_the_turn() {
    let world = World::new(ours);
    world.with_pool_that_hangs();
    let stuck = world.look(MOMENT).await.unwrap_err();
    let queue = world.guard.queue();
    assert_eq!(queue[0].state, PoolOperationState::Stuck);
    let pid = world.helper();
    let said = stuck.to_string();
    assert!(said.contains(&format!("helper process {pid}: ")), "{said}");
    // A look beside it has a helper of its own, and the next change waits for nobody.
    assert_eq!(world.ground.find(&world.place).unwrap(), Found::Nothing);
    let behind = world.look(LONG).await.unwrap_err();
    assert!(matches!(behind, GuardError::Behind { .. }), "{behind}");
    world.write();
    until("its end", || world.guard.queue().is_empty());
    assert_eq!(world.helpers.started(), 2);
    assert!(world.look(LONG).await.is_ok());
}

#[tokio::test]
async fn one_that_is_killed_in_the_middle_leaves_it_open_what_was_done() {
    let world = World::new(ours);
    world.with_pool_that_hangs();
    assert!(world.look(MOMENT).await.is_err());
    kill_process(Pid::from_raw(world.helper()).unwrap(), Signal::KILL).unwrap();
    until("its end", || world.guard.queue().is_empty());
    let (ground, place) = (world.ground.clone(), world.place.clone());
    // The new one knows nothing of that pool.
    assert_eq!(ground.find(&place).unwrap(), Found::Nothing);

    let world = World::new(|| command("/bin/false", &[], mark()));
    let error = world.ground.create_thin(&world.place, 1).unwrap_err();
    let none = matches!(error, ThinError::Pool(PoolError::NoHelper { .. }));
    let cut = matches!(error, ThinError::Pool(PoolError::Helper { .. }));
    assert!(
        (none && error.is_refusal()) || (cut && !error.is_refusal()),
        "{error:?}"
    );
    let world = World::new(|| command("/no/such/program", &[], mark()));
    let error = world.ground.create_thin(&world.place, 1).unwrap_err();
    assert!(error.is_refusal(), "nothing was begun: {error:?}");
}

#[test]
fn what_was_begun_is_ended_also_when_the_daemon_is_gone() {
    let world = World::new(ours);
    world.with_pool_that_hangs();
    let mut started = ours().unwrap();
    let assemble = wire::Request {
        place: world.place.clone(),
        call: Call::Find,
    };
    wire::send(&mut started.stream, &assemble).unwrap();
    drop(started.stream);
    let ended = started.process.unwrap().wait().unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn one_that_hears_no_signal_is_told_with_its_pid_and_what_it_waits_for() {
    if !has_perl() {
        return;
    }
    let world = World::new(stuck);
    let error = world.look(MOMENT).await.unwrap_err();
    let pid = world.helper();
    let said = error.to_string();
    assert!(
        said.contains(&format!("helper process {pid}: thread {pid}")),
        "{said}"
    );
    assert!(said.contains("waits in the kernel"), "{said}");
    let_go(pid);
    until("its end", || world.guard.queue().is_empty());
}

/// Not a test of its own: a daemon whose helper hangs.
#[test]
fn daemon() {
    let Some(file) = std::env::var_os(DAEMON) else {
        return;
    };
    let world = World::new(stuck);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        world.look(MOMENT).await.unwrap_err();
        let draft = std::path::Path::new(&file).with_extension("new");
        std::fs::write(&draft, world.helper().to_string()).unwrap();
        std::fs::rename(&draft, &file).unwrap();
        std::future::pending::<()>().await;
    });
}

#[test]
fn the_daemon_ends_at_once_and_what_hangs_is_left() {
    if !has_perl() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("helper");
    let mut daemon = Command::new("/proc/self/exe")
        .args(["--exact", "helper::tests::daemon", "--nocapture"])
        .env(DAEMON, &file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the helper hangs", || file.exists());
    let helper: i32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    let ended = daemon.wait().unwrap();
    assert_eq!(ended.signal(), Some(Signal::TERM.as_raw()));
    let waits = hearth_host::waits::of_process(helper).unwrap();
    assert_eq!(waits.len(), 1, "it has not been killed: {waits:?}");
    let_go(helper);
}
