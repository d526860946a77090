//! Where systemd and `/proc` disagree about a VM. Nothing is done about it here: what counts
//! is whether a VMM lives, and that is decided by its processes alone.

use hearth_types::ids::VmId;
use hearth_types::names::unit_name;
use hearth_types::observe::UnitState;
use hearth_types::survey::Survey;

use crate::index::Index;
use crate::model::{Plan, World};

/// How they disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disagreement {
    /// The unit is active, and no process of the VM lives.
    Empty,
    /// The unit has failed or does not run, and a VMM of the VM lives.
    Over,
}

impl Disagreement {
    /// In one sentence for people.
    #[must_use]
    pub fn tell(self, vm: VmId) -> String {
        let unit = unit_name(vm);
        match self {
            Self::Empty => format!(
                "its unit {unit} is active, and no process of it lives: `systemctl status {unit}` says what is in it"
            ),
            Self::Over => {
                format!(
                    "its unit {unit} is over, and its VMM lives outside of it, without its limits"
                )
            }
        }
    }
}

/// Every VM of the database about which they disagree now. A unit that begins or ends may be
/// among them for a moment: the two were not asked at the same time.
#[must_use]
pub fn disagreements(world: &World) -> Vec<(VmId, Disagreement)> {
    found(world, &Index::new(world))
}

fn found(world: &World, index: &Index<'_>) -> Vec<(VmId, Disagreement)> {
    let observed = &world.observed;
    let (Some(units), Some(_)) = (observed.units.known(), observed.processes.known()) else {
        return Vec::new();
    };
    let ours = units
        .iter()
        .filter(|unit| unit.mark.installation == world.installation);
    let judged = ours.filter_map(|unit| {
        let vm = unit.mark.vm()?;
        let seen = index.of(vm);
        let lives = !seen.vmms.is_empty();
        let empty = !lives && seen.shims.is_empty();
        match unit.state {
            _ if !seen.desired => None,
            UnitState::Active if empty => Some((vm, Disagreement::Empty)),
            UnitState::Failed | UnitState::Inactive if lives => Some((vm, Disagreement::Over)),
            _ => None,
        }
    });
    judged.collect()
}

/// Says it in the plan.
pub(crate) fn note(world: &World, index: &Index<'_>, plan: &mut Plan) {
    if let Survey::Unknown(why) = &world.observed.units {
        plan.note(
            None,
            format!("units could not be surveyed, so none is removed: {why}"),
        );
    }
    for (vm, disagreement) in found(world, index) {
        let desired = world.vms.iter().find(|desired| desired.id == vm);
        plan.note(desired, disagreement.tell(vm));
    }
}
