//! The name server: guests ask it, it needs nobody, it is found again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

use hearth_host::process::{Signal, prove, survey};
use hearth_net::Network as _;
use hearth_types::observe::{ObservedNames, ProcessRole};
use hearth_types::process::ProcessIdentity;

use crate::support::{GATEWAY, World, config, guest_ip, in_namespace, network, run, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A query for the address of a name (RFC 1035, section 4).
fn query(name: &str) -> Vec<u8> {
    let mut packet = vec![0x48, 0x48, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// The response code and the address that ends an answer with one record.
fn ask(socket: &UdpSocket, name: &str) -> (u8, Option<Ipv4Addr>) {
    let mut answer = [0; 512];
    socket.send_to(&query(name), (GATEWAY, 53)).unwrap();
    let (length, _) = socket.recv_from(&mut answer).expect("an answer in time");
    let records = u16::from_be_bytes([answer[6], answer[7]]);
    let address = <[u8; 4]>::try_from(&answer[length - 4..length]).unwrap();
    (answer[3] & 15, (records == 1).then(|| address.into()))
}

fn hosts(names: &[(&str, u8)]) -> BTreeMap<String, Ipv4Addr> {
    let entry = |(name, last): &(&str, u8)| ((*name).to_owned(), guest_ip(*last));
    names.iter().map(entry).collect()
}

fn server(config: &hearth_net::NetworkConfig) -> ProcessIdentity {
    let found = survey(config.mark.installation).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].role, ProcessRole::Names);
    found[0].identity.clone()
}

#[test]
fn guests_resolve_each_other() {
    in_namespace(|| async {
        let world = World::new(&[]).await;
        world
            .net
            .ensure_names(&hosts(&[("one", 2), ("two", 3)]))
            .await
            .unwrap();
        let socket = world.one.udp((ANY, 0));
        assert_eq!(ask(&socket, "two"), (0, Some(guest_ip(3))));
        assert_eq!(ask(&socket, "two.hearth.internal"), (0, Some(guest_ip(3))));
        const NXDOMAIN: u8 = 3;
        assert_eq!(ask(&socket, "three.hearth.internal"), (NXDOMAIN, None));

        // A change is served without a new process; the old name is forgotten.
        world
            .net
            .ensure_names(&hosts(&[("one", 2), ("three", 9)]))
            .await
            .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while ask(&socket, "three") != (0, Some(guest_ip(9))) {
            assert!(
                std::time::Instant::now() < deadline,
                "the change is not served"
            );
        }
        assert_eq!(ask(&socket, "two.hearth.internal"), (NXDOMAIN, None));
        world.net.remove_names().await.unwrap();
    });
}

/// What `/proc/PID/stat` says of a process's relations.
struct Stat {
    parent: String,
    session: String,
}

fn stat(pid: &str) -> Stat {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = line.rsplit_once(") ").unwrap().1.split(' ').collect();
    Stat {
        parent: fields[1].to_owned(),
        session: fields[3].to_owned(),
    }
}

#[test]
fn the_server_is_nobodys_child_and_found_again() {
    in_namespace(|| async {
        let (config, _dir) = config();
        network(&config).ensure_bridge().await.unwrap();
        let names = hosts(&[("one", 2)]);
        network(&config).ensure_names(&names).await.unwrap();
        let first = server(&config);
        let (theirs, ours) = (stat(&first.pid.to_string()), stat("self"));
        assert_ne!(theirs.parent, std::process::id().to_string(), "our child");
        // A test runner inside a PID namespace may see its own session as 0: it compares all the same.
        assert_ne!(theirs.session, ours.session, "our session");
        let uid = run(&format!("stat -c %U /proc/{}", first.pid));
        let status = std::fs::read_to_string(format!("/proc/{}/status", first.pid)).unwrap();
        assert!(!status.contains("Uid:\t0\t"), "{uid} {status}");

        // Another daemon of the same installation finds it and leaves it.
        let again = network(&config);
        assert_eq!(again.names().await.unwrap().hosts, names);
        again.ensure_names(&names).await.unwrap();
        assert_eq!(server(&config), first);

        let proven = prove(&first).unwrap();
        proven.signal(Signal::KILL).unwrap();
        proven
            .wait_dead(std::time::Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(again.names().await.unwrap(), ObservedNames::default());
        again.ensure_names(&names).await.unwrap();
        assert_ne!(server(&config), first);

        // Another domain is another command line.
        let renamed = hearth_net::NetworkConfig {
            domain: "other.internal".to_owned(),
            ..config.clone()
        };
        let second = server(&config);
        network(&renamed).ensure_names(&names).await.unwrap();
        assert_ne!(server(&config), second);
        network(&renamed).remove_names().await.unwrap();
        assert_eq!(survey(config.mark.installation).unwrap(), []);
    });
}

/// The server binds the bridge's address when it starts: after a change of the subnet an older one
/// would listen on an address that nobody has any more.
#[test]
fn a_server_of_another_subnet_is_drift_and_is_replaced() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        net.ensure_names(&hosts(&[("one", 2)])).await.unwrap();
        let old = server(&config);

        let moved = hearth_net::NetworkConfig {
            subnet: "10.214.0.0/24".parse().unwrap(),
            ..config.clone()
        };
        let (net, gateway) = (network(&moved), Ipv4Addr::new(10, 214, 0, 1));
        net.ensure_bridge().await.unwrap();
        let seen = net.names().await.unwrap();
        assert!(seen.running && seen.hosts.is_empty(), "{seen:?}");
        // Even if no name changes: it is the server that is another one.
        let names = hosts(&[("one", 2)]);
        net.ensure_names(&names).await.unwrap();
        assert_ne!(server(&config), old);
        assert_eq!(net.names().await.unwrap().hosts, names);
        let socket = udp((gateway, 0));
        let mut answer = [0; 512];
        socket.send_to(&query("one"), (gateway, 53)).unwrap();
        let (length, _) = socket.recv_from(&mut answer).expect("an answer in time");
        assert_eq!(answer[length - 4..length], guest_ip(2).octets());
        net.remove_names().await.unwrap();
    });
}

