//! What is not ours is refused and left alone.

use std::fmt::Debug;

use hearth_net::{NetError, Network as _, TapSpec};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::net::RuleSet;
use hearth_types::observe::ObservedTap;

use crate::support::{config, in_namespace, network, run, snapshot};

fn refused<T: Debug>(result: Result<T, NetError>) {
    assert!(
        matches!(result, Err(NetError::Foreign { .. })),
        "{result:?}"
    );
}

#[test]
fn a_foreign_bridge_of_our_name_is_left_alone() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        for kind in ["bridge", "veth"] {
            run(&format!("ip link add hearth0 type {kind}"));
            let other = OwnerMark::shared(InstallationId::new()).interface_alias();
            for alias in ["", "somebody", &other] {
                let alias = ["ip", "link", "set", "hearth0", "alias", alias];
                assert!(
                    std::process::Command::new("ip")
                        .args(&alias[1..])
                        .status()
                        .unwrap()
                        .success()
                );
                let before = snapshot();
                refused(net.bridge().await);
                refused(net.ensure_bridge().await);
                refused(net.remove_bridge().await);
                assert_eq!(snapshot(), before);
            }
            run("ip link del hearth0");
        }
    });
}

#[test]
fn a_bridge_that_a_crash_left_half_made_is_finished() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        let [.., a, b, c, d] = *config.mark.installation.as_uuid().as_bytes();
        run(&format!(
            "ip link add hearth0 address 02:48:{a:02x}:{b:02x}:{c:02x}:{d:02x} type bridge"
        ));
        assert!(!net.bridge().await.unwrap().unwrap().ready);
        net.ensure_bridge().await.unwrap();
        assert!(net.bridge().await.unwrap().unwrap().ready);
    });
}

#[test]
fn a_bridge_that_was_changed_is_put_right() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        for change in [
            "ip link set hearth0 down",
            "ip addr flush dev hearth0",
            "ip addr add 10.99.0.1/24 dev hearth0",
            "ip link set hearth0 address 02:00:00:00:00:01",
            "sysctl -qw net.ipv4.conf.hearth0.route_localnet=0",
            "sysctl -qw net.ipv4.ip_forward=0",
        ] {
            run(change);
            assert!(!net.bridge().await.unwrap().unwrap().ready, "{change}");
            net.ensure_bridge().await.unwrap();
            assert!(net.bridge().await.unwrap().unwrap().ready, "{change}");
        }
    });
}

#[test]
fn foreign_taps_are_not_listed_and_left_alone() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        run("ip tuntap add dev htone mode tap");
        run("ip tuntap add dev httwo mode tap");
        let other = OwnerMark::of_vm(InstallationId::new(), VmId::new());
        run(&format!(
            "ip link set httwo alias {}",
            other.interface_alias()
        ));
        let before = snapshot();
        assert_eq!(net.taps().await.unwrap(), []);
        for name in ["htone", "httwo"] {
            let name = name.to_owned();
            let mark = OwnerMark::of_vm(config.mark.installation, VmId::new());
            refused(
                net.ensure_tap(&TapSpec {
                    name: name.clone(),
                    mark,
                    uid: 0,
                })
                .await,
            );
            let shown: serde_json::Value =
                serde_json::from_str(&run(&format!("ip -j link show {name}"))).unwrap();
            let index = u32::try_from(shown[0]["ifindex"].as_u64().unwrap()).unwrap();
            refused(
                net.remove_tap(&ObservedTap {
                    name,
                    index,
                    mark,
                    attached: true,
                })
                .await,
            );
        }
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn a_tap_that_was_changed_is_put_right() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        let mark = OwnerMark::of_vm(config.mark.installation, VmId::new());
        let mut tap = TapSpec {
            name: "htone".to_owned(),
            mark,
            uid: 41000,
        };
        net.ensure_tap(&tap).await.unwrap();
        let made = net.taps().await.unwrap();
        for change in ["down", "nomaster", "group 7"] {
            run(&format!("ip link set htone {change}"));
            assert!(!net.taps().await.unwrap()[0].attached, "{change}");
            net.ensure_tap(&tap).await.unwrap();
            assert_eq!(net.taps().await.unwrap(), made, "{change}");
        }
        for uid in [41000, 41001] {
            tap.uid = uid;
            net.ensure_tap(&tap).await.unwrap();
            let shown = run("ip -d link show htone");
            assert!(
                ["persist on", "vnet_hdr on", "hairpin on"]
                    .iter()
                    .all(|on| shown.contains(on)),
                "{shown}"
            );
            let tuntap: serde_json::Value =
                serde_json::from_str(&run("ip -d -j link show htone")).unwrap();
            let user = tuntap[0]["linkinfo"]["info_data"]["user"].to_string();
            assert!(
                user.contains(&uid.to_string()) || user == "null",
                "{tuntap}"
            );
        }
    });
}

