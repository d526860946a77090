//! Against real processes: `sleep` children with and without the mark.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::mark::OWNER_ENV;
use hearth_types::observe::{ProcessRole, ROLE_ENV};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A child that is killed and reaped when the test ends.
struct Sleeper(Child);

impl Sleeper {
    fn start(mark: Option<OwnerMark>, role: &str) -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").env_clear().stdin(Stdio::null());
        if let Some(mark) = mark {
            command.env(OWNER_ENV, mark.to_string()).env(ROLE_ENV, role);
        }
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn mark() -> OwnerMark {
    OwnerMark::of_vm(InstallationId::new(), VmId::new())
}

#[tokio::test]
async fn an_identity_is_read_proven_and_used() {
    let mark = mark();
    let sleeper = Sleeper::start(Some(mark), "vmm");
    let identity = identity_of(sleeper.pid()).unwrap().unwrap();
    assert_eq!(identity.mark, mark);
    assert!(identity.exe.contains("sleep") || identity.exe.contains("coreutils"));
    let proven = prove(&identity).unwrap();
    assert!(!proven.is_dead());
    let short = proven.wait_dead(Duration::from_millis(10)).await;
    assert!(
        matches!(short, Err(WaitError::Deadline { .. })),
        "{short:?}"
    );
    proven.signal(Signal::KILL).unwrap();
    proven.wait_dead(LONG).await.unwrap();
    // Nobody has reaped it: it is a zombie now, which is dead.
    assert!(matches!(prove(&identity), Err(NotProven::Gone)));
    assert_eq!(identity_of(sleeper.pid()).unwrap(), None);
    assert_eq!(survey(mark.installation).unwrap(), []);
    proven.signal(Signal::KILL).unwrap();
    tokio::time::timeout(LONG, watch(identity)).await.unwrap();
}

#[test]
fn every_part_of_the_identity_counts() {
    let sleeper = Sleeper::start(Some(mark()), "vmm");
    let right = identity_of(sleeper.pid()).unwrap().unwrap();
    let wrong = |change: fn(&mut ProcessIdentity)| {
        let mut identity = right.clone();
        change(&mut identity);
        match prove(&identity) {
            Err(NotProven::Different { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    // A pid that was given to another process later has another start time.
    assert_eq!(wrong(|id| id.start_time += 1), "start time");
    assert_eq!(wrong(|id| id.exe.push('x')), "program");
    assert_eq!(wrong(|id| id.mark = mark()), "mark");
    assert_eq!(wrong(|id| id.boot_id = "another".into()), "boot id");
    assert_eq!(wrong(|id| id.pid = 0), "pid");
    assert_eq!(wrong(|id| id.pid = -1), "pid");
    prove(&right).unwrap();
}

#[test]
fn an_unmarked_process_is_never_proven() {
    let sleeper = Sleeper::start(None, "");
    assert!(matches!(
        identity_of(sleeper.pid()),
        Err(ProcessError::NotMarked { .. })
    ));
    let marked = Sleeper::start(Some(mark()), "vmm");
    let mut identity = identity_of(marked.pid()).unwrap().unwrap();
    identity.pid = sleeper.pid();
    assert!(matches!(
        prove(&identity),
        Err(NotProven::Different { what: "mark", .. })
    ));
}

#[test]
fn surveys_list_ours_only() {
    let ours = mark();
    let other_vm = OwnerMark::of_vm(ours.installation, VmId::new());
    let vmm = Sleeper::start(Some(ours), "vmm");
    let shim = Sleeper::start(Some(other_vm), "shim");
    let _no_mark = Sleeper::start(None, "");
    let _other_installation = Sleeper::start(Some(mark()), "vmm");
    let _no_role = Sleeper::start(Some(ours), "");
    let stopped = Sleeper::start(Some(OwnerMark::shared(ours.installation)), "names");
    rustix::process::kill_process(Pid::from_raw(stopped.pid()).unwrap(), Signal::STOP).unwrap();

    let mut found = survey(ours.installation).unwrap();
    found.sort_by_key(|process| process.role);
    let seen: Vec<_> = found
        .iter()
        .map(|process| (process.identity.pid, process.role, process.identity.mark))
        .collect();
    assert_eq!(
        seen,
        [
            (vmm.pid(), ProcessRole::Vmm, ours),
            (shim.pid(), ProcessRole::Shim, other_vm),
            (
                stopped.pid(),
                ProcessRole::Names,
                OwnerMark::shared(ours.installation)
            ),
        ]
    );
    for process in &found {
        prove(&process.identity).unwrap();
        assert_eq!(
            identity_of(process.identity.pid).unwrap().as_ref(),
            Some(&process.identity)
        );
        let age = jiff::Timestamp::now().duration_since(process.started_at);
        assert!((-1..60).contains(&age.as_secs()), "{age:?}");
    }
}

#[tokio::test]
async fn a_stopped_process_can_be_killed() {
    let sleeper = Sleeper::start(Some(mark()), "vmm");
    let identity = identity_of(sleeper.pid()).unwrap().unwrap();
    let proven = prove(&identity).unwrap();
    proven.signal(Signal::STOP).unwrap();
    let proven = prove(&identity).unwrap_or(proven);
    proven.signal(Signal::KILL).unwrap();
    proven.wait_dead(LONG).await.unwrap();
}

#[tokio::test]
async fn watchers_end_with_the_process_and_not_before() {
    let sleeper = Sleeper::start(Some(mark()), "vmm");
    let identity = identity_of(sleeper.pid()).unwrap().unwrap();
    let mut watching = tokio::spawn(watch(identity.clone()));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut watching).await;
    assert!(early.is_err(), "the process lives");
    prove(&identity).unwrap().signal(Signal::KILL).unwrap();
    tokio::time::timeout(LONG, watching).await.unwrap().unwrap();

    let mut somebody_else = identity;
    somebody_else.pid = i32::try_from(std::process::id()).unwrap();
    tokio::time::timeout(LONG, watch(somebody_else))
        .await
        .unwrap();
}

#[test]
fn a_process_that_was_reaped_is_gone() {
    let mut sleeper = Sleeper::start(Some(mark()), "vmm");
    let identity = identity_of(sleeper.pid()).unwrap().unwrap();
    sleeper.0.kill().unwrap();
    sleeper.0.wait().unwrap();
    assert_eq!(identity_of(identity.pid).unwrap(), None);
    assert!(matches!(prove(&identity), Err(NotProven::Gone)));
}

/// A child exists as soon as `spawn` returns, but its environment comes a moment later.
#[test]
fn processes_are_known_from_their_first_moment() {
    for _ in 0..200 {
        let mark = mark();
        let sleeper = Sleeper::start(Some(mark), "vmm");
        let identity = identity_of(sleeper.pid()).unwrap().unwrap();
        assert_eq!(identity.mark, mark);
        prove(&identity).unwrap();
    }
}

#[tokio::test]
async fn the_condition_of_a_process_is_seen() {
    let mut sleeper = Sleeper::start(Some(mark()), "vmm");
    let identity = identity_of(sleeper.pid()).unwrap().unwrap();
    assert_eq!(condition(&identity).unwrap(), Condition::Runs);
    let proven = prove(&identity).unwrap();
    proven.signal(Signal::STOP).unwrap();
    let stopped = async {
        while condition(&identity).unwrap() != Condition::Suspended {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, stopped).await.unwrap();
    let another = ProcessIdentity {
        start_time: identity.start_time + 1,
        ..identity.clone()
    };
    assert_eq!(condition(&another).unwrap(), Condition::Gone);
    proven.signal(Signal::KILL).unwrap();
    proven.wait_dead(LONG).await.unwrap();
    // A zombie is gone.
    assert_eq!(condition(&identity).unwrap(), Condition::Gone);
    sleeper.0.wait().unwrap();
    assert_eq!(condition(&identity).unwrap(), Condition::Gone);
}
