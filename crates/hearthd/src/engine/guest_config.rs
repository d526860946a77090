//! What a guest is told at its start: the image's wishes, overridden by the spec's.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use hearth_guest_proto::config::{
    GuestConfig, InitMode, NetworkConfig, ProcessConfig, VolumeConfig, VsockConfig,
};
use hearth_store::VmRow;
use hearth_types::image::ImageConfig;
use hearth_types::spec::{self, NetworkMode, VmSpec};
use hearth_types::volume::Attachment;
use hearth_vmm::Terms;
use ipnet::Ipv4Net;
use jiff::Timestamp;

use super::Settings;

/// Puts the guest's configuration together.
pub(super) fn guest_config(
    row: &VmRow,
    lent: &[Attachment],
    image: &ImageConfig,
    settings: &Settings,
    boot_nonce: String,
    terms: &Terms,
    now: Timestamp,
) -> anyhow::Result<GuestConfig> {
    // The root disk is the first, then the volumes in their order.
    let serial = |number: usize| {
        let serial = terms.serials.get(number).cloned();
        serial.with_context(|| format!("disk {number} has no serial"))
    };
    Ok(GuestConfig {
        vm_id: row.id.to_string(),
        hostname: row.spec.name.to_string(),
        domain: Some(settings.network.domain.clone()),
        boot_nonce,
        root_serial: serial(0)?,
        volumes: mounts(row, lent)
            .enumerate()
            .map(|(number, (mount, read_only))| {
                Ok(VolumeConfig {
                    serial: serial(number + 1)?,
                    mount: mount.to_owned(),
                    read_only,
                })
            })
            .collect::<anyhow::Result<_>>()?,
        network: network(row, settings)?,
        process: ProcessConfig {
            argv: argv(&row.spec, image),
            env: environment(&row.spec, image),
            user: row.spec.user.clone().or_else(|| image.user.clone()),
            workdir: row.spec.workdir.clone().or_else(|| image.workdir.clone()),
        },
        init: match row.spec.init {
            spec::InitMode::Hearth => InitMode::Hearth,
            spec::InitMode::Image => InitMode::Image,
        },
        wall_clock_ms: u64::try_from(now.as_millisecond()).ok(),
        stop_signal: image.stop_signal.clone(),
        stop_timeout_ms: Some(row.spec.stop_timeout.as_millis()),
        vsock: terms.vsock.map(|ports| VsockConfig {
            agent_port: ports.agent,
            report_port: ports.report,
        }),
        // Who has a vsock has no such port.
        ports: (terms.vsock.is_none() && row.spec.health.asks_qemu_agent())
            .then(|| hearth_vmm::qemu::QEMU_AGENT_PORT.to_owned())
            .into_iter()
            .collect(),
        ends_by_reset: terms.ends_by_reset,
    })
}

/// Where volumes are mounted, and whether read-only: the VM's own first.
fn mounts<'a>(row: &'a VmRow, lent: &'a [Attachment]) -> impl Iterator<Item = (&'a str, bool)> {
    let own = row.spec.volumes.iter();
    let own = own.map(|volume| (volume.mount.as_str(), volume.read_only));
    own.chain(lent.iter().map(|it| (it.mount.as_str(), it.read_only)))
}

fn network(row: &VmRow, settings: &Settings) -> anyhow::Result<Option<NetworkConfig>> {
    if row.spec.network.mode == NetworkMode::None {
        return Ok(None);
    }
    let subnet = settings.network.subnet;
    let gateway = subnet
        .hosts()
        .next()
        .context("the subnet has no addresses")?;
    let address = row.leases.ip.context("no address is leased")?;
    inside(address, subnet)?;
    Ok(Some(NetworkConfig {
        mac: row
            .leases
            .mac
            .context("no MAC address is leased")?
            .to_string(),
        address,
        prefix: subnet.prefix_len(),
        gateway,
        dns: vec![gateway],
        search: vec![settings.network.domain.clone()],
    }))
}

/// A guest with an address of another subnet would reach nobody, and nobody would reach it.
fn inside(address: Ipv4Addr, subnet: Ipv4Net) -> anyhow::Result<()> {
    anyhow::ensure!(
        subnet.contains(&address),
        "its address {address} is not of the subnet {subnet}: SUBNET was another one when it was \
         made; set it back, or create the VM again"
    );
    Ok(())
}

/// As docker does it: an entrypoint of the spec's clears the image's command, too.
fn argv(spec: &VmSpec, image: &ImageConfig) -> Vec<String> {
    let entrypoint = spec.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    let command = match (&spec.command, &spec.entrypoint) {
        (Some(command), _) => command.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => &image.cmd,
    };
    entrypoint.iter().chain(command).cloned().collect()
}

/// The image's environment with the spec's values over it, in the image's order.
fn environment(spec: &VmSpec, image: &ImageConfig) -> Vec<String> {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let kept = image
        .env
        .iter()
        .filter(|entry| !spec.env.contains_key(&key(entry)))
        .cloned();
    kept.chain(spec.env.iter().map(|(key, value)| format!("{key}={value}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
            env: vec!["PATH=/bin".into(), "MODE=prod".into()],
            ..ImageConfig::default()
        }
    }

    #[test]
    fn commands_override_as_with_docker() {
        let mut spec = VmSpec::new("a".parse().unwrap(), "x");
        assert_eq!(argv(&spec, &image()), ["/entry", "serve"]);
        spec.command = Some(vec!["check".into()]);
        assert_eq!(argv(&spec, &image()), ["/entry", "check"]);
        spec.command = None;
        spec.entrypoint = Some(vec!["/bin/sh".into()]);
        assert_eq!(argv(&spec, &image()), ["/bin/sh"]);
        spec.entrypoint = Some(Vec::new());
        assert!(argv(&spec, &image()).is_empty());
    }

    #[test]
    fn an_address_of_another_subnet_is_no_start() {
        let subnet = "10.64.0.0/16".parse().unwrap();
        assert!(inside("10.64.3.4".parse().unwrap(), subnet).is_ok());
        let refused = inside("10.213.0.2".parse().unwrap(), subnet).unwrap_err();
        assert!(refused.to_string().contains("SUBNET"), "{refused}");
    }

    #[test]
    fn the_specs_environment_wins() {
        let mut spec = VmSpec::new("a".parse().unwrap(), "x");
        spec.env.insert("MODE".into(), "test".into());
        assert_eq!(environment(&spec, &image()), ["PATH=/bin", "MODE=test"]);
    }
}
