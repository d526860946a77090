//! What a survey of the host shows.

use std::collections::BTreeMap;

use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::observe::{
    Observed, ObservedBridge, ObservedDir, ObservedProcess, ObservedTap, ObservedUnit, ProcessRole,
    RunState,
};
use hearth_types::survey::Survey;

use super::{Kind, SimHost};

impl SimHost {
    /// Looks at everything that carries our mark.
    #[must_use]
    pub fn survey(&self) -> Observed {
        Observed {
            processes: self.look(Kind::Processes, self.seen_processes()),
            run_states: self.run_states(),
            units: self.look(Kind::Units, self.seen_units()),
            taps: self.look(Kind::Taps, self.seen_taps()),
            dirs: self.look(Kind::Dirs, self.seen_dirs()),
            bridge: self.look(
                Kind::Bridge,
                self.bridge.map(|ready| ObservedBridge { ready }),
            ),
            rules: self.look(Kind::Rules, self.rules.clone()),
            names: self.look(Kind::Names, self.names.clone()),
        }
    }

    fn look<T>(&self, kind: Kind, answer: T) -> Survey<T> {
        if self.unknown.contains(&kind) {
            Survey::Unknown(format!("simulated failure of the survey of {kind:?}"))
        } else {
            Survey::Known(answer)
        }
    }

    fn listed(&self, mark: OwnerMark) -> bool {
        self.leaky_survey || mark.installation == self.installation
    }

    fn seen_processes(&self) -> Vec<ObservedProcess> {
        let ours = self.processes.values();
        ours.filter(|p| self.listed(p.identity.mark))
            .map(|p| ObservedProcess {
                identity: p.identity.clone(),
                role: p.role,
                started_at: p.started_at,
                suspended: false,
            })
            .collect()
    }

    /// As systemd and the marks tell it. How long a state lasts is asked for all here.
    fn seen_units(&self) -> Vec<ObservedUnit> {
        let all = self.units.values();
        all.filter_map(|unit| {
            let mark = unit.mark.filter(|mark| self.listed(*mark))?;
            Some(ObservedUnit {
                mark,
                state: unit.state,
                since: Some(unit.since),
                limits: self.look(Kind::Limits, unit.changed.clone()),
            })
        })
        .collect()
    }

    fn run_states(&self) -> BTreeMap<VmId, Survey<RunState>> {
        let vmms = self.processes.values().filter(|p| {
            p.role == ProcessRole::Vmm && p.identity.mark.installation == self.installation
        });
        vmms.filter_map(|p| {
            let state = if p.paused {
                RunState::Paused
            } else {
                RunState::Running
            };
            Some((p.identity.mark.vm()?, self.look(Kind::RunStates, state)))
        })
        .collect()
    }

    fn seen_taps(&self) -> Vec<ObservedTap> {
        let all = self.taps.iter();
        all.filter_map(|(name, tap)| {
            let mark = tap.mark.filter(|mark| self.listed(*mark))?;
            Some(ObservedTap {
                name: name.clone(),
                index: tap.index,
                mark,
                attached: tap.attached,
            })
        })
        .collect()
    }

    fn seen_dirs(&self) -> Vec<ObservedDir> {
        let all = self.dirs.iter();
        all.map(|(vm, dir)| ObservedDir {
            vm: *vm,
            has_disk: dir.has_disk,
            behind: false,
            exit: dir.exit.clone(),
            changed_at: dir.changed_at,
        })
        .collect()
    }
}
