//! The tables on the host: what is written is read back, damage is noticed and mended.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use hearth_net::Network as _;
use hearth_types::net::{GuestRule, MacAddr, Protocol, PublishedPort, RuleSet};
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::support::{config, guest_rule, in_namespace, network, run};

fn some_rules() -> RuleSet {
    let port = PublishedPort {
        protocol: Protocol::Tcp,
        host_ip: Ipv4Addr::UNSPECIFIED,
        host_port: 8080,
        guest_ip: Ipv4Addr::new(10, 213, 0, 2),
        guest_port: 80,
    };
    RuleSet {
        guests: BTreeSet::from([guest_rule("htone", 2), guest_rule("httwo", 3)]),
        ports: BTreeSet::from([port]),
    }
}

#[test]
fn damage_is_noticed_and_mended() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        let rules = some_rules();
        net.apply_rules(&rules).await.unwrap();
        let whole = run("nft list ruleset");
        for damage in [
            "nft flush chain inet hearth forward",
            "nft add rule bridge hearth prerouting accept",
            "nft add chain inet hearth more",
            "nft delete table bridge hearth",
            "nft delete table inet hearth",
            "nft flush set bridge hearth guests",
            "nft add element inet hearth ports_any { udp . 9 : 10.213.0.2 . 9 }",
        ] {
            run(damage);
            let seen = net.rules().await.unwrap();
            assert_ne!(seen.as_ref(), Some(&rules), "{damage}");
            net.apply_rules(&rules).await.unwrap();
            assert_eq!(
                net.rules().await.unwrap().as_ref(),
                Some(&rules),
                "{damage}"
            );
            assert_eq!(run("nft list ruleset"), whole, "{damage}");
        }
        run("nft flush ruleset");
        assert_eq!(net.rules().await.unwrap(), None);
    });
}

#[test]
fn a_change_touches_only_what_differs() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.apply_rules(&RuleSet::default()).await.unwrap();
        // Handles are given anew to what is written anew.
        let skeleton = || run("nft -a -t list ruleset");
        let before = skeleton();
        for rules in [some_rules(), RuleSet::default()] {
            net.apply_rules(&rules).await.unwrap();
            assert_eq!(skeleton(), before);
        }
    });
}

#[test]
fn changes_of_another_hand_at_the_same_time_do_not_stay() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let (net, other) = (network(&config), network(&config));
        net.apply_rules(&RuleSet::default()).await.unwrap();
        for turn in 0..5 {
            let more = "nft add element inet hearth ports_any { udp . 9 : 10.213.0.2 . 9 }";
            run(more);
            let rules = if turn % 2 == 0 {
                some_rules()
            } else {
                RuleSet::default()
            };
            net.apply_rules(&rules).await.unwrap();
            assert_eq!(other.rules().await.unwrap(), Some(rules));
        }
        let (a, b) = (some_rules(), RuleSet::default());
        let (first, second) = tokio::join!(net.apply_rules(&a), other.apply_rules(&b));
        // One of them may find its change refused; what both see then is the same.
        drop((first, second));
        assert_eq!(net.rules().await.unwrap(), other.rules().await.unwrap());
        net.apply_rules(&a).await.unwrap();
        assert_eq!(other.rules().await.unwrap(), Some(a));
    });
}

#[test]
fn a_changed_configuration_replaces_the_tables() {
    in_namespace(|| async {
        let (config, _dir) = config();
        network(&config).apply_rules(&some_rules()).await.unwrap();
        let moved = hearth_net::NetworkConfig {
            subnet: "10.214.0.0/24".parse().unwrap(),
            ..config
        };
        let net = network(&moved);
        assert_eq!(net.rules().await.unwrap(), Some(RuleSet::default()));
        net.apply_rules(&some_rules()).await.unwrap();
        assert_eq!(net.rules().await.unwrap(), Some(some_rules()));
        assert!(run("nft list ruleset").contains("10.214.0.0/24"));
    });
}

#[test]
fn random_rules_are_read_back_as_they_were_written() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        let mut runner = TestRunner::default();
        for _ in 0..40 {
            let rules = rule_sets().new_tree(&mut runner).unwrap().current();
            net.apply_rules(&rules).await.unwrap();
            assert_eq!(net.rules().await.unwrap(), Some(rules));
        }
    });
}

fn rule_sets() -> impl Strategy<Value = RuleSet> {
    let ip = || any::<u32>().prop_map(Ipv4Addr::from);
    let guest =
        ("[a-zA-Z][a-zA-Z0-9_-]{0,14}", any::<[u8; 6]>(), ip()).prop_map(|(tap, mac, ip)| {
            GuestRule {
                tap,
                mac: MacAddr(mac),
                ip,
            }
        });
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let host_ip = prop_oneof![Just(Ipv4Addr::UNSPECIFIED), Just(Ipv4Addr::LOCALHOST), ip()];
    let port = || 1..=u16::MAX;
    let ports = btree_map((protocol, host_ip, port()), (ip(), port()), 0..20);
    (btree_set(guest, 0..20), ports).prop_map(|(guests, ports)| RuleSet {
        guests,
        ports: ports
            .into_iter()
            .map(
                |((protocol, host_ip, host_port), (guest_ip, guest_port))| PublishedPort {
                    protocol,
                    host_ip,
                    host_port,
                    guest_ip,
                    guest_port,
                },
            )
            .collect(),
    })
}
