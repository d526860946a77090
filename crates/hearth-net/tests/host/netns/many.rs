//! Many at once.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures::future::join_all;
use hearth_net::{Network as _, TapSpec};
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::names::tap_name;
use hearth_types::net::{GuestRule, MacAddr, Protocol, PublishedPort, RuleSet};

use crate::support::{config, in_namespace, network};

#[test]
fn taps_made_and_removed_at_the_same_time() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        let specs: Vec<_> = (0..64)
            .map(|_| {
                let vm = VmId::new();
                let mark = OwnerMark::of_vm(config.mark.installation, vm);
                TapSpec {
                    name: tap_name(vm),
                    mark,
                    uid: 1000,
                }
            })
            .collect();
        for result in join_all(specs.iter().map(|spec| net.ensure_tap(spec))).await {
            result.unwrap();
        }
        let taps = net.taps().await.unwrap();
        assert_eq!(taps.len(), specs.len());
        assert!(taps.iter().all(|tap| tap.attached));
        for result in join_all(taps.iter().map(|tap| net.remove_tap(tap))).await {
            result.unwrap();
        }
        assert_eq!(net.taps().await.unwrap(), []);
    });
}

/// Guests with one filter and one published port each.
fn guests(count: u32) -> RuleSet {
    let ip = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 213, 0, 2)) + n);
    RuleSet {
        guests: (0..count)
            .map(|n| GuestRule {
                tap: format!("ht{n:012x}"),
                mac: MacAddr::for_ipv4(ip(n)),
                ip: ip(n),
            })
            .collect(),
        ports: (0..count)
            .map(|n| PublishedPort {
                protocol: Protocol::Tcp,
                host_ip: Ipv4Addr::UNSPECIFIED,
                host_port: u16::try_from(10_000 + n).unwrap(),
                guest_ip: ip(n),
                guest_port: 80,
            })
            .collect::<BTreeSet<_>>(),
    }
}

#[test]
fn a_thousand_guests_are_read_back_as_written() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        // Written as a whole, then one more, then back to a few.
        for count in [1000, 1001, 3] {
            net.apply_rules(&guests(count)).await.unwrap();
            // Another daemon knows nothing of what this one wrote.
            let read = network(&config).rules().await.unwrap();
            assert_eq!(read.as_ref(), Some(&guests(count)), "{count}");
        }
        net.remove_rules().await.unwrap();
    });
}
