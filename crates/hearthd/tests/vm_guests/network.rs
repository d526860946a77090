//! Guests reach each other and are reached, and none can pass for another.

use hearth_types::problem::Code;
use hearth_types::spec::NetworkMode;

use crate::harness::{Host, spec, words};

const SERVE: &str =
    "mkdir -p /www; echo hello from web > /www/index.html; exec httpd -f -p 8080 -h /www";

#[tokio::test(flavor = "multi_thread")]
async fn vm_neighbours_reach_each_other_and_nobody_spoofs() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut web = spec("web");
    web.command = Some(words(&["sh", "-c", SERVE]));
    web.ports = vec!["18080:8080".parse().unwrap()];
    let (web, peer) = (host.run(web).await, host.run(spec("peer")).await);
    web.healthy().await;
    peer.healthy().await;
    let address = web.look().await.leases.ip.unwrap();

    peer.must(&format!("ping -c 1 -W 10 {address}")).await;
    for name in ["web", "web.hearth.internal"] {
        let page = peer.must(&format!("wget -qO- http://{name}:8080/")).await;
        assert_eq!(page, "hello from web", "by the name {name}");
    }
    let answer = peer.must("nslookup web.hearth.internal").await;
    assert!(answer.contains(&address.to_string()), "{answer}");
    let url = "http://127.0.0.1:18080/";
    let page = host.netns.run("curl", &["-sS", "--max-time", "30", url]);
    assert_eq!(page.trim(), "hello from web");

    // Another address of the subnet that nobody has leased.
    let stolen = "10.213.77.77";
    let tried = peer
        .sh(&format!(
            "ip addr add {stolen}/16 dev eth0 && ping -c 2 -W 3 -I {stolen} {address}"
        ))
        .await;
    assert_ne!(tried.code, 0, "{}", tried.text());
    assert!(tried.text().contains("100% packet loss"), "{tried:?}");
    peer.must(&format!("ip addr del {stolen}/16 dev eth0"))
        .await;
    peer.must(&format!("ping -c 1 -W 10 {address}")).await;
    // Another machine's Ethernet address.
    let tried = peer
        .sh(&format!(
            "ip link set eth0 address 02:00:00:00:00:99 && ping -c 2 -W 3 {address}"
        ))
        .await;
    assert!(tried.text().contains("100% packet loss"), "{tried:?}");

    web.remove().await;
    peer.remove().await;
    host.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_ports_belong_to_one() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut first = spec("first");
    first.ports = vec!["18081:80".parse().unwrap()];
    let mut second = first.clone();
    second.name = "second".parse().unwrap();
    host.create(first, false, None).await.unwrap();
    let refused = host.create(second, false, None).await.err().unwrap();
    let problem = refused.problem().unwrap();
    assert_eq!(problem.code, Code::Conflict, "{problem:?}");
    let text = refused.to_string();
    assert!(text.contains("18081") && text.contains("first"), "{text}");
    assert_eq!(host.client.all_vms(&[]).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_without_network_has_no_network_card() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut alone = spec("alone");
    alone.network.mode = NetworkMode::None;
    let vm = host.run(alone).await;
    vm.healthy().await;
    assert_eq!(vm.must("ls /sys/class/net").await, "lo");
    assert_eq!(vm.look().await.leases.ip, None);
    let leaks = host.leaks();
    assert!(
        !leaks.iter().any(|leak| leak.starts_with("link")),
        "{leaks:?}"
    );
    vm.remove().await;
    host.clean().await;
}
