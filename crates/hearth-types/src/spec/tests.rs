use std::net::Ipv4Addr;

use super::*;
use proptest::prelude::*;

fn spec() -> VmSpec {
    VmSpec::new("web-1".parse().unwrap(), "debian:12")
}

fn paths(spec: &VmSpec) -> Vec<String> {
    spec.check().into_iter().map(|e| e.path).collect()
}

#[test]
fn the_defaults_are_usable() {
    assert_eq!(paths(&spec()), Vec::<String>::new());
}

#[test]
fn impossible_values_are_named_by_path() {
    let mut bad = spec();
    bad.vcpus = 0;
    bad.memory = Bytes(1);
    bad.disk = Some(Bytes(1));
    bad.env.insert("A=B".into(), String::new());
    bad.workdir = Some("relative".into());
    bad.network.mode = NetworkMode::None;
    bad.network.address = Some(Ipv4Addr::LOCALHOST);
    bad.ports = vec!["80:80".parse().unwrap(), "80:81".parse().unwrap()];
    bad.volumes = ["root:/../etc:1GiB", "a:/a:1GiB", "b://a/./:1GiB"]
        .map(|text| text.parse().unwrap())
        .into();
    bad.labels.insert("bad key".into(), String::new());
    assert_eq!(
        paths(&bad),
        [
            "vcpus",
            "memory",
            "disk",
            "env.A=B",
            "workdir",
            "network.address",
            "ports",
            "ports[1].host_port",
            "volumes[0].name",
            "volumes[0].mount",
            "volumes[2].mount",
            "labels.bad key",
        ]
    );
}

#[test]
fn ports_read_like_dockers() {
    let port: PortSpec = "8080:80".parse().unwrap();
    assert_eq!(port.to_string(), "0.0.0.0:8080:80/tcp");
    assert_eq!(
        "127.0.0.1:53:5353/udp"
            .parse::<PortSpec>()
            .unwrap()
            .to_string(),
        "127.0.0.1:53:5353/udp"
    );
    for bad in [
        "",
        "80",
        "0:80",
        "80:0",
        "80:80/sctp",
        "70000:1",
        "x:80:80",
        "1:2:3:4",
    ] {
        assert!(bad.parse::<PortSpec>().is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn restart_policies_read_back() {
    for text in [
        "no",
        "on-failure",
        "on-failure:3",
        "always",
        "unless-stopped",
    ] {
        assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
    }
    for bad in [
        "",
        "never",
        "on-failure:",
        "on-failure:0",
        "on-failure:-1",
        "Always",
    ] {
        assert!(
            bad.parse::<RestartPolicy>().is_err(),
            "{bad:?} was accepted"
        );
    }
}

proptest! {
    #[test]
    fn parsers_take_any_text_without_panicking(text in ".{0,40}") {
        drop(text.parse::<PortSpec>());
        drop(text.parse::<VolumeSpec>());
        drop(text.parse::<RestartPolicy>());
        drop(text.parse::<Bytes>());
    }
}
