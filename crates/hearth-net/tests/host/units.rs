//! The name server in a unit of systemd, in the host's own network. Runs where systemd is
//! the init and nobody has a bridge of this name, as in the testbed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use hearth_host::process::survey;
use hearth_net::{Network as _, NetworkConfig};
use hearth_systemd::Manager;
use hearth_types::names::names_unit;
use hearth_types::observe::ProcessRole;

use crate::support::{attempt, config, network, run};

/// A configuration for the host's own network; `None` where it cannot be used.
fn on_host(bridge: &str, subnet: &str) -> Option<(NetworkConfig, crate::support::Scratch)> {
    if !hearth_systemd::is_init() || !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: systemd is not the init, or not root");
        return None;
    }
    if attempt(&format!("ip link show {bridge}")).status.success() {
        eprintln!("SKIP: there is a {bridge}");
        return None;
    }
    let (mut config, scratch) = config();
    bridge.clone_into(&mut config.bridge);
    config.table = bridge.replace('-', "_");
    config.subnet = subnet.parse().unwrap();
    Some((config, scratch))
}

fn names(last: u8) -> BTreeMap<String, Ipv4Addr> {
    BTreeMap::from([("one".to_owned(), Ipv4Addr::new(10, 213, 77, last))])
}

fn pid(config: &NetworkConfig) -> i32 {
    let found = survey(config.mark.installation).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].role, ProcessRole::Names);
    found[0].identity.pid
}

fn group(config: &NetworkConfig) -> String {
    std::fs::read_to_string(format!("/proc/{}/cgroup", pid(config))).unwrap()
}

async fn forgotten(unit: &str) {
    let manager = Manager::connect().await.unwrap();
    let gone = async {
        while manager.state(unit).await.unwrap().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, gone)
        .await
        .expect("the unit goes");
}

#[tokio::test]
async fn the_server_lives_in_a_unit_of_its_own_and_is_found_again() {
    let Some((config, _scratch)) = on_host("hearth-t1", "10.213.77.0/24") else {
        return;
    };
    let unit = names_unit(config.mark.installation);
    network(&config).ensure_bridge().await.unwrap();
    network(&config).ensure_names(&names(2)).await.unwrap();
    let first = pid(&config);
    let expected = format!("/hearth.slice/{unit}");
    assert!(group(&config).contains(&expected), "{}", group(&config));
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    assert!(!status.contains("Uid:\t0\t"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // Another daemon finds it, and lets it read other names.
    let again = network(&config);
    assert_eq!(again.names().await.unwrap().hosts, names(2));
    again.ensure_names(&names(3)).await.unwrap();
    assert_eq!(pid(&config), first);
    // One that was killed is started again in the same place.
    run(&format!("kill -KILL {first}"));
    again.ensure_names(&names(3)).await.unwrap();
    assert_ne!(pid(&config), first);
    assert!(group(&config).contains(&expected), "{}", group(&config));
    again.remove_names().await.unwrap();
    forgotten(&unit).await;
    again.remove_bridge().await.unwrap();
}

#[tokio::test]
async fn a_server_of_an_older_version_serves_on_and_moves_with_a_change() {
    let Some((config, _scratch)) = on_host("hearth-t2", "10.213.78.0/24") else {
        return;
    };
    let unit = names_unit(config.mark.installation);
    let net = network(&config);
    net.ensure_bridge().await.unwrap();
    net.ensure_names(&names(2)).await.unwrap();
    // As that version started it: the same arguments and mark, in its maker's own group.
    let line = std::fs::read(format!("/proc/{}/cmdline", pid(&config))).unwrap();
    let line = String::from_utf8(line).unwrap().replace('\0', " ");
    let hosts = config.dir.join("hosts");
    let kept = std::fs::read(&hosts).unwrap();
    net.remove_names().await.unwrap();
    forgotten(&unit).await;
    std::fs::write(&hosts, kept).unwrap();
    run(&format!(
        "env HEARTH_OWNER={} HEARTH_ROLE=names {line}",
        config.mark
    ));
    let older = pid(&config);
    assert!(!group(&config).contains(&unit), "{}", group(&config));
    net.ensure_names(&names(2)).await.unwrap();
    assert_eq!(pid(&config), older, "nothing changed, so it stays");
    net.ensure_names(&names(3)).await.unwrap();
    assert_ne!(pid(&config), older);
    assert!(group(&config).contains(&unit), "{}", group(&config));
    assert_eq!(net.names().await.unwrap().hosts, names(3));
    net.remove_names().await.unwrap();
    forgotten(&unit).await;
    net.remove_bridge().await.unwrap();
}
