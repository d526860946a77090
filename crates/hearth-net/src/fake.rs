//! A network in memory behind the same trait, with faults on request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hearth_types::net::RuleSet;
use hearth_types::observe::{ObservedBridge, ObservedNames, ObservedTap};
use ipnet::Ipv4Net;
use tokio::sync::Notify;

use crate::{Lookalike, NetError, Network, NetworkConfig, TapSpec};

/// A fault to inject: the named operation of [`Network`] fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has changed nothing.
    Before,
    /// It has done its work and fails nevertheless, as when the daemon dies right after.
    After,
}

/// A network in memory.
///
/// It can be shared between threads. Foreign objects and routes are put there by the
/// `put_…` functions, and [`FakeNetwork::foreign`] shows whether they were left alone.
#[derive(Debug)]
pub struct FakeNetwork {
    config: NetworkConfig,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    bridge: bool,
    next_index: u32,
    taps: BTreeMap<String, (ObservedTap, u32)>,
    rules: Option<RuleSet>,
    names: ObservedNames,
    flushed: Vec<Ipv4Addr>,
    tracked: BTreeMap<Ipv4Addr, usize>,
    lookalikes: Vec<Lookalike>,
    foreign: BTreeSet<String>,
    routes: Vec<(Ipv4Net, String)>,
    faults: Vec<(&'static str, Fault)>,
    calls: Vec<&'static str>,
}

/// An injected fault.
#[derive(Debug, thiserror::Error)]
#[error("injected fault")]
struct Injected;

impl FakeNetwork {
    /// A network with nothing in it.
    #[must_use]
    pub fn new(config: NetworkConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Lets the next call of an operation (the trait's function name) fail. Several faults
    /// of one operation are used up in order.
    pub fn fail_next(&self, operation: &'static str, fault: Fault) {
        self.lock().faults.push((operation, fault));
    }

    /// Puts somebody else's interface there (a bridge, a TAP, anything).
    pub fn put_foreign_interface(&self, name: &str) {
        self.lock().foreign.insert(format!("interface {name}"));
    }

    /// Puts somebody else's table there.
    pub fn put_foreign_table(&self, name: &str) {
        self.lock().foreign.insert(format!("table {name}"));
    }

    /// Gives the host a route.
    pub fn put_route(&self, route: Ipv4Net, interface: &str) {
        self.lock().routes.push((route, interface.to_owned()));
    }

    /// Tracks connections of a guest's address.
    pub fn put_connections(&self, ip: Ipv4Addr, count: usize) {
        self.lock().tracked.insert(ip, count);
    }

    /// Puts an interface there that looks like ours.
    pub fn put_lookalike(&self, lookalike: Lookalike) {
        self.lock().lookalikes.push(lookalike);
    }

    /// Damages our table, as a hand edit or somebody's flush does.
    pub fn damage_rules(&self) {
        if let Some(rules) = &mut self.lock().rules {
            *rules = RuleSet::default();
        }
        self.news.notify_one();
    }

    /// Lets the name server die.
    pub fn kill_names(&self) {
        self.lock().names = ObservedNames::default();
    }

    /// Takes a TAP away behind our back; says whether it was there.
    pub fn lose_tap(&self, name: &str) -> bool {
        let lost = self.lock().taps.remove(name).is_some();
        self.news.notify_one();
        lost
    }

    /// What is there of others.
    #[must_use]
    pub fn foreign(&self) -> BTreeSet<String> {
        self.lock().foreign.clone()
    }

    /// The addresses whose connections were forgotten, in order.
    #[must_use]
    pub fn flushed(&self) -> Vec<Ipv4Addr> {
        self.lock().flushed.clone()
    }

    /// The operations called so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a test's other thread leaves the state as it was: fit for use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one operation with its faults.
    fn act<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut State, &NetworkConfig) -> Result<T, NetError>,
    ) -> Result<T, NetError> {
        let mut state = self.lock();
        state.calls.push(operation);
        let due = state.faults.iter().position(|(name, _)| *name == operation);
        let fault = due.map(|at| state.faults.remove(at).1);
        let failure = || NetError::failed(operation, "the fake network", Injected);
        if fault == Some(Fault::Before) {
            return Err(failure());
        }
        let done = work(&mut state, &self.config)?;
        if fault == Some(Fault::After) {
            return Err(failure());
        }
        Ok(done)
    }
}

impl State {
    fn refuse_foreign(&self, kind: &str, name: &str) -> Result<(), NetError> {
        if self.foreign.contains(&format!("{kind} {name}")) {
            return Err(NetError::Foreign {
                object: format!("{kind} {name}"),
            });
        }
        Ok(())
    }

