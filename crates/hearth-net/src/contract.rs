//! What every [`Network`] must do, run against the fake and the real one.

use std::collections::{BTreeMap, BTreeSet};

use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::net::{GuestRule, MacAddr, Protocol, PublishedPort, RuleSet};
use hearth_types::observe::ObservedNames;

use crate::{NetError, Network, NetworkConfig, TapSpec};

/// Runs the whole contract on a network with nothing of ours in it; leaves nothing.
pub async fn run(net: &dyn Network, config: &NetworkConfig) {
    net.check().await.expect("the subnet is free");
    bridge(net).await;
    taps(net, config).await;
    rules(net, config).await;
    names(net, config).await;
    net.flush_conntrack(config.subnet.addr())
        .await
        .expect("flush");
    assert_eq!(net.connections().await.expect("count"), BTreeMap::new());
    assert_eq!(net.lookalikes().await.expect("look"), []);
    net.remove_bridge().await.expect("remove");
    net.remove_bridge().await.expect("remove again");
    assert_eq!(net.bridge().await.expect("survey"), None);
}

async fn bridge(net: &dyn Network) {
    assert_eq!(net.bridge().await.expect("survey"), None);
    net.ensure_bridge().await.expect("make");
    net.ensure_bridge().await.expect("make again");
    assert!(net.bridge().await.expect("survey").expect("there").ready);
    net.check().await.expect("our own bridge is no collision");
}

async fn taps(net: &dyn Network, config: &NetworkConfig) {
    let spec = |name: &str| TapSpec {
        name: name.to_owned(),
        mark: OwnerMark::of_vm(config.mark.installation, VmId::new()),
        uid: 1000,
    };
    let (one, two) = (spec("htone"), spec("httwo"));
    assert_eq!(net.taps().await.expect("survey"), []);
    for tap in [&one, &two, &one] {
        net.ensure_tap(tap).await.expect("make");
    }
    let found = net.taps().await.expect("survey");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|tap| tap.attached), "{found:?}");
    let other = TapSpec {
        name: one.name.clone(),
        ..spec("")
    };
    assert!(matches!(
        net.ensure_tap(&other).await,
        Err(NetError::Foreign { .. })
    ));

    let mut stale = found[0].clone();
    stale.index += 1000;
    net.remove_tap(&stale).await.expect_err("the proof fails");
    assert_eq!(net.taps().await.expect("survey"), found);

    net.remove_bridge().await.expect("remove");
    let alone = net.taps().await.expect("survey");
    assert!(alone.iter().all(|tap| !tap.attached), "{alone:?}");
    net.ensure_tap(&one).await.expect_err("there is no bridge");
    net.ensure_bridge().await.expect("make");
    net.ensure_tap(&one).await.expect("attach again");
    for tap in &found {
        net.remove_tap(tap).await.expect("remove");
        net.remove_tap(tap).await.expect("remove again");
    }
    assert_eq!(net.taps().await.expect("survey"), []);
}

async fn rules(net: &dyn Network, config: &NetworkConfig) {
    let ip = config.subnet.hosts().nth(4).expect("a large subnet");
    let guest = GuestRule {
        tap: "htone".to_owned(),
        mac: MacAddr::for_ipv4(ip),
        ip,
    };
    let port = |host_ip: [u8; 4], guest_port| PublishedPort {
        protocol: Protocol::Tcp,
        host_ip: host_ip.into(),
        host_port: 8080,
        guest_ip: ip,
        guest_port,
    };
    let both = RuleSet {
        guests: BTreeSet::from([guest]),
        ports: BTreeSet::from([port([0, 0, 0, 0], 80), port([127, 0, 0, 1], 81)]),
    };
    // The same port of the host to another one of the guest: the same key, a new value.
    let moved = RuleSet {
        ports: BTreeSet::from([port([0, 0, 0, 0], 82)]),
        ..both.clone()
    };
    let twice = RuleSet {
        ports: BTreeSet::from([port([0, 0, 0, 0], 80), port([0, 0, 0, 0], 82)]),
        ..both.clone()
    };
    assert_eq!(net.rules().await.expect("survey"), None);
    for rules in [
        &RuleSet::default(),
        &both,
        &both,
        &moved,
        &RuleSet::default(),
        &both,
    ] {
        net.apply_rules(rules).await.expect("apply");
        assert_eq!(net.rules().await.expect("survey").as_ref(), Some(rules));
    }
    net.apply_rules(&twice)
        .await
        .expect_err("a port leads to one guest");
    assert_eq!(net.rules().await.expect("survey"), Some(both));
    net.remove_rules().await.expect("remove");
    net.remove_rules().await.expect("remove again");
    assert_eq!(net.rules().await.expect("survey"), None);
}

async fn names(net: &dyn Network, config: &NetworkConfig) {
    let absent = ObservedNames::default();
    assert_eq!(net.names().await.expect("survey"), absent);
    let mut hosts = BTreeMap::new();
    for (name, ip) in ["web", "db"].into_iter().zip(config.subnet.hosts().skip(1)) {
        hosts.insert(name.to_owned(), ip);
        for _ in 0..2 {
            net.ensure_names(&hosts).await.expect("start or reload");
        }
        let now = ObservedNames {
            running: true,
            hosts: hosts.clone(),
        };
        assert_eq!(net.names().await.expect("survey"), now);
    }
    net.remove_names().await.expect("end");
    net.remove_names().await.expect("end again");
    assert_eq!(net.names().await.expect("survey"), absent);
}
