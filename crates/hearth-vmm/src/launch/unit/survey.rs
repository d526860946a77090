//! Which units of ours there are, and how one that nobody needs goes.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use hearth_systemd::{Listed, Manager, State, SystemdError};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::mark::OWNER_ENV;
use hearth_types::names::{unit_name, vm_of_unit};
use hearth_types::observe::{ObservedUnit, UnitState};
use hearth_types::survey::Survey;

use super::{GONE_DEADLINE, GONE_RETRY, limits};
use crate::VmmError;

/// The names of all units of VMs, of this installation and others.
const ALL: &str = "hearth-vm-*.service";

/// All units of this installation. `known` are the VMs of the database with their folders: their
/// ids are proof enough. Any other unit is asked for its mark.
pub(crate) async fn survey(
    installation: InstallationId,
    known: &BTreeMap<VmId, Utf8PathBuf>,
) -> Result<Vec<ObservedUnit>, SystemdError> {
    let manager = Manager::connect().await?;
    let mut units = Vec::new();
    for listed in manager.list(ALL).await? {
        let Some(vm) = vm_of_unit(&listed.name) else {
            continue;
        };
        if let Some(dir) = known.get(&vm) {
            units.push(ObservedUnit {
                mark: OwnerMark::of_vm(installation, vm),
                state: state(listed.state),
                since: None,
                limits: limits::survey(vm, dir).await,
            });
            continue;
        }
        let Some(mark) = mark_of(&manager, &listed).await? else {
            continue;
        };
        if mark == OwnerMark::of_vm(installation, vm) {
            units.push(ObservedUnit {
                mark,
                state: state(listed.state),
                since: manager.since(&listed).await?,
                limits: Survey::Known(Vec::new()),
            });
        }
    }
    Ok(units)
}

/// The owner mark in a unit's environment.
async fn mark_of(manager: &Manager, listed: &Listed) -> Result<Option<OwnerMark>, SystemdError> {
    let environment = manager.environment(listed).await?;
    let owner = environment
        .iter()
        .find_map(|entry| entry.strip_prefix(OWNER_ENV)?.strip_prefix('='));
    Ok(owner.and_then(|owner| owner.parse().ok()))
}

const fn state(state: State) -> UnitState {
    match state {
        State::Active => UnitState::Active,
        State::Deactivating => UnitState::Deactivating,
        State::Failed => UnitState::Failed,
        State::Inactive => UnitState::Inactive,
    }
}

/// Stops the unit of a mark and lets systemd forget it. One that is gone is a success, and one of
/// another mark is left.
pub(crate) async fn remove(mark: OwnerMark) -> Result<(), VmmError> {
    let Some(vm) = mark.vm() else {
        return Ok(());
    };
    let failed = |detail: String| VmmError::Control {
        vm,
        command: "the removal of its unit".to_owned(),
        detail,
    };
    let work = async {
        let name = unit_name(vm);
        let manager = Manager::connect().await?;
        while let Some(listed) = manager.look(&name).await? {
            if mark_of(&manager, &listed).await? != Some(mark) {
                return Ok(false);
            }
            match listed.state {
                State::Failed | State::Inactive => manager.reset_failed(&name).await?,
                State::Active => manager.stop(&name).await?,
                State::Deactivating => {}
            }
            tokio::time::sleep(GONE_RETRY).await;
        }
        Ok::<_, SystemdError>(true)
    };
    match tokio::time::timeout(GONE_DEADLINE, work).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(failed("it is not this installation's".to_owned())),
        Ok(Err(error)) => Err(failed(hearth_types::survey::chain(&error))),
        Err(_) => Err(failed(format!(
            "it did not go within {} s; look at `systemctl status {}`",
            GONE_DEADLINE.as_secs(),
            unit_name(vm)
        ))),
    }
}
