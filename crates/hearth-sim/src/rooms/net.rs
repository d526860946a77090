//! The simulated network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use async_trait::async_trait;

use hearth_net::{Lookalike, NetError, Network, TapSpec};
use hearth_types::Survey;
use hearth_types::net::RuleSet;
use hearth_types::observe::{ObservedBridge, ObservedNames, ObservedTap};

use super::Rooms;
use crate::host::HostError;

fn failed(operation: &'static str, object: &str, error: HostError) -> NetError {
    match error {
        HostError::Foreign(object) => NetError::Foreign { object },
        slow @ HostError::Slow(_) => NetError::Failed {
            operation,
            object: object.to_owned(),
            source: Box::new(std::io::Error::new(std::io::ErrorKind::TimedOut, slow)),
        },
        error => NetError::Failed {
            operation,
            object: object.to_owned(),
            source: Box::new(error),
        },
    }
}

fn known<T>(object: &str, survey: Survey<T>) -> Result<T, NetError> {
    match survey {
        Survey::Known(known) => Ok(known),
        Survey::Unknown(why) => Err(NetError::Failed {
            operation: "look at",
            object: object.to_owned(),
            source: why.into(),
        }),
    }
}

#[async_trait]
impl Network for Rooms {
    async fn check(&self) -> Result<(), NetError> {
        Ok(())
    }

    async fn bridge(&self) -> Result<Option<ObservedBridge>, NetError> {
        self.look_begins("bridge").await;
        known("bridge", self.look().survey().bridge)
    }

    async fn ensure_bridge(&self) -> Result<(), NetError> {
        self.change(|host| {
            host.fault("ensure_bridge")?;
            host.bridge = Some(true);
            Ok(())
        })
        .map_err(|error| failed("make", "bridge", error))
    }

    async fn remove_bridge(&self) -> Result<(), NetError> {
        self.change(|host| {
            host.fault("remove_bridge")?;
            host.bridge = None;
            Ok(())
        })
        .map_err(|error| failed("remove", "bridge", error))
    }

    async fn taps(&self) -> Result<Vec<ObservedTap>, NetError> {
        self.look_begins("taps").await;
        known("TAPs", self.look().survey().taps)
    }

    async fn ensure_tap(&self, tap: &TapSpec) -> Result<(), NetError> {
        let Some(vm) = tap.mark.vm() else {
            return Err(failed("make", &tap.name, HostError::Missing("its VM")));
        };
        self.change(|host| {
            host.fault("ensure_tap")?;
            host.make_tap(vm)
        })
        .map_err(|error| failed("make", &tap.name, error))
    }

    async fn remove_tap(&self, tap: &ObservedTap) -> Result<(), NetError> {
        self.change(|host| {
            host.fault("remove_tap")?;
            host.remove_tap(tap)
        })
        .map_err(|error| failed("remove", &tap.name, error))
    }

    async fn rules(&self) -> Result<Option<RuleSet>, NetError> {
        self.look_begins("rules").await;
        known("rules", self.look().survey().rules)
    }

    async fn apply_rules(&self, rules: &RuleSet) -> Result<(), NetError> {
        self.change(|host| {
            host.fault("apply_rules")?;
            host.rules = Some(rules.clone());
            Ok(())
        })
        .map_err(|error| failed("apply", "rules", error))
    }

    async fn remove_rules(&self) -> Result<(), NetError> {
        self.change(|host| {
            host.fault("remove_rules")?;
            host.rules = None;
            Ok(())
        })
        .map_err(|error| failed("remove", "rules", error))
    }

    async fn flush_conntrack(&self, ip: Ipv4Addr) -> Result<(), NetError> {
        self.change(|host| {
            host.fault("flush_conntrack")?;
            host.tracked.remove(&ip);
            Ok(())
        })
        .map_err(|error| failed("flush", "connections", error))
    }

    async fn connections(&self) -> Result<BTreeMap<Ipv4Addr, usize>, NetError> {
        self.change(|host| {
            host.fault("connections")?;
            Ok(host.tracked.iter().map(|ip| (*ip, 1)).collect())
        })
        .map_err(|error| failed("count", "connections", error))
    }

    async fn lookalikes(&self) -> Result<Vec<Lookalike>, NetError> {
        Ok(Vec::new())
    }

    async fn names(&self) -> Result<ObservedNames, NetError> {
        self.look_begins("names").await;
        known("name server", self.look().survey().names)
    }

    async fn ensure_names(&self, hosts: &BTreeMap<String, Ipv4Addr>) -> Result<(), NetError> {
        self.change(|host| {
            host.fault("ensure_names")?;
            host.names = ObservedNames {
                running: true,
                hosts: hosts.clone(),
            };
            Ok(())
        })
        .map_err(|error| failed("run", "name server", error))
    }

    async fn remove_names(&self) -> Result<(), NetError> {
        self.change(|host| {
            host.fault("remove_names")?;
            host.names = ObservedNames::default();
            Ok(())
        })
        .map_err(|error| failed("end", "name server", error))
    }

    async fn changed(&self) -> Result<(), NetError> {
        self.network_news().await;
        Ok(())
    }
}
