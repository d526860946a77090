//! A fresh network namespace per test, and hosts ("guests", "outside") in others.

use std::future::Future;
use std::net::Ipv4Addr;
use std::process::{Command, Output};

use hearth_net::{HostNetwork, NetworkConfig};
use hearth_types::OwnerMark;
use hearth_types::ids::InstallationId;
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
pub(crate) fn config() -> (NetworkConfig, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = camino::Utf8Path::from_path(dir.path()).expect("UTF-8");
    let config = NetworkConfig {
        bridge: "hearth0".to_owned(),
        table: "hearth".to_owned(),
        subnet: "10.213.0.0/24".parse().expect("a subnet"),
        domain: "hearth.internal".to_owned(),
        mark: OwnerMark::shared(InstallationId::new()),
        dir: path.join("names"),
    };
    (config, dir)
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

/// What others could see of us: links, rules, addresses, routes.
pub(crate) fn snapshot() -> Vec<String> {
    [
        "ip -j -d link",
        "nft list ruleset",
        "ip -j addr",
        "ip -j route show table all",
    ]
    .map(run)
    .to_vec()
}

/// An address of the test subnet.
pub(crate) fn guest_ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 0, last)
}