#[test]
fn who_serves_a_tcp_client_is_no_other_server() {
    use std::io::{Read as _, Write as _};
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        net.ensure_names(&hosts(&[("one", 2)])).await.unwrap();
        let first = server(&config);
        let mut client = std::net::TcpStream::connect((GATEWAY, 53)).unwrap();
        // RFC 1035, section 4.2.2: the length comes first.
        let ask = |client: &mut std::net::TcpStream| {
            let query = query("one");
            let length = u16::try_from(query.len()).unwrap().to_be_bytes();
            client.write_all(&[&length[..], &query].concat()).unwrap();
            let mut length = [0; 2];
            client.read_exact(&mut length).unwrap();
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            client.read_exact(&mut answer).unwrap();
            let address = <[u8; 4]>::try_from(&answer[answer.len() - 4..]).unwrap();
            Ipv4Addr::from(address)
        };
        assert_eq!(ask(&mut client), guest_ip(2));
        let all = survey(config.mark.installation).unwrap();
        assert_eq!(all.len(), 2, "the client has a process of its own: {all:?}");
        for names in [&[("one", 2)][..], &[("one", 2), ("two", 3)]] {
            net.ensure_names(&hosts(names)).await.unwrap();
            assert_eq!(net.names().await.unwrap().hosts, hosts(names));
        }
        prove(&first).expect("the server is the same");
        assert_eq!(ask(&mut client), guest_ip(2), "and it serves its client");
        drop(client);
        net.remove_names().await.unwrap();
    });
}

#[test]
fn other_resolvers_and_bad_names_are_refused_clearly() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        for bad in ["", "a b", "UPPER", "a\n10.0.0.1 evil", "-a", "a..b"] {
            net.ensure_names(&hosts(&[(bad, 2)])).await.unwrap_err();
        }
        // Somebody has the port already: the reason is told, and nothing of ours stays.
        let _taken = udp((GATEWAY, 53));
        let error = net.ensure_names(&hosts(&[("one", 2)])).await.unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("in use"), "{why}");
        assert_eq!(survey(config.mark.installation).unwrap(), []);
    });
}

#[test]
fn a_folder_that_others_may_not_pass_is_replaced() {
    in_namespace(|| async {
        let (config, dir) = config();
        run(&format!("chmod 0700 {}", dir.path().display()));
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        net.ensure_names(&hosts(&[("one", 2)])).await.unwrap();
        assert_eq!(ask(&udp((GATEWAY, 0)), "one"), (0, Some(guest_ip(2))));
        let fallback = format!("/run/hearth-names-{}", config.mark.installation);
        assert!(std::fs::exists(&fallback).unwrap());
        net.remove_names().await.unwrap();
        assert!(!std::fs::exists(&fallback).unwrap());
    });
}

#[test]
fn names_that_may_not_have_been_read_are_not_reported() {
    in_namespace(|| async {
        let (config, _dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        let names = hosts(&[("one", 2)]);
        net.ensure_names(&names).await.unwrap();
        // As a crash leaves it: the file is changed, the signal was not sent.
        std::fs::write(config.dir.join("hosts"), "10.213.0.9 nine\n").unwrap();
        std::fs::write(config.dir.join("hosts.pending"), "").unwrap();
        let seen = net.names().await.unwrap();
        assert!(seen.running && seen.hosts.is_empty(), "{seen:?}");
        let names = hosts(&[("nine", 9)]);
        net.ensure_names(&names).await.unwrap();
        assert_eq!(net.names().await.unwrap().hosts, names);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let socket = udp((GATEWAY, 0));
        while ask(&socket, "nine") != (0, Some(guest_ip(9))) {
            assert!(
                std::time::Instant::now() < deadline,
                "the change is not served"
            );
        }
        net.remove_names().await.unwrap();
    });
}
