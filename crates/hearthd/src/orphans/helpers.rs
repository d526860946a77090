//! Helper processes of daemons that are gone: one that hung when its daemon was replaced is still there.

use hearth_host::waits;
use hearth_plan::World;
use hearth_safeguards::wait_of;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::observe::{ObservedProcess, ProcessRole};
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};
use hearth_types::survey::Survey;

use super::unproven;
use crate::engine::Engine;

/// Nothing is done to them.
const FATE: &str = "it is in the kernel and ends what it has begun: it goes when the kernel lets go of it, or with a reboot";

/// Those of this installation that are no children of this process. Whose children cannot be told are no
/// others' either.
fn left(processes: &Survey<Vec<ObservedProcess>>) -> impl Iterator<Item = &ObservedProcess> {
    let own = waits::children().ok();
    let all = processes.known().into_iter().flatten();
    all.filter(|process| process.role == ProcessRole::Helper)
        .filter(move |process| {
            let own = own.as_ref();
            own.is_some_and(|own| !own.contains(&process.identity.pid))
        })
}

/// As the list of orphans has them.
pub(super) fn list(world: &World) -> Vec<Orphan> {
    let orphan = |process: &ObservedProcess| {
        let (pid, start) = (process.identity.pid, process.identity.start_time);
        Orphan {
            state: OrphanState::Unwanted,
            since: Some(process.started_at),
            fate: Fate {
                what: FateKind::Kept,
                at: None,
                why: FATE.to_owned(),
            },
            ..unproven(
                format!("helper-{pid}-{start}"),
                OrphanKind::Helper,
                format!("process {pid}"),
                format!(
                    "the daemon that it made calls for is gone; {}",
                    wait_of(pid)
                ),
                "",
            )
        }
    };
    left(&world.observed.processes).map(orphan).collect()
}

impl Engine {
    /// Tells of helpers that an earlier daemon has left.
    pub(crate) async fn tell_helpers_left(&self) {
        let observed = self.survey_all().await;
        for process in left(&observed.processes) {
            let message = format!(
                "the daemon before this one has left a helper that calls device-mapper: {}; {FATE}",
                wait_of(process.identity.pid)
            );
            let event = NewEvent::info("host.helper_left", message);
            self.tell(event.severity(Severity::Warning)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::InstallationId;
    use hearth_types::mark::OwnerMark;
    use hearth_types::process::ProcessIdentity;

    use super::*;

    #[test]
    fn those_of_others_are_listed_and_our_own_are_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let own = i32::try_from(child.id()).unwrap();
        let process = |pid, role| ObservedProcess {
            identity: ProcessIdentity {
                boot_id: "boot".to_owned(),
                pid,
                start_time: 7,
                exe: "/usr/bin/hearthd".into(),
                mark: OwnerMark::shared(InstallationId::new()),
            },
            role,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            suspended: false,
        };
        let other = i32::MAX;
        let observed = Survey::Known(vec![
            process(own, ProcessRole::Helper),
            process(other, ProcessRole::Helper),
            process(other, ProcessRole::Names),
        ]);
        let pids: Vec<i32> = left(&observed).map(|it| it.identity.pid).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(pids, [other]);
    }
}
