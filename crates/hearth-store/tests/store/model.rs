//! Random requests against a model in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::common::{dir, image, now, open, ranges_with_prefix};
use hearth_store::{NewSpec, NewVm, Store, StoreError, VmRow};
use hearth_types::ids::VmId;
use hearth_types::spec::{NetworkMode, PortSpec, VmSpec};
use hearth_types::status::{Goal, VmStatus};
use proptest::prelude::*;

/// .2 to .6: few, so that they run out.
const PREFIX: u8 = 29;

#[derive(Debug, Clone)]
struct Want {
    name: u8,
    network: bool,
    address: Option<u8>,
    ports: Vec<(u8, u16)>,
}

#[derive(Debug, Clone)]
enum Op {
    Create(Want),
    Replace(u8, Want),
    Goal(u8, bool),
    Status(u8, u32),
    Forget(u8),
    Reopen,
}

fn want() -> impl Strategy<Value = Want> {
    (
        0..7_u8,
        prop::bool::weighted(0.8),
        prop::option::weighted(0.3, 0..9_u8),
        prop::collection::vec((0..3_u8, 1..4_u16), 0..3),
    )
        .prop_map(|(name, network, address, ports)| Want {
            name,
            network,
            address,
            ports,
        })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => want().prop_map(Op::Create),
        3 => (0..7_u8, want()).prop_map(|(vm, want)| Op::Replace(vm, want)),
        3 => (0..7_u8, any::<bool>()).prop_map(|(vm, absent)| Op::Goal(vm, absent)),
        1 => (0..7_u8, any::<u32>()).prop_map(|(vm, n)| Op::Status(vm, n)),
        3 => (0..7_u8).prop_map(Op::Forget),
        1 => Just(Op::Reopen),
    ]
}

fn spec(want: &Want) -> VmSpec {
    let mut spec = VmSpec::new(format!("vm{}", want.name).parse().unwrap(), "debian:12");
    if want.network {
        spec.network.address = want.address.map(|last| Ipv4Addr::new(10, 213, 0, last));
    } else {
        spec.network.mode = NetworkMode::None;
    }
    let host = [[0, 0, 0, 0], [127, 0, 0, 1], [127, 0, 0, 2]];
    spec.ports = want
        .ports
        .iter()
        .map(|(ip, port)| PortSpec {
            host_ip: host[usize::from(*ip)].into(),
            host_port: *port,
            guest_port: 80,
            protocol: hearth_types::net::Protocol::Tcp,
        })
        .collect();
    spec
}

fn overlap(a: &PortSpec, b: &PortSpec) -> bool {
    let any = |port: &PortSpec| port.host_ip.is_unspecified();
    a.host_port == b.host_port && (any(a) || any(b) || a.host_ip == b.host_ip)
}

fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::NameTaken { .. } => "name",
        StoreError::AddressOutside { .. } => "outside",
        StoreError::AddressTaken { .. } => "address",
        StoreError::Exhausted { .. } => "exhausted",
        StoreError::PortTaken { .. } => "port",
        StoreError::NotFound { .. } => "missing",
        StoreError::StillWanted { .. } => "wanted",
        StoreError::Leaving { .. } => "leaving",
        _ => "other",
    }
}

type Model = BTreeMap<VmId, VmRow>;

/// Why the store must refuse the spec, if it must.
fn refusal(model: &Model, own: Option<&VmRow>, spec: &VmSpec) -> Option<&'static str> {
    let others = || {
        model
            .values()
            .filter(|row| Some(row.id) != own.map(|own| own.id))
    };
    if own.is_some_and(|own| own.goal == Goal::Absent) {
        return Some("leaving");
    }
    if others().any(|row| row.spec.name == spec.name) {
        return Some("name");
    }
    if spec.network.mode == NetworkMode::Bridge {
        match spec.network.address {
            Some(ip) if !(2..=6).contains(&ip.octets()[3]) => return Some("outside"),
            Some(ip) if others().any(|row| row.leases.ip == Some(ip)) => return Some("address"),
            Some(_) => {}
            None => {
                let has = own.is_some_and(|own| own.leases.ip.is_some());
                if !has && others().filter(|row| row.leases.ip.is_some()).count() == 5 {
                    return Some("exhausted");
                }
            }
        }
    }
    let mut held: Vec<_> = others().flat_map(|row| row.spec.ports.clone()).collect();
    for port in &spec.ports {
        if held.iter().any(|other| overlap(other, port)) {
            return Some("port");
        }
        held.push(port.clone());
    }
    None
}

