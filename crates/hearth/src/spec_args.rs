//! The flags that describe a VM: shared by `run`, `create` and `template create`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use camino::Utf8PathBuf;
use clap::Args;

use hearth_types::spec::{
    DriverChoice, InitMode, Machine, NetworkMode, NetworkSpec, PartialSpec, PortSpec,
    RestartPolicy, VmSpec, VolumeSpec,
};
use hearth_types::units::{Bytes, Span};
use hearth_types::{Label, VmName};

use crate::dump_args::DumpArgs;
use crate::exit_codes;
use crate::failure::Failure;
use crate::health_args::HealthArgs;
use crate::recovery_args::RecoveryArgs;
use crate::resource_args::ResourceArgs;
use crate::values;

/// A VM of an image, or of a template.
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Name of the VM and host name of the guest; made up when absent
    #[arg(long)]
    pub(crate) name: Option<VmName>,

    /// Template: its image, and what it has for whatever is not said here
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) template: Option<VmName>,

    /// Remove the VM when it has ended
    #[arg(long)]
    pub(crate) rm: bool,

    /// Image: a reference (debian:12, localhost:5000/demo:1) or an id. With --template the command
    /// begins here
    #[arg(required_unless_present = "template")]
    pub(crate) image: Option<String>,

    /// Command and arguments instead of the image's
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,

    // Last: their headings hold for what follows.
    #[command(flatten)]
    settings: SettingArgs,
}

/// What a VM is, but for its name and its image.
#[derive(Debug, Args)]
pub(crate) struct SettingArgs {
    /// Guest memory, such as 512MiB or 2g [default: 256MiB]
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<Bytes>,

    /// Number of virtual CPUs [default: 1]
    #[arg(long, visible_alias = "cpus", value_name = "N")]
    vcpus: Option<u32>,

    /// Size of the root disk; at least the image's
    #[arg(long, value_name = "SIZE")]
    disk: Option<Bytes>,

    /// Data volume of the VM: NAME:MOUNT:SIZE[:ro] (several times)
    #[arg(short, long = "volume", value_name = "VOLUME")]
    volumes: Vec<VolumeSpec>,

    /// Publish a port: [HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|udp] (several times)
    #[arg(short, long = "publish", value_name = "PORT")]
    publish: Vec<PortSpec>,

    /// Environment variable: KEY=VALUE, or KEY to pass on one's own (several times)
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    env: Vec<String>,

    /// File with one KEY=VALUE in a line (several times)
    #[arg(long, value_name = "FILE")]
    env_file: Vec<Utf8PathBuf>,

    /// Label: KEY=VALUE (several times)
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    /// When it ends by itself: no, on-failure[:N], always or unless-stopped [default: no]
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,

    /// How long a clean stop may take: seconds, or with a unit [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = values::span)]
    stop_timeout: Option<Span>,

    /// Program to run instead of the image's entrypoint; "" for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// User in the guest: USER[:GROUP]
    #[arg(short, long)]
    user: Option<String>,

    /// Working folder in the guest
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// How it is connected [default: bridge]
    #[arg(long, value_name = "MODE", value_parser = values::word::<NetworkMode>(&["bridge", "none"]))]
    network: Option<NetworkMode>,

    /// Fixed address in the installation's subnet
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,

    /// Kernel as `hearth kernel ls` names it; the default one when absent
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,

    /// What runs it: auto is the daemon's default [default: auto]
    #[arg(long, value_name = "DRIVER", value_parser = values::word::<DriverChoice>(&["auto", "qemu", "firecracker"]))]
    driver: Option<DriverChoice>,

    /// Machine model of QEMU [default: microvm]
    #[arg(long, value_name = "MODEL", value_parser = values::word::<Machine>(&["microvm", "q35"]))]
    machine: Option<Machine>,

    /// Who is PID 1: hearth's agent, or the image's own init (systemd) [default: hearth]
    #[arg(long, value_name = "WHO", value_parser = values::word::<InitMode>(&["hearth", "image"]))]
    init: Option<InitMode>,

    // Last: their headings hold for what follows.
    #[command(flatten)]
    health: HealthArgs,

    #[command(flatten)]
    recovery: RecoveryArgs,

    #[command(flatten)]
    dumps: DumpArgs,

    #[command(flatten)]
    resources: ResourceArgs,
}

impl SpecArgs {
    /// The specification for a VM of this name, with every value checked.
    pub(crate) fn to_spec(&self, name: VmName) -> Result<VmSpec, Failure> {
        let image = self.image.clone().unwrap_or_default();
        let spec = self.to_partial()?.over(VmSpec::new(name, image));
        let errors = spec.check();
        if errors.is_empty() {
            Ok(spec)
        } else {
            Err(Failure::fields("These values cannot be used", errors))
        }
    }

    /// What was said, and nothing of what was not.
    pub(crate) fn to_partial(&self) -> Result<PartialSpec, Failure> {
        // Without an image to name, the first word is the command's.
        let first = self.template.as_ref().and(self.image.as_ref());
        let command: Vec<_> = first.into_iter().chain(&self.command).cloned().collect();
        Ok(PartialSpec {
            command: (!command.is_empty()).then_some(command),
            auto_remove: self.rm.then_some(true),
            ..self.settings.to_partial()?
        })
    }
}

impl SettingArgs {
    /// What was said, and nothing of what was not.
    pub(crate) fn to_partial(&self) -> Result<PartialSpec, Failure> {
        let labels = self.labels.iter().cloned().map(|l| (l.key, l.value));
        let network = (self.network.is_some() || self.ip.is_some()).then(|| NetworkSpec {
            mode: self.network.unwrap_or_default(),
            address: self.ip,
        });
        let partial = PartialSpec {
            kernel: self.kernel.clone(),
            vcpus: self.vcpus,
            memory: self.memory,
            disk: self.disk,
            env: self.environment()?,
            entrypoint: self.entrypoint.as_deref().map(entrypoint),
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            init: self.init,
            network,
            ports: some(&self.publish),
            volumes: some(&self.volumes),
            labels: labels.collect(),
            restart: self.restart,
            stop_timeout: self.stop_timeout,
            driver: self.driver,
            machine: self.machine,
            resources: self.resources.to_resources(),
            crash_dump: self.dumps.to_crash_dump(),
            health: self.health.to_health(),
            ..PartialSpec::default()
        };
        Ok(self.recovery.apply(partial))
    }

    fn environment(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut env = BTreeMap::new();
        for path in &self.env_file {
            let text = std::fs::read_to_string(path).map_err(|e| {
                Failure::because(
                    exit_codes::USAGE,
                    format!("Cannot read the environment file {path}"),
                    &e,
                )
            })?;
            for line in text.lines().map(str::trim_start) {
                if !line.is_empty() && !line.starts_with('#') {
                    add_variable(line, &mut env);
                }
            }
        }
        for entry in &self.env {
            add_variable(entry, &mut env);
        }
        Ok(env)
    }
}

/// A list of which something was said.
fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn entrypoint(text: &str) -> Vec<String> {
    if text.is_empty() {
        Vec::new()
    } else {
        vec![text.to_owned()]
    }
}

/// `KEY=VALUE`, or `KEY` for a variable of our own environment that is passed on if it is set.
pub(crate) fn add_variable(entry: &str, env: &mut BTreeMap<String, String>) {
    if let Some((key, value)) = entry.split_once('=') {
        env.insert(key.to_owned(), value.to_owned());
    } else if let Ok(value) = std::env::var(entry) {
        env.insert(entry.to_owned(), value);
    }
}
