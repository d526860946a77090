//! What an automatic start waits for before it is its turn.
//!
//! ```text
//! due in a new boot ──► its disks are there? ──► the network is ready? ──┐
//! other automatic starts ────────────────────────────────────────────────┴► those it comes after
//!                                                                             │ up, or never
//!   Starting, reason "waits for …", until that changes ◄── coming ────────────┤
//!        └── others only: after_wait ──► started without them ◄───────────────┘
//! ```
//! What cannot be verified in a new boot is waited for as long as it takes: a start without it
//! would fail again and again, or make new disks where the old ones are only not mounted. The
//! user's own start waits for nothing.

use std::time::Duration;

use hearth_types::event::{NewEvent, Severity};
use hearth_types::status::{Awaited, VmStatus, Wait};
use hearth_types::survey::Survey;

use super::{UNTOLD, Vm};
use crate::bootstrap;
use crate::model::Step;
use crate::shared::bridged;
use crate::transition::{elapsed, later};

/// How soon to look again for VMs that are on their way: their starts and their health wake the loop, too.
const AWAITED: Duration = Duration::from_secs(5);

impl Vm<'_, '_> {
    /// Whether nothing stands against an automatic start now. If something does, it is stored.
    pub(super) fn nothing_to_wait_for(&mut self) -> bool {
        if self.status.asked {
            return true;
        }
        // A trial of the host's breaker waits for no other VM, and makes the network that it needs.
        let host = self.pass.host_breaker();
        let trial = host.is_some_and(|host| host.lets(self.vm.id));
        if bootstrap::is_due(self.world, self.vm)
            && let Some((on, why)) = self.unverified(trial)
        {
            self.plan.due(later(self.world.now, UNTOLD));
            self.wait_for(on, why, false);
            return false;
        }
        let others = || self.pass.names.waits_for(self.world, self.vm);
        if let Some(why) = (!trial).then(others).flatten() {
            return self.has_waited_enough(why);
        }
        if self.status.wait.is_some() {
            let next = VmStatus {
                wait: None,
                reason: None,
                ..self.status.clone().into_owned()
            };
            self.set(next, None, "what it has waited for is there");
        }
        true
    }

    /// Whether the time is over for which others are waited for.
    fn has_waited_enough(&mut self, why: String) -> bool {
        let now = self.world.now;
        let others = self.earlier_wait(Awaited::Vms);
        if others.is_some_and(|wait| wait.over) {
            return true;
        }
        let since = others.map_or(now, |wait| wait.since);
        let longest = self.world.policy.after_wait;
        let over = elapsed(since, now) >= longest;
        if !over {
            self.plan.due(later(now, AWAITED));
            self.plan.due(later(since, longest));
        }
        self.wait_for(Awaited::Vms, why, over);
        over
    }

    /// What it waits for since an earlier pass. With a clock that was set back it begins anew.
    fn earlier_wait(&self, on: Awaited) -> Option<&Wait> {
        let wait = self.status.wait.as_ref();
        wait.filter(|wait| wait.on == on && wait.since <= self.world.now)
    }

    /// What is not as the VM needs it for its first start in a new boot.
    fn unverified(&mut self, trial: bool) -> Option<(Awaited, String)> {
        let facts = &self.world.facts;
        let missing = match self.seen.dir {
            None => Some("its folder is missing"),
            Some(dir) if !dir.has_disk => Some("its folder has no complete disks"),
            Some(_) => facts.missing_disks.get(&self.vm.id).map(String::as_str),
        };
        // Disks that were never there are made.
        if let Some(missing) = missing.filter(|_| self.status.started_at.is_some()) {
            let hint = "mount or restore what is missing";
            let why = format!("waits for its disks: {missing}; {hint}");
            return Some((Awaited::Disks, why));
        }
        if trial || !bridged(self.vm) {
            return None;
        }
        let why = match (&self.world.observed.taps, &self.pass.network) {
            (Survey::Unknown(why), _) => format!("TAPs cannot be looked at: {why}"),
            (_, Some(why)) => why.clone(),
            (_, None) => return None,
        };
        self.plan.network_awaited = true;
        if self.earlier_wait(Awaited::Network).is_none() {
            // What is missing is made in this pass, and looked at in the next one.
            self.plan.due(self.world.now);
        }
        Some((Awaited::Network, format!("waits for the network: {why}")))
    }

    /// Stores what it waits for; `over`: that it waits no more.
    fn wait_for(&mut self, on: Awaited, why: String, over: bool) {
        if !over {
            self.plan.note(Some(self.vm), why.clone());
        }
        let earlier = self.earlier_wait(on);
        let wait = Wait {
            since: earlier.map_or(self.world.now, |wait| wait.since),
            on,
            reason: why.clone(),
            over,
        };
        let tells = earlier.is_none() || over;
        let next = VmStatus {
            reason: Some(why.clone()),
            wait: Some(wait),
            ..self.status.clone().into_owned()
        };
        if next == *self.status {
            return;
        }
        let event = tells.then(|| Box::new(self.told(&why, over)));
        self.plan.push(
            Step::SetStatus {
                vm: self.vm.id,
                status: Box::new(next.clone()),
                event,
            },
            if over {
                format!("{why}, and has long enough")
            } else {
                why
            },
        );
        self.status = std::borrow::Cow::Owned(next);
    }

    fn told(&self, why: &str, over: bool) -> NewEvent {
        let name = &self.vm.spec.name;
        let event = if over {
            let text = format!("{name} {why}, and has long enough: it is started all the same");
            NewEvent::info("vm.waited_enough", text).severity(Severity::Warning)
        } else {
            NewEvent::info("vm.waits", format!("{name} {why}"))
        };
        event.vm(self.vm.id, name)
    }
}
