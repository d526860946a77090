//! What happens to a VM after a reboot of the host, and when it is left alone for a while.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{FieldError, VmSpec};
use crate::ids::InvalidId;
use crate::names::VmName;
use crate::status::recovery::MAX_FAILURES;
use crate::units::Span;

/// The most VMs that one VM may name in `after`.
pub const MAX_AFTER: usize = 32;
/// The longest window and cool-down of a VM's own breaker: a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The shortest.
const SHORTEST: Duration = Duration::from_secs(1);

/// Which VMs are started again after a reboot of the host. A VM's restart policy has to want
/// it in any case.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum BootstrapPolicy {
    /// All whose restart policy wants it.
    #[default]
    RestartAll,
    /// Of those only the ones that ran when the host went down and were not failing: no failure
    /// since they were last stable, no open breaker, not unhealthy.
    RestartHealthy,
    /// None: they wait for `hearth start` or `hearth recover`.
    Manual,
}

impl BootstrapPolicy {
    /// Every policy, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::RestartAll, Self::RestartHealthy, Self::Manual];

    /// As in files, requests and flags.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RestartAll => "restart-all",
            Self::RestartHealthy => "restart-healthy",
            Self::Manual => "manual",
        }
    }
}

impl fmt::Display for BootstrapPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BootstrapPolicy {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| InvalidId {
            kind: "bootstrap policy",
            value: text.to_owned(),
            expected: "restart-all, restart-healthy or manual",
        })
    }
}

/// A VM's own circuit breaker. What is absent is as the daemon's configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerSpec {
    /// So many failures within the window open it, at most 16; 0: it never opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 16)]
    pub failures: Option<u32>,
    /// The window, `1s` to `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// How long it stays open before the first trial, `1s` to `24h`; doubles with each trial
    /// that fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Span>,
}

impl BreakerSpec {
    /// Nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl VmSpec {
    pub(super) fn check_recovery(&self, errors: &mut Vec<FieldError>) {
        if self.after.len() > MAX_AFTER {
            let message = format!("are {}, must be at most {MAX_AFTER}", self.after.len());
            errors.push(FieldError::new("after", message));
        }
        for (index, name) in self.after.iter().enumerate() {
            let path = format!("after[{index}]");
            if *name == self.name {
                errors.push(FieldError::new(path, "a VM cannot wait for itself"));
            } else if self.after[..index].contains(name) {
                errors.push(FieldError::new(path, format!("{name} is named twice")));
            }
        }
        let breaker = &self.breaker;
        let most = u32::try_from(MAX_FAILURES).unwrap_or(u32::MAX);
        if let Some(failures) = breaker.failures.filter(|count| *count > most) {
            let message = format!("is {failures}, must be 0 to {most}");
            errors.push(FieldError::new("breaker.failures", message));
        }
        for (field, span) in [
            ("breaker.window", breaker.window),
            ("breaker.cooldown", breaker.cooldown),
        ] {
            let bad = |span: &Span| !(SHORTEST..=LONGEST).contains(&span.as_duration());
            if let Some(span) = span.filter(bad) {
                let message = format!("is {span}, must be 1s to 24h");
                errors.push(FieldError::new(field, message));
            }
        }
    }
}