#[test]
fn foreign_tables_of_our_name_are_left_alone() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        let stranger = network(&hearth_net::NetworkConfig {
            mark: OwnerMark::shared(InstallationId::new()),
            ..config.clone()
        });
        for family in ["inet", "bridge"] {
            run(&format!("nft add table {family} hearth"));
            run(&format!(
                "nft add set {family} hearth guests {{ type mark; }}"
            ));
            run(&format!("nft add element {family} hearth guests {{ 7 }}"));
            check_refusal(&net).await;
            run(&format!("nft delete table {family} hearth"));
        }
        stranger.apply_rules(&RuleSet::default()).await.unwrap();
        check_refusal(&net).await;
        // Tables of other names are nobody's business.
        run("nft add table inet other");
        stranger.remove_rules().await.unwrap();
        assert_eq!(run("nft list ruleset").trim(), "table inet other {\n}");
    });
}

async fn check_refusal(net: &hearth_net::HostNetwork) {
    let before = snapshot();
    refused(net.rules().await);
    refused(net.apply_rules(&RuleSet::default()).await);
    refused(net.remove_rules().await);
    assert_eq!(snapshot(), before);
}

#[test]
fn a_subnet_that_is_in_use_is_a_collision() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        run("ip link add lan0 type veth peer name lan1");
        run("ip link set lan1 up");
        run("ip link set lan0 up");
        run("ip addr add 192.168.9.1/24 dev lan0");
        run("ip route add default via 192.168.9.2");
        run("ip route add 0.0.0.0/1 via 192.168.9.2");
        net.check().await.expect("default routes are no collision");
        for (add, route) in [
            ("10.213.0.128/25 dev lan0", "10.213.0.128/25"),
            ("10.0.0.0/8 via 192.168.9.2", "10.0.0.0/8"),
            ("10.213.0.9/32 dev lan0 table 77", "10.213.0.9/32"),
        ] {
            run(&format!("ip route add {add}"));
            match net.check().await {
                Err(NetError::Collision {
                    route: found,
                    interface,
                    ..
                }) => {
                    assert_eq!(
                        (found.to_string().as_str(), interface.as_str()),
                        (route, "lan0")
                    );
                }
                other => panic!("{add}: {other:?}"),
            }
            run(&format!("ip route del {add}"));
        }
        net.check().await.expect("free again");
    });
}

#[test]
fn a_second_name_of_a_foreign_interface_is_not_ours_either() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        run("ip link add br7 type bridge");
        run("ip link property add dev br7 altname hearth0");
        let alias = config.mark.interface_alias();
        run(&format!("ip link set br7 alias {alias}"));
        let before = snapshot();
        refused(net.bridge().await);
        refused(net.ensure_bridge().await);
        refused(net.remove_bridge().await);
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn what_only_looks_like_ours_is_told_and_what_is_ours_is_not() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        let vm = VmId::new();
        let ours = TapSpec {
            name: hearth_types::names::tap_name(vm),
            mark: OwnerMark::of_vm(config.mark.installation, vm),
            uid: 1000,
        };
        net.ensure_tap(&ours).await.unwrap();
        assert_eq!(net.lookalikes().await.unwrap(), []);
        // A port that somebody added, a name like ours, another installation's TAP.
        run("ip link add veth0 type veth peer name veth1");
        run("ip link set veth0 master hearth0");
        run("ip tuntap add dev ht00000000beef mode tap");
        run("ip tuntap add dev ht00000000cafe mode tap");
        let other = OwnerMark::of_vm(InstallationId::new(), VmId::new()).interface_alias();
        run(&format!("ip link set ht00000000cafe alias {other}"));
        let mut alike = net.lookalikes().await.unwrap();
        alike.sort_by(|one, two| one.name.cmp(&two.name));
        let alike: Vec<_> = alike.iter().map(|it| (it.name.as_str(), it.port)).collect();
        assert_eq!(alike, [("ht00000000beef", false), ("veth0", true)]);
    });
}
