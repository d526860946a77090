use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use hearth_types::net::{GuestRule, MacAddr, Protocol, PublishedPort, RuleSet};
use serde_json::json;

use super::*;

fn shape() -> Shape {
    Shape {
        table: "hearth".to_owned(),
        bridge: "hearth0".to_owned(),
        subnet: "10.213.0.0/24".parse().unwrap(),
        mark: "01930b5e-7c1f-7a3e-9d55-5f0c8a6e2b11:shared"
            .parse()
            .unwrap(),
        group: 0x486e_2b11,
    }
}

fn port(host_ip: [u8; 4], host_port: u16, guest: u8) -> PublishedPort {
    PublishedPort {
        protocol: Protocol::Tcp,
        host_ip: host_ip.into(),
        host_port,
        guest_ip: Ipv4Addr::new(10, 213, 0, guest),
        guest_port: 80,
    }
}

fn rules() -> RuleSet {
    let ip = Ipv4Addr::new(10, 213, 0, 2);
    let guest = GuestRule {
        tap: "ht5f0c8a6e2b11".to_owned(),
        mac: MacAddr::for_ipv4(ip),
        ip,
    };
    RuleSet {
        guests: BTreeSet::from([guest]),
        ports: BTreeSet::from([port([0, 0, 0, 0], 8080, 2), port([127, 0, 0, 1], 8081, 2)]),
    }
}

#[test]
fn the_whole_text() {
    insta::assert_snapshot!("replacement", replacement(&shape(), &rules()).unwrap());
}

#[test]
fn a_change_deletes_before_it_adds() {
    let mut moved = rules();
    moved.ports = BTreeSet::from([port([0, 0, 0, 0], 8080, 3), port([127, 0, 0, 1], 8081, 2)]);
    insta::assert_snapshot!(delta(&shape(), &rules(), &moved).unwrap(), @r"
    delete element inet hearth ports_any { tcp . 8080 : 10.213.0.2 . 80 }
    add element inet hearth ports_any { tcp . 8080 : 10.213.0.3 . 80 }
    ");
    assert_eq!(delta(&shape(), &rules(), &rules()).unwrap(), "");
}

#[test]
fn a_port_published_twice_is_refused_by_name() {
    let mut twice = rules();
    twice.ports.insert(port([0, 0, 0, 0], 8080, 9));
    let error = replacement(&shape(), &twice).unwrap_err().to_string();
    assert_eq!(
        error,
        "0.0.0.0:8080/tcp is published for 10.213.0.2 and for 10.213.0.9: unpublish one of them"
    );
    delta(&shape(), &rules(), &twice).unwrap_err();
}

/// What nft prints of a table with these sets.
fn printed(sets: &[serde_json::Value]) -> Vec<u8> {
    let mut all = vec![
        json!({"metainfo": {"version": "1.0.6"}}),
        json!({"table": {"family": "inet", "name": "hearth", "handle": 7}}),
        json!({"set": {"name": shape().owner_set(), "handle": 8}}),
    ];
    all.extend(sets.iter().cloned());
    serde_json::to_vec(&json!({ "nftables": all })).unwrap()
}

#[test]
fn only_a_seal_over_the_same_content_is_whole() {
    let bare = printed(&[]);
    let fingerprint = parse(&shape(), &[&bare, &bare]).unwrap().fingerprint;
    let name = format!("{}{fingerprint:016x}", shape().seal_prefix());
    let sealed = printed(&[json!({"set": {"name": name, "handle": 99}})]);
    let intact = |tables: &[&[u8]]| parse(&shape(), tables).unwrap().intact;
    assert!(intact(&[&sealed, &bare]));
    assert!(!intact(&[&bare, &bare]), "no seal");
    assert!(!intact(&[&sealed]), "one of the tables is missing");
    let more = printed(&[json!({"chain": {"name": "more", "handle": 3}})]);
    assert!(!intact(&[&sealed, &more]), "something was added");
    let other = Shape {
        bridge: "hearth1".to_owned(),
        ..shape()
    };
    assert!(!parse(&other, &[&sealed, &bare]).unwrap().intact);
}

#[test]
fn tables_without_our_owner_set_are_not_ours_and_not_read() {
    let ours = printed(&[]);
    let foreign = br#"{"nftables": [{"set": {"name": "guests", "elem": [7]}}]}"#;
    assert!(!parse(&shape(), &[&ours, foreign]).unwrap().ours);
    assert!(parse(&shape(), &[&ours, &ours]).unwrap().ours);
}

#[test]
fn numbers_for_names_and_wrapped_elements_are_understood() {
    let element = json!({"elem": {"val": {"concat": [17, 53]}, "comment": "by hand"}});
    let map = json!({"map": {"name": "ports_any", "elem": [
        [element, {"concat": ["10.213.0.2", 53]}],
    ]}});
    let expected = PublishedPort {
        protocol: Protocol::Udp,
        host_port: 53,
        guest_port: 53,
        ..port([0, 0, 0, 0], 53, 2)
    };
    let tables = parse(&shape(), &[&printed(&[map])]).unwrap();
    assert_eq!(tables.rules.ports, BTreeSet::from([expected]));
}

#[test]
fn what_is_not_understood_is_an_error_and_never_an_absence() {
    for bad in [&b""[..], b"{", b"[]", b"{}", br#"{"nftables": 1}"#] {
        parse(&shape(), &[bad]).unwrap_err();
    }
    for elements in [
        json!([7]),
        json!([{"concat": ["ht0", "06:48:0a:d5:00:02"]}]),
        json!([{"concat": ["ht0", "06:48:0a:d5:00:02", "fd00::1"]}]),
        json!([{"concat": ["ht0", "0648", "10.213.0.2"]}]),
    ] {
        let set = json!({"set": {"name": "guests", "elem": elements}});
        parse(&shape(), &[&printed(&[set])]).unwrap_err();
    }
    for key in [
        json!(["sctp", 80]),
        json!(["tcp", 65536]),
        json!(["tcp", "http"]),
        json!([]),
    ] {
        let map = json!({"map": {"name": "ports_any", "elem": [
            [{"concat": key}, {"concat": ["10.213.0.2", 80]}],
        ]}});
        parse(&shape(), &[&printed(&[map])]).unwrap_err();
    }
}
