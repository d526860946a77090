//! What others change is heard at once, and what we do ourselves is not.

use std::time::Duration;

use hearth_net::{HostNetwork, Network as _, NetworkConfig, TapSpec};
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::net::RuleSet;

use crate::support::{config, guest_rule, in_namespace, network, run};

/// Long enough for any machine.
const SOON: Duration = Duration::from_secs(30);
/// The kernel hands on its messages before a change returns: what is not there by now was not sent.
const MOMENT: Duration = Duration::from_millis(200);

async fn heard(net: &HostNetwork) -> bool {
    tokio::time::timeout(MOMENT, net.changed())
        .await
        .is_ok_and(|heard| heard.is_ok())
}

/// Takes in all that is still on its way.
async fn hush(net: &HostNetwork) {
    while heard(net).await {}
}

fn tap(config: &NetworkConfig, name: &str) -> TapSpec {
    TapSpec {
        name: name.to_owned(),
        mark: OwnerMark::of_vm(config.mark.installation, VmId::new()),
        uid: 1000,
    }
}

fn rules() -> RuleSet {
    RuleSet {
        guests: [guest_rule("htone", 2), guest_rule("httwo", 3)].into(),
        ports: [].into(),
    }
}

#[test]
fn what_others_change_is_heard_at_once() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        net.apply_rules(&rules()).await.unwrap();
        for change in [
            "ip link set htone down",
            "ip link set htone nomaster",
            "ip link set htone alias somebodys",
            "ip link set htone group 0",
            "ip link del htone",
            "ip link set hearth0 down",
            "ip addr del 10.213.0.1/24 dev hearth0",
            "ip addr add 192.0.2.1/24 dev hearth0",
            "ip route del 10.213.0.0/24 dev hearth0",
            "ip link del hearth0",
            "nft delete element bridge hearth guests { \"htone\" . 06:48:0a:d5:00:02 . 10.213.0.2 }",
            "nft flush chain inet hearth forward",
            "nft delete table inet hearth",
        ] {
            drop(
                tokio::process::Command::new("ip")
                    .args(["link", "del", "htone"])
                    .output()
                    .await,
            );
            net.ensure_bridge().await.unwrap();
            net.ensure_tap(&tap(&config, "htone")).await.unwrap();
            net.apply_rules(&rules()).await.unwrap();
            hush(&net).await;
            run(change);
            let heard = tokio::time::timeout(SOON, net.changed()).await;
            heard
                .unwrap_or_else(|_| panic!("not heard: {change}"))
                .unwrap();
        }
    });
}

#[test]
fn what_we_do_ourselves_or_others_do_elsewhere_is_no_news() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        assert!(!heard(&net).await, "nothing is there yet");
        net.ensure_bridge().await.unwrap();
        assert!(!heard(&net).await, "the bridge is made");
        net.ensure_tap(&tap(&config, "htone")).await.unwrap();
        net.ensure_tap(&tap(&config, "httwo")).await.unwrap();
        assert!(!heard(&net).await, "TAPs are made");
        net.apply_rules(&rules()).await.unwrap();
        net.apply_rules(&RuleSet::default()).await.unwrap();
        assert!(!heard(&net).await, "rules are written");
        run("ip link add other0 type bridge");
        run("ip link set other0 up");
        run("ip addr add 192.0.2.1/24 dev other0");
        run("ip link del other0");
        run("nft add table inet hearth2");
        run("nft delete table inet hearth2");
        assert!(!heard(&net).await, "others do what they like");
        for tap in net.taps().await.unwrap() {
            net.remove_tap(&tap).await.unwrap();
        }
        net.remove_rules().await.unwrap();
        net.remove_bridge().await.unwrap();
        assert!(!heard(&net).await, "all is taken away");
    });
}

#[test]
fn the_route_to_the_guests_is_put_back() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        let whole = run("ip route show dev hearth0");
        run("ip route del 10.213.0.0/24 dev hearth0");
        assert!(!net.bridge().await.unwrap().unwrap().ready);
        net.ensure_bridge().await.unwrap();
        assert!(net.bridge().await.unwrap().unwrap().ready);
        assert_eq!(run("ip route show dev hearth0"), whole);
    });
}
