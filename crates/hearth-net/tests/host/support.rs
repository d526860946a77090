//! A fresh network namespace per test, and hosts ("guests", "outside") in others.

mod peer;

pub(crate) use peer::{Peer, connect, receive, udp};

use std::collections::BTreeSet;
use std::future::Future;
use std::net::Ipv4Addr;
use std::process::{Command, Output};

use hearth_host::process::{Signal, prove, survey};
use hearth_net::{HostNetwork, Network as _, NetworkConfig, TapSpec};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::net::{GuestRule, MacAddr, Protocol, PublishedPort, RuleSet};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs a test in a namespace of its own; prints why not when that cannot be.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: not root");
        return;
    }
    for tool in ["nft", "ip", "conntrack", "dnsmasq"] {
        if hearth_host::command::find(tool).is_none() {
            eprintln!("SKIP: {tool} is not installed");
            return;
        }
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread leaves the namespace, and no file descriptor table is
        // unshared with it: nothing that others hold changes.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace of our own");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        run("ip link set lo up");
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A configuration that nobody else uses, with a folder that goes away.
pub(crate) fn config() -> (NetworkConfig, Scratch) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = camino::Utf8Path::from_path(dir.path()).expect("UTF-8");
    // The name server's account must be let pass, as in a system's folder for data.
    run(&format!("chmod 0755 {path}"));
    let config = NetworkConfig {
        bridge: "hearth0".to_owned(),
        table: "hearth".to_owned(),
        subnet: "10.213.0.0/24".parse().expect("a subnet"),
        domain: "hearth.internal".to_owned(),
        mark: OwnerMark::shared(InstallationId::new()),
        dir: path.join("names"),
    };
    let installation = config.mark.installation;
    (config, Scratch { dir, installation })
}

/// A test's folder and installation. Its name server would outlive a test that fails, as
/// it outlives a daemon: what is still there is ended here.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
    installation: InstallationId,
}

impl Scratch {
    pub(crate) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for process in survey(self.installation).unwrap_or_default() {
            if let Ok(proven) = prove(&process.identity) {
                drop(proven.signal(Signal::KILL));
            }
        }
        let fallback = format!("/run/hearth-names-{}", self.installation);
        drop(std::fs::remove_dir_all(fallback));
    }
}

pub(crate) fn network(config: &NetworkConfig) -> HostNetwork {
    HostNetwork::new(config.clone()).expect("a usable configuration")
}

/// Runs a program with words as arguments; its failure is the test's.
pub(crate) fn run(words: &str) -> String {
    let output = attempt(words);
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub(crate) fn attempt(words: &str) -> Output {
    let mut words = words.split_whitespace();
    Command::new(words.next().expect("a program"))
        .args(words)
        .output()
        .expect("it can be run")
}

/// What others could see of us: links, rules, addresses, routes, without what the kernel
/// changes by itself (carrier, timers).
pub(crate) fn snapshot() -> Vec<String> {
    let mut all = vec![run("nft list ruleset")];
    for command in ["ip -j link", "ip -j addr", "ip -j route show table all"] {
        let mut items: Vec<serde_json::Value> = serde_json::from_str(&run(command)).unwrap();
        for item in items.iter_mut().filter_map(|item| item.as_object_mut()) {
            let up = |flags: &serde_json::Value| flags.to_string().contains("\"UP\"");
            let up = item.get("flags").is_some_and(up);
            item.insert("flags".to_owned(), up.into());
            item.remove("operstate");
            all.push(serde_json::to_string(item).unwrap());
        }
    }
    all
}

/// An address of the test subnet.
pub(crate) fn guest_ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 0, last)
}

/// The bridge's address.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// The host's address on the side of [`World::outside`], which has the next one.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(172, 30, 9, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 30, 9, 2);

/// A host with two guests on its bridge and a neighbour outside.
pub(crate) struct World {
    pub(crate) net: HostNetwork,
    pub(crate) one: Peer,
    pub(crate) two: Peer,
    pub(crate) outside: Peer,
    pub(crate) rules: RuleSet,
    _dir: Scratch,
}

impl World {
    /// Everything up, with the guests' filters and these ports.
    pub(crate) async fn new(ports: &[(Protocol, Ipv4Addr, u16, u16)]) -> Self {
        let (config, dir) = config();
        let net = network(&config);
        net.ensure_bridge().await.unwrap();
        let group = group_of_taps(&net, &config).await;
        let guest = |name: &str, last: u8| {
            let ip = guest_ip(last);
            let mac = MacAddr::for_ipv4(ip).to_string();
            let peer = Peer::new(name, &mac, ip, Some(GATEWAY));
            run(&format!("ip link set {name} group {group} master hearth0"));
            run(&format!("ip link set {name} type bridge_slave hairpin on"));
            peer
        };
        let (one, two) = (guest("htone", 2), guest("httwo", 3));
        let outside = Peer::new("out0", "02:00:00:00:00:02", OUTSIDE, None);
        run(&format!("ip addr add {HOST}/24 dev out0"));
        let rules = RuleSet {
            guests: BTreeSet::from([guest_rule("htone", 2), guest_rule("httwo", 3)]),
            ports: ports
                .iter()
                .map(
                    |&(protocol, host_ip, host_port, guest_port)| PublishedPort {
                        protocol,
                        host_ip,
                        host_port,
                        guest_ip: guest_ip(2),
                        guest_port,
                    },
                )
                .collect(),
        };
        net.apply_rules(&rules).await.unwrap();
        Self {
            net,
            one,
            two,
            outside,
            rules,
            _dir: dir,
        }
    }
}

pub(crate) fn guest_rule(tap: &str, last: u8) -> GuestRule {
    GuestRule {
        tap: tap.to_owned(),
        mac: MacAddr::for_ipv4(guest_ip(last)),
        ip: guest_ip(last),
    }
}

/// The interface group that TAPs get: the guests of these tests are veths and need it too.
async fn group_of_taps(net: &HostNetwork, config: &NetworkConfig) -> u64 {
    let mark = OwnerMark::of_vm(config.mark.installation, VmId::new());
    let name = "htprobe".to_owned();
    net.ensure_tap(&TapSpec { name, mark, uid: 0 })
        .await
        .unwrap();
    let links: serde_json::Value = serde_json::from_str(&run("ip -j link show htprobe")).unwrap();
    let group = links[0]["group"].as_str().unwrap().parse().unwrap();
    for tap in net.taps().await.unwrap() {
        net.remove_tap(&tap).await.unwrap();
    }
    group
}