/// The circle that a VM would close if it were started after these: from the VM over those
/// that it waits for back to it. `after` says for a name whom that VM waits for; a name
/// without a VM waits for nobody.
#[must_use]
pub fn circle<'a>(
    name: &'a VmName,
    first: &'a [VmName],
    after: impl Fn(&VmName) -> &'a [VmName],
) -> Option<Vec<VmName>> {
    // Depth first. Each VM is entered once: one from which no way leads back is done with.
    let mut seen = std::collections::BTreeSet::new();
    let mut path: Vec<(&VmName, std::slice::Iter<'a, VmName>)> = vec![(name, first.iter())];
    while let Some((_, next)) = path.last_mut() {
        match next.next() {
            Some(next) if next == name => {
                let names = path.iter().map(|(name, _)| VmName::clone(name));
                return Some(names.chain([name.clone()]).collect());
            }
            Some(next) if seen.insert(next) => path.push((next, after(next).iter())),
            Some(_) => {}
            None => drop(path.pop()),
        }
    }
    None
}

/// A circle in words: `db → web → db`.
#[must_use]
pub fn circle_words(circle: &[VmName]) -> String {
    let names: Vec<_> = circle.iter().map(VmName::as_str).collect();
    names.join(" → ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(n: usize) -> VmName {
        format!("vm-{n}").parse().unwrap()
    }

    fn circle_of(edges: &BTreeMap<VmName, Vec<VmName>>, vm: &VmName) -> Option<Vec<VmName>> {
        let after = |vm: &VmName| edges.get(vm).map_or(&[][..], Vec::as_slice);
        let first = edges.get(vm).map_or(&[][..], Vec::as_slice);
        circle(vm, first, after)
    }

    #[test]
    fn a_circle_is_told_from_its_first_vm_to_its_last() {
        let of = |pairs: &[(usize, usize)]| {
            let mut edges: BTreeMap<VmName, Vec<VmName>> = BTreeMap::new();
            for (vm, other) in pairs {
                edges.entry(name(*vm)).or_default().push(name(*other));
            }
            edges
        };
        let line = of(&[(0, 1), (1, 2), (0, 2), (2, 3)]);
        assert_eq!(circle_of(&line, &name(0)), None);
        let round = of(&[(0, 4), (0, 1), (1, 2), (2, 0)]);
        let found = circle_of(&round, &name(0)).unwrap();
        assert_eq!(circle_words(&found), "vm-0 → vm-1 → vm-2 → vm-0");
        // Somebody else's circle is not this VM's.
        let beside = of(&[(0, 1), (1, 2), (2, 1)]);
        assert_eq!(circle_of(&beside, &name(0)), None);
    }

    proptest! {
        /// VMs come one by one in any order, and one that would close a circle is refused: what
        /// is accepted can be put in order, and what was refused could not have been.
        #[test]
        fn no_circle_is_ever_accepted_and_nothing_else_is_refused(
            pairs in prop::collection::vec((0_usize..8, 0_usize..8), 0..40),
        ) {
            let mut edges: BTreeMap<VmName, Vec<VmName>> = BTreeMap::new();
            for (vm, other) in pairs.into_iter().filter(|(vm, other)| vm != other) {
                let mut wanted = edges.clone();
                wanted.entry(name(vm)).or_default().push(name(other));
                let found = circle_of(&wanted, &name(vm));
                prop_assert_eq!(found.is_none(), in_order(&wanted));
                if let Some(found) = found {
                    prop_assert_eq!(found.first(), found.last());
                    for pair in found.windows(2) {
                        prop_assert!(wanted[&pair[0]].contains(&pair[1]));
                    }
                } else {
                    edges = wanted;
                }
            }
        }
    }

    /// Kahn: take away who waits for nobody that is left, until nobody is left.
    fn in_order(edges: &BTreeMap<VmName, Vec<VmName>>) -> bool {
        let mut left = edges.clone();
        loop {
            let waits = |after: &Vec<VmName>| after.iter().any(|vm| left.contains_key(vm));
            let free: Vec<_> = left.iter().filter(|(_, after)| !waits(after)).collect();
            let free: Vec<VmName> = free.into_iter().map(|(vm, _)| vm.clone()).collect();
            if free.is_empty() {
                return left.is_empty();
            }
            for vm in free {
                left.remove(&vm);
            }
        }
    }

    #[test]
    fn values_are_checked_at_their_paths() {
        let mut spec = VmSpec::new(name(0), "demo:1");
        spec.after = vec![name(1), name(0), name(1)];
        spec.breaker = BreakerSpec {
            failures: Some(17),
            window: Some(Span::millis(10)),
            cooldown: Some(Span::secs(24 * 3600 + 1)),
        };
        let errors: Vec<_> = spec.check().iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "after[1]: a VM cannot wait for itself",
                "after[2]: vm-1 is named twice",
                "breaker.failures: is 17, must be 0 to 16",
                "breaker.window: is 10ms, must be 1s to 24h",
                "breaker.cooldown: is 86401s, must be 1s to 24h",
            ]
        );
        spec.after = (1..=MAX_AFTER).map(name).collect();
        spec.breaker = BreakerSpec {
            failures: Some(0),
            window: Some(Span::secs(1)),
            cooldown: Some(Span::secs(24 * 3600)),
        };
        assert_eq!(spec.check(), []);
        spec.after.push(name(99));
        assert_eq!(
            spec.check()[0].to_string(),
            "after: are 33, must be at most 32"
        );
    }

    #[test]
    fn a_spec_without_them_is_written_as_before() {
        let spec = VmSpec::new(name(0), "demo:1");
        let text = serde_json::to_string(&spec).unwrap();
        for field in ["bootstrap", "after", "breaker"] {
            assert!(!text.contains(field), "{text}");
        }
        let text = r#"{"name":"a","image":"x","bootstrap":"restart-healthy","after":["db"],"breaker":{"failures":2,"window":"1m"}}"#;
        let spec: VmSpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec.bootstrap, Some(BootstrapPolicy::RestartHealthy));
        assert_eq!(spec.breaker.window, Some(Span::secs(60)));
        let again: VmSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(spec, again);
    }
}
