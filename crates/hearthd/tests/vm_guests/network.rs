//! Guests reach each other and are reached, and none can pass for another.

use camino::Utf8Path;
use hearth_types::problem::Code;
use hearth_types::spec::{NetworkMode, VmSpec};

use crate::harness::{Host, eventually, run, spec, words};

const SERVE: &str =
    "mkdir -p /www; echo hello from web > /www/index.html; exec httpd -f -p 8080 -h /www";

/// A VM that serves a page on a published port.
fn server() -> VmSpec {
    let mut web = spec("web");
    web.command = Some(words(&["sh", "-c", SERVE]));
    web.ports = vec!["18080:8080".parse().unwrap()];
    web
}

/// Its page is there at the host's port.
fn serves(host: &Host) {
    let url = "http://127.0.0.1:18080/";
    let page = host.netns.run("curl", &["-sS", "--max-time", "30", url]);
    assert_eq!(page.trim(), "hello from web");
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_neighbours_reach_each_other_and_nobody_spoofs() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let (web, peer) = (host.run(server()).await, host.run(spec("peer")).await);
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
    serves(&host);

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

/// Answers each datagram at UDP port 9000 with "echo" and what it was.
const ECHO: &str = r#"
    socket(S, 2, 2, 17) or die "socket: $!";
    bind(S, pack("S n N x8", 2, 9000, 0)) or die "bind: $!";
    while (1) { $from = recv(S, $word, 1500, 0); send(S, "echo $word", 0, $from) if $from; }
"#;
/// Sends a word to UDP port 18053 and prints the answer, if one comes soon.
const ASK: &str = r#"
    socket(S, 2, 2, 17) or die "socket: $!";
    send(S, $ARGV[0], 0, pack("S n C4 x8", 2, 18053, 127, 0, 0, 1)) or die "send: $!";
    $SIG{ALRM} = sub { exit 1 };
    alarm 2;
    recv(S, $word, 1500, 0);
    print $word;
"#;

#[tokio::test(flavor = "multi_thread")]
async fn vm_publishes_a_udp_port() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let mut names = spec("names");
    names.ports = vec!["18053:9000/udp".parse().unwrap()];
    let vm = host.run(names).await;
    vm.healthy().await;
    // Busybox has no UDP server; the host's perl (essential in Debian) and its libraries do.
    vm.upload("/", perl(host.dir())).await;
    let line = format!("/usr/bin/perl -e '{ECHO}' >/dev/null 2>/tmp/echo.log </dev/null &");
    vm.must(&line).await;

    let answer = eventually("an answer to a datagram", || {
        let asked = host.netns.output("perl", &["-e", ASK, "hello"]);
        let answer = asked.status.success().then_some(asked.stdout);
        std::future::ready(answer)
    })
    .await;
    assert_eq!(String::from_utf8_lossy(&answer), "echo hello");
    // The same number over TCP is not published.
    let url = "http://127.0.0.1:18053/";
    let tcp = host.netns.output("curl", &["-sS", "--max-time", "5", url]);
    assert!(!tcp.status.success(), "{tcp:?}");
    vm.remove().await;
    // What is not published any more is not answered any more.
    let asked = host.netns.output("perl", &["-e", ASK, "anybody"]);
    assert!(!asked.status.success(), "{asked:?}");
    host.clean().await;
}

/// The host's perl with all that it is linked to, as a tar with paths from the root.
fn perl(folder: &Utf8Path) -> Vec<u8> {
    let linked = run("ldd", &["/usr/bin/perl"]);
    let libraries = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    let tar = folder.join("perl.tar");
    let mut args = vec!["-C", "/", "-chf", tar.as_str(), "usr/bin/perl"];
    args.extend(libraries.map(|path| path.trim_start_matches('/')));
    run("tar", &args);
    std::fs::read(&tar).unwrap()
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

#[tokio::test(flavor = "multi_thread")]
async fn vm_keeps_its_published_ports_through_a_death_of_the_daemon_and_its_adoption() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let web = host.run(server()).await;
    web.healthy().await;
    let rules = |host: &Host| host.netns.run("nft", &["list", "ruleset"]);
    serves(&host);
    host.settled().await;
    let (pid, before) = (web.pid().await, rules(&host));
    host.kill_daemon().await;
    serves(&host);
    host.start_daemon().await;
    serves(&host);
    host.settled().await;
    assert_eq!((web.pid().await, rules(&host)), (pid, before));
    web.remove().await;
    host.clean().await;
}