fn named(model: &Model, name: u8) -> Option<VmRow> {
    let name = format!("vm{name}");
    let mut rows = model.values();
    rows.find(|row| row.spec.name.as_str() == name).cloned()
}

fn check_spec(
    model: &mut Model,
    own: Option<&VmRow>,
    spec: &VmSpec,
    result: Result<VmRow, StoreError>,
) -> Result<(), TestCaseError> {
    let expected = refusal(model, own, spec);
    prop_assert_eq!(result.as_ref().err().map(kind), expected, "{:?}", result);
    if let Ok(row) = result {
        prop_assert_eq!(&row.spec, spec);
        prop_assert_eq!(row.generation, own.map_or(1, |own| own.generation + 1));
        if let Some(ip) = spec.network.address {
            prop_assert_eq!(row.leases.ip, Some(ip));
        }
        model.insert(row.id, row);
    }
    Ok(())
}

async fn step(store: &Store, model: &mut Model, op: Op) -> Result<(), TestCaseError> {
    let ranges = ranges_with_prefix(PREFIX);
    let kernel = None;
    match op {
        Op::Create(want) => {
            let spec = spec(&want);
            let new = NewVm {
                spec: spec.clone(),
                goal: Goal::Running,
                image: image(),
                kernel,
            };
            let result = store.create_vm(new, ranges, now()).await;
            check_spec(model, None, &spec, result)?;
        }
        Op::Replace(vm, want) => {
            if let Some(own) = named(model, vm) {
                let spec = spec(&want);
                let new = NewSpec {
                    spec: spec.clone(),
                    image: image(),
                    kernel,
                };
                let result = store.replace_spec(own.id, new, ranges, None).await;
                check_spec(model, Some(&own), &spec, result)?;
            }
        }
        Op::Goal(vm, absent) => {
            if let Some(own) = named(model, vm) {
                let goal = if absent { Goal::Absent } else { Goal::Stopped };
                let expected = Some(own.generation);
                let said = store.set_goal(own.id, goal, absent, None, expected).await;
                let leaves = own.goal == Goal::Absent && !absent;
                let refused = leaves.then_some("leaving");
                prop_assert_eq!(said.as_ref().err().map(kind), refused);
                if let Ok(row) = said {
                    prop_assert_eq!(row.generation, own.generation + 1);
                    model.insert(row.id, row);
                }
            }
        }
        Op::Status(vm, restarts) => {
            let status = VmStatus {
                restarts,
                ..VmStatus::default()
            };
            let id = named(model, vm).map_or_else(VmId::new, |row| row.id);
            let result = store.set_status(id, status.clone()).await;
            prop_assert_eq!(result.is_ok(), model.contains_key(&id));
            if let Some(row) = model.get_mut(&id) {
                row.status = status;
            }
        }
        Op::Forget(vm) => {
            let own = named(model, vm);
            let id = own.as_ref().map_or_else(VmId::new, |row| row.id);
            let expected = match own.map(|own| own.goal) {
                None => Some("missing"),
                Some(Goal::Absent) => None,
                Some(_) => Some("wanted"),
            };
            let result = store.forget(id).await;
            prop_assert_eq!(result.as_ref().err().map(kind), expected);
            if result.is_ok() {
                model.remove(&id);
            }
        }
        Op::Reopen => {}
    }
    Ok(())
}

/// Every value that is there is there once.
fn distinct<T: Ord>(values: impl Iterator<Item = Option<T>>) -> bool {
    let mut seen = BTreeSet::new();
    values.flatten().all(|value| seen.insert(value))
}

fn check(rows: &[VmRow], model: &Model) -> Result<(), TestCaseError> {
    prop_assert!(distinct(rows.iter().map(|row| row.leases.ip)));
    prop_assert!(distinct(rows.iter().map(|row| row.leases.mac)));
    prop_assert!(distinct(rows.iter().map(|row| Some(row.leases.cid))));
    prop_assert!(distinct(rows.iter().map(|row| Some(row.leases.uid))));
    prop_assert_eq!(rows, model.values().cloned().collect::<Vec<_>>());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_as_the_model(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = dir();
            let mut store = open(&dir);
            let mut model = Model::new();
            for op in ops {
                if matches!(op, Op::Reopen) {
                    drop(store);
                    store = open(&dir);
                }
                step(&store, &mut model, op).await?;
                check(&store.vms().await, &model)?;
            }
            drop(store);
            check(&open(&dir).vms().await, &model)
        })?;
    }
}
