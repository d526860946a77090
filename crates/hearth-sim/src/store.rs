//! The simulated database: desired state, status, leases, open intents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use jiff::Timestamp;

use hearth_plan::{DesiredVm, OpenIntent};
use hearth_types::ids::{IntentId, VmId};
use hearth_types::net::MacAddr;
use hearth_types::spec::{NetworkMode, VmSpec};
use hearth_types::status::{Goal, Leases, VmStatus};

/// The database.
#[derive(Debug, Clone, Default)]
pub struct SimStore {
    /// VMs by id.
    pub vms: BTreeMap<VmId, DesiredVm>,
    /// The journal's open entries.
    pub intents: Vec<OpenIntent>,
    /// VMs that the journal names.
    pub journaled: BTreeSet<VmId>,
    next_intent: u128,
}

impl SimStore {
    /// Records a VM and leases it what it needs: always the lowest free number, so that they
    /// are reused as soon as that is allowed.
    pub fn create(&mut self, id: VmId, spec: VmSpec, goal: Goal) {
        let taken: BTreeSet<u32> = self.vms.values().map(|vm| vm.leases.cid).collect();
        let number = (3_u32..).find(|n| !taken.contains(n)).unwrap_or(3);
        let [.., high, low] = number.to_be_bytes();
        let ip = Ipv4Addr::new(10, 213, high, low);
        let bridged = spec.network.mode == NetworkMode::Bridge;
        let vm = DesiredVm {
            id,
            spec,
            generation: 1,
            goal,
            force_stop: false,
            stop_timeout: None,
            leases: Leases {
                ip: bridged.then_some(ip),
                mac: bridged.then(|| MacAddr::for_ipv4(ip)),
                cid: number,
                uid: 64_000 + number,
            },
            status: VmStatus::default(),
        };
        self.vms.insert(id, vm);
    }

    /// The user's word. A VM that is to be removed stays so.
    pub fn set_goal(&mut self, id: VmId, goal: Goal, force: bool) {
        if let Some(vm) = self.vms.get_mut(&id)
            && vm.goal != Goal::Absent
        {
            vm.goal = goal;
            vm.force_stop = force;
            vm.generation += 1;
        }
    }

    /// Stores a status.
    pub fn set_status(&mut self, id: VmId, status: VmStatus) {
        if let Some(vm) = self.vms.get_mut(&id) {
            vm.status = status;
        }
    }

    /// Journals what is about to be done.
    pub fn begin(&mut self, vm: Option<VmId>, now: Timestamp) -> IntentId {
        self.next_intent += 1;
        let id = IntentId::from_uuid(uuid::Uuid::from_u128(self.next_intent));
        self.intents.push(OpenIntent {
            id,
            vm,
            begun_at: now,
        });
        id
    }

    /// Journals that it is done, or that a survey has seen how it ended.
    pub fn close(&mut self, id: IntentId) {
        self.intents.retain(|intent| intent.id != id);
    }
}
