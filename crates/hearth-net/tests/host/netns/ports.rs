//! Published ports, address translation, forwarding, conntrack.

use std::net::{Ipv4Addr, TcpListener};

use hearth_net::Network as _;
use hearth_types::net::Protocol::{Tcp, Udp};

use crate::support::{
    GATEWAY, HOST, OUTSIDE, World, connect, guest_ip, in_namespace, receive, run, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_tcp_port_is_reached_from_everywhere() {
    in_namespace(|| async {
        let world = World::new(&[(Tcp, ANY, 8080, 80)]).await;
        let server = world.one.listen(80);
        for ip in [LOOPBACK, HOST, GATEWAY] {
            connect((ip, 8080)).unwrap_or_else(|e| panic!("from the host to {ip}: {e}"));
            drop(server.accept().unwrap());
        }
        for ip in [HOST, GATEWAY] {
            let tried = world.two.connect((ip, 8080));
            tried.unwrap_or_else(|e| panic!("from another guest to {ip}: {e}"));
            drop(server.accept().unwrap());
            let tried = world.one.connect((ip, 8080));
            tried.unwrap_or_else(|e| panic!("from the guest itself to {ip}: {e}"));
            drop(server.accept().unwrap());
        }
        world.outside.connect((HOST, 8080)).expect("from outside");
        let (_, from) = server.accept().unwrap();
        assert_eq!(from.ip(), OUTSIDE, "the guest sees who it is that asks");
    });
}

#[test]
fn a_udp_port_is_reached_and_answers() {
    in_namespace(|| async {
        let world = World::new(&[(Udp, ANY, 5353, 53)]).await;
        let server = world.one.udp((ANY, 53));
        let clients = [
            ("host", udp((ANY, 0)), LOOPBACK),
            ("host", udp((ANY, 0)), HOST),
            ("guest", world.two.udp((ANY, 0)), HOST),
            ("outside", world.outside.udp((ANY, 0)), HOST),
        ];
        for (who, client, ip) in clients {
            client.send_to(who.as_bytes(), (ip, 5353)).unwrap();
            let (text, from) = receive(&server);
            assert_eq!(text, who);
            server.send_to(b"answer", from).unwrap();
            let (text, from) = receive(&client);
            assert_eq!(
                (text.as_str(), from),
                ("answer", (ip, 5353).into()),
                "{who}"
            );
        }
    });
}

#[test]
fn a_port_of_one_address_is_not_published_on_the_others() {
    in_namespace(|| async {
        let world = World::new(&[(Tcp, LOOPBACK, 8080, 80), (Tcp, HOST, 8081, 80)]).await;
        let server = world.one.listen(80);
        connect((LOOPBACK, 8080)).expect("loopback");
        drop(server.accept().unwrap());
        world.outside.connect((HOST, 8081)).expect("from outside");
        drop(server.accept().unwrap());
        for (ip, port) in [(HOST, 8080), (LOOPBACK, 8081)] {
            let refused = connect((ip, port)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        let refused = world.outside.connect((HOST, 8080)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn services_of_the_host_keep_their_ports() {
    in_namespace(|| async {
        let world = World::new(&[(Tcp, ANY, 8080, 80)]).await;
        let local = TcpListener::bind((LOOPBACK, 9090)).unwrap();
        let open = TcpListener::bind((ANY, 9091)).unwrap();
        // The other protocol of a published port is somebody else's.
        let same_port = udp((ANY, 8080));
        connect((LOOPBACK, 9090)).unwrap();
        drop(local.accept().unwrap());
        world.outside.connect((HOST, 9091)).unwrap();
        drop(open.accept().unwrap());
        let client = world.outside.udp((ANY, 0));
        client.send_to(b"mine", (HOST, 8080)).unwrap();
        assert_eq!(receive(&same_port).0, "mine");
        // The same port of another host is not ours either.
        let elsewhere = world.outside.listen(8080);
        world.one.connect((OUTSIDE, 8080)).unwrap();
        drop(elsewhere.accept().unwrap());
    });
}

#[test]
fn guests_reach_the_outside_as_the_host_and_are_not_reached_unasked() {
    in_namespace(|| async {
        let world = World::new(&[(Udp, ANY, 8081, 81)]).await;
        // The outside has no route to guests: an answer arrives only if it was translated.
        let server = world.outside.listen(7000);
        world
            .one
            .connect((OUTSIDE, 7000))
            .expect("the outside answers");
        assert_eq!(server.accept().unwrap().1.ip(), HOST);

        world.outside.ip("route add 10.213.0.0/24 via 172.30.9.1");
        let receiver = world.one.udp((ANY, 81));
        let sender = world.outside.udp((ANY, 0));
        sender.send_to(b"unasked", (guest_ip(2), 81)).unwrap();
        sender.send_to(b"published", (HOST, 8081)).unwrap();
        assert_eq!(receive(&receiver).0, "published");
    });
}

#[test]
fn connections_of_an_address_are_forgotten() {
    in_namespace(|| async {
        let world = World::new(&[(Tcp, ANY, 8080, 80)]).await;
        let server = world.one.listen(80);
        let other = world.two.listen(80);
        let _incoming = world.outside.connect((HOST, 8080)).unwrap();
        let outside = world.outside.listen(7000);
        let _outgoing = world.one.connect((OUTSIDE, 7000)).unwrap();
        let _foreign = connect((guest_ip(3), 80)).unwrap();
        let known = |ip: &str| run("conntrack -L").matches(ip).count();
        assert!(known("=10.213.0.2 ") >= 2, "{}", run("conntrack -L"));
        let counted = world.net.connections().await.unwrap();
        let addresses: Vec<_> = counted.keys().copied().collect();
        assert_eq!(addresses, [guest_ip(2), guest_ip(3)], "{counted:?}");
        assert_eq!(counted[&guest_ip(2)], 2);
        for _ in 0..2 {
            world.net.flush_conntrack(guest_ip(2)).await.unwrap();
            let left = world.net.connections().await.unwrap();
            assert!(!left.contains_key(&guest_ip(2)), "{left:?}");
            assert_eq!(known("=10.213.0.2 "), 0);
            assert!(known("=10.213.0.3 ") > 0, "somebody else's are kept");
        }
        drop((server, other, outside));
    });
}