    fn detach_all(&mut self) {
        for (tap, _) in self.taps.values_mut() {
            tap.attached = false;
        }
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn check(&self) -> Result<(), NetError> {
        self.act("check", |state, config| {
            let overlaps = |net: &Ipv4Net| {
                net.prefix_len() > 1
                    && (net.contains(&config.subnet) || config.subnet.contains(net))
            };
            match state.routes.iter().find(|(net, _)| overlaps(net)) {
                Some((route, interface)) => Err(NetError::Collision {
                    subnet: config.subnet,
                    route: *route,
                    interface: interface.clone(),
                }),
                None => Ok(()),
            }
        })
    }

    async fn bridge(&self) -> Result<Option<ObservedBridge>, NetError> {
        self.act("bridge", |state, config| {
            state.refuse_foreign("interface", &config.bridge)?;
            Ok(state.bridge.then_some(ObservedBridge { ready: true }))
        })
    }

    async fn ensure_bridge(&self) -> Result<(), NetError> {
        self.act("ensure_bridge", |state, config| {
            state.refuse_foreign("interface", &config.bridge)?;
            state.bridge = true;
            Ok(())
        })
    }

    async fn remove_bridge(&self) -> Result<(), NetError> {
        self.act("remove_bridge", |state, config| {
            state.refuse_foreign("interface", &config.bridge)?;
            state.bridge = false;
            state.detach_all();
            Ok(())
        })
    }

    async fn taps(&self) -> Result<Vec<ObservedTap>, NetError> {
        self.act("taps", |state, _| {
            Ok(state.taps.values().map(|(tap, _)| tap.clone()).collect())
        })
    }

    async fn ensure_tap(&self, tap: &TapSpec) -> Result<(), NetError> {
        self.act("ensure_tap", |state, config| {
            state.refuse_foreign("interface", &tap.name)?;
            if !state.bridge {
                let error = format!("there is no bridge {} of ours", config.bridge);
                return Err(NetError::failed("set up the TAP", &tap.name, error));
            }
            let index = match state.taps.get(&tap.name) {
                Some((there, _)) if there.mark == tap.mark => there.index,
                Some(_) => {
                    return Err(NetError::Foreign {
                        object: format!("interface {}", tap.name),
                    });
                }
                None => {
                    state.next_index += 1;
                    state.next_index
                }
            };
            let made = ObservedTap {
                name: tap.name.clone(),
                index,
                mark: tap.mark,
                attached: true,
            };
            state.taps.insert(tap.name.clone(), (made, tap.uid));
            Ok(())
        })
    }

    async fn remove_tap(&self, tap: &ObservedTap) -> Result<(), NetError> {
        self.act("remove_tap", |state, _| {
            state.refuse_foreign("interface", &tap.name)?;
            match state.taps.get(&tap.name) {
                Some((there, _)) if there.index == tap.index && there.mark == tap.mark => {
                    state.taps.remove(&tap.name);
                    Ok(())
                }
                Some(_) => Err(NetError::Foreign {
                    object: format!("interface {}", tap.name),
                }),
                None => Ok(()),
            }
        })
    }

    async fn rules(&self) -> Result<Option<RuleSet>, NetError> {
        self.act("rules", |state, config| {
            state.refuse_foreign("table", &config.table)?;
            Ok(state.rules.clone())
        })
    }

    async fn apply_rules(&self, rules: &RuleSet) -> Result<(), NetError> {
        self.act("apply_rules", |state, config| {
            state.refuse_foreign("table", &config.table)?;
            crate::nft::check_ports(&rules.ports)
                .map_err(|error| NetError::failed("write", &config.table, error))?;
            state.rules = Some(rules.clone());
            Ok(())
        })
    }

    async fn remove_rules(&self) -> Result<(), NetError> {
        self.act("remove_rules", |state, config| {
            state.refuse_foreign("table", &config.table)?;
            state.rules = None;
            Ok(())
        })
    }

    async fn flush_conntrack(&self, ip: Ipv4Addr) -> Result<(), NetError> {
        self.act("flush_conntrack", |state, _| {
            state.flushed.push(ip);
            state.tracked.remove(&ip);
            Ok(())
        })
    }

    async fn connections(&self) -> Result<BTreeMap<Ipv4Addr, usize>, NetError> {
        self.act("connections", |state, _| Ok(state.tracked.clone()))
    }

    async fn lookalikes(&self) -> Result<Vec<Lookalike>, NetError> {
        self.act("lookalikes", |state, _| Ok(state.lookalikes.clone()))
    }

    async fn names(&self) -> Result<ObservedNames, NetError> {
        self.act("names", |state, _| Ok(state.names.clone()))
    }

    async fn ensure_names(&self, hosts: &BTreeMap<String, Ipv4Addr>) -> Result<(), NetError> {
        self.act("ensure_names", |state, _| {
            state.names = ObservedNames {
                running: true,
                hosts: hosts.clone(),
            };
            Ok(())
        })
    }

    async fn remove_names(&self) -> Result<(), NetError> {
        self.act("remove_names", |state, _| {
            state.names = ObservedNames::default();
            Ok(())
        })
    }

    async fn changed(&self) -> Result<(), NetError> {
        self.news.notified().await;
        Ok(())
    }
}
