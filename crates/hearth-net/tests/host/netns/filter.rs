//! What a guest may not send does not arrive. Each test sends what must be dropped first
//! and what must arrive after it: the order of arrival shows it without waiting.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hearth_net::Network as _;

use crate::support::{GATEWAY, Peer, World, guest_ip, in_namespace, receive, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Lets the guest send to an address without asking for its MAC.
fn know(guest: &Peer, ip: Ipv4Addr, mac: &str) {
    guest.ip(&format!("neigh replace {ip} lladdr {mac} dev eth0"));
}

#[test]
fn a_foreign_source_address_is_dropped() {
    in_namespace(|| async {
        let world = World::new(&[]).await;
        know(&world.one, guest_ip(3), "06:48:0a:d5:00:03");
        world.one.ip("addr add 10.213.0.99/24 dev eth0");
        let receiver = world.two.udp((ANY, 7000));
        for (source, text) in [(guest_ip(99), "spoofed"), (guest_ip(2), "honest")] {
            let sender = world.one.udp((source, 0));
            sender
                .send_to(text.as_bytes(), (guest_ip(3), 7000))
                .unwrap();
        }
        assert_eq!(receive(&receiver).0, "honest");

        // The proof that it was the filter: without it the same datagram arrives.
        world.net.remove_rules().await.unwrap();
        let sender = world.one.udp((guest_ip(99), 0));
        sender.send_to(b"unfiltered", (guest_ip(3), 7000)).unwrap();
        assert_eq!(receive(&receiver).0, "unfiltered");
    });
}

#[test]
fn a_foreign_mac_is_dropped() {
    in_namespace(|| async {
        let world = World::new(&[]).await;
        let receiver = world.two.udp((ANY, 7000));
        let sender = world.one.udp((guest_ip(2), 0));
        for (mac, text) in [
            ("06:48:0a:d5:00:63", "spoofed"),
            ("06:48:0a:d5:00:02", "honest"),
        ] {
            world.one.ip(&format!("link set eth0 address {mac}"));
            know(&world.one, guest_ip(3), "06:48:0a:d5:00:03");
            sender
                .send_to(text.as_bytes(), (guest_ip(3), 7000))
                .unwrap();
        }
        assert_eq!(receive(&receiver).0, "honest");
    });
}

#[test]
fn an_arp_request_with_a_foreign_sender_is_dropped() {
    in_namespace(|| async {
        let world = World::new(&[]).await;
        let receiver = world.two.udp((ANY, 7000));
        world.one.ip("addr add 10.213.0.99/24 dev eth0");
        // No neighbour is known: sending asks, with the foreign address as the asker's.
        let ask = || {
            world.one.ip("neigh flush dev eth0");
            let sender = world.one.udp((guest_ip(99), 0));
            sender.send_to(b"spoofed", (guest_ip(3), 7000)).unwrap();
        };
        let learned = || world.two.ip("neigh show 10.213.0.99").contains("lladdr");
        ask();
        know(&world.one, guest_ip(3), "06:48:0a:d5:00:03");
        let sender = world.one.udp((guest_ip(2), 0));
        sender.send_to(b"honest", (guest_ip(3), 7000)).unwrap();
        assert_eq!(receive(&receiver).0, "honest");
        assert!(!learned(), "the guest learned the foreign address");

        world.net.remove_rules().await.unwrap();
        world.one.ip("neigh del 10.213.0.3 dev eth0");
        ask();
        assert_eq!(receive(&receiver).0, "spoofed");
        assert!(learned(), "without the filter it is learned");
    });
}

#[test]
fn ipv6_is_dropped() {
    in_namespace(|| async {
        let world = World::new(&[]).await;
        for (guest, last) in [(&world.one, 2), (&world.two, 3)] {
            guest.ip(&format!("addr add fd00::{last}/64 dev eth0 nodad"));
        }
        world
            .one
            .ip("neigh replace fd00::3 lladdr 06:48:0a:d5:00:03 dev eth0");
        know(&world.one, guest_ip(3), "06:48:0a:d5:00:03");
        let four = world.two.udp((ANY, 7000));
        let six = world.two.udp((Ipv6Addr::UNSPECIFIED, 7001));
        let send = |text: &[u8]| {
            let sender = world.one.udp((Ipv6Addr::UNSPECIFIED, 0));
            let to: SocketAddr = "[fd00::3]:7001".parse().unwrap();
            sender.send_to(text, to).unwrap();
        };
        send(b"filtered");
        let sender = world.one.udp((guest_ip(2), 0));
        sender.send_to(b"honest", (guest_ip(3), 7000)).unwrap();
        assert_eq!(receive(&four).0, "honest");
        world.net.remove_rules().await.unwrap();
        send(b"unfiltered");
        assert_eq!(receive(&six).0, "unfiltered");
    });
}

#[test]
fn a_guest_without_a_rule_is_silent_and_others_bridges_are_not_filtered() {
    in_namespace(|| async {
        let world = World::new(&[]).await;
        let mut rules = world.rules.clone();
        rules.guests.retain(|guest| guest.tap == "httwo");
        world.net.apply_rules(&rules).await.unwrap();
        let receiver = world.two.udp((ANY, 7000));
        know(&world.one, guest_ip(3), "06:48:0a:d5:00:03");
        let sender = world.one.udp((guest_ip(2), 0));
        sender.send_to(b"silent", (guest_ip(3), 7000)).unwrap();
        world.net.apply_rules(&world.rules).await.unwrap();
        sender.send_to(b"allowed", (guest_ip(3), 7000)).unwrap();
        assert_eq!(receive(&receiver).0, "allowed");

        run_others_bridge();
    });
}

/// Two hosts on somebody else's bridge talk as before.
fn run_others_bridge() {
    crate::support::run("ip link add foreign0 type bridge");
    crate::support::run("ip link set foreign0 up");
    let peer = |name: &str, last: u8| {
        let ip = Ipv4Addr::new(192, 168, 77, last);
        let peer = Peer::new(name, &format!("02:77:00:00:00:0{last}"), ip, None);
        crate::support::run(&format!("ip link set {name} master foreign0"));
        peer
    };
    let (a, b) = (peer("foreign1", 1), peer("foreign2", 2));
    a.ip("neigh replace 192.168.77.2 lladdr 02:77:00:00:00:02 dev eth0");
    let receiver = b.udp((ANY, 7000));
    let sender = a.udp((ANY, 0));
    // A bridge's new port may still be on its way up.
    let to = (Ipv4Addr::new(192, 168, 77, 2), 7000);
    receiver
        .set_read_timeout(Some(std::time::Duration::from_millis(100)))
        .unwrap();
    let arrived = (0..100).any(|_| {
        sender.send_to(b"foreign", to).unwrap();
        receiver.recv_from(&mut [0; 20]).is_ok()
    });
    assert!(
        arrived,
        "traffic of a bridge that is not ours does not arrive"
    );
}

#[test]
fn a_guest_does_not_reach_the_hosts_loopback() {
    in_namespace(|| async {
        let world = World::new(&[]).await;
        let receiver = udp((ANY, 7000));
        // With `lo` down 127/8 is an address like any other to the guest.
        world.one.ip("link set lo down");
        world.one.ip("route add 127.0.0.1/32 via 10.213.0.1");
        let sender = world.one.udp((guest_ip(2), 0));
        sender
            .send_to(b"loopback", (Ipv4Addr::LOCALHOST, 7000))
            .unwrap();
        sender.send_to(b"gateway", (GATEWAY, 7000)).unwrap();
        assert_eq!(receive(&receiver).0, "gateway");

        world.net.remove_rules().await.unwrap();
        sender
            .send_to(b"loopback", (Ipv4Addr::LOCALHOST, 7000))
            .unwrap();
        assert_eq!(
            receive(&receiver).0,
            "loopback",
            "the test itself does not work"
        );
    });
}
