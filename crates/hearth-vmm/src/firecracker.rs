//! The Firecracker driver.
//!
//! ```text
//!            launch: shim ─► exec ─► API listens ─► configured ─► InstanceStart ─► marked
//!   (none) ────────────────────────────────────────────────────────────────────────► Running ◄─► Paused
//!      ▲          │ failure, or the launcher dies before the mark:                     │           │
//!      │◄─────────┘ killed, no exit record                                             │           │
//!      │                                          the guest resets, Ctrl-Alt-Del, TERM, KILL       │
//!      │            exit.json written by the shim                                      ▼           ▼
//!      └──────────────────────────────────────────────────────────────────────────── Ended ◄──────┘
//! ```
//!
//! Firecracker runs in a cage that the shim makes (its own root folder, uid, namespaces),
//! with its own system call filter. It needs KVM: where that does not run guests, nothing
//! is launched. It has no command to quit; it ends when its guest resets the machine, or by
//! a signal.
//!
//! | module | holds |
//! | --- | --- |
//! | `api` | the HTTP client |
//! | `config` | the requests before the start |
//! | `kvm` | whether guests run here |
//! | [`metrics`] | its figures in ours |
//! | `place` | its sockets, in the cage |
//! | `start` | from a specification to a running guest |
//! | [`version`] | which versions are supported |

use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::api::DeviceStats;
use hearth_types::ids::VmId;
use hearth_types::observe::RunState;
use hearth_types::process::{ExitRecord, ProcessIdentity};
use hearth_types::spec::{DriverChoice, VmSpec};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use serde_json::{Value, json};

use crate::launch::{self, Launcher, Needs};
use crate::{
    Disk, GrownDisk, KernelFiles, LaunchSpec, Probe, Stream, Terms, Vmm, VmmError, VsockPorts,
    find_companion, record,
};

mod api;
mod config;
mod kvm;
mod metrics;
pub(crate) mod place;
mod start;
pub mod version;

use api::{ApiError, Connection, Gates, Request};
use config::Template;
use start::{configure, serial, shim_request};

/// The driver's name.
pub const NAME: &str = "firecracker";
/// The deadline of a command that changes something.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take from exec to a running guest: 50 ms alone, more on a busy host.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// The port on which a guest's agent listens. The same as `hearth_guest_proto::VSOCK_PORT`.
const AGENT_PORT: u32 = 1024;
/// The port of the host to which a guest brings its exit report.
const REPORT_PORT: u32 = 1025;
/// Longest CPU template that is read, in bytes.
const TEMPLATE_MAX: u64 = 48 << 10;
/// Memory of the host that it uses beyond the guest's: 5 MiB by its own promise, and the
/// page tables, buffers and the shim around it.
const OVERHEAD: Bytes = Bytes::mib(64);
/// Threads beside the vCPUs: the device loop, the API, and the shim.
const THREADS: u32 = 8;

/// How the driver finds its programs, and what it may use.
#[derive(Debug, Clone, Default)]
pub struct FirecrackerConfig {
    /// Firecracker's program; `None` looks for `firecracker` in the system's folders.
    pub binary: Option<Utf8PathBuf>,
    /// The shim; `None` looks beside the running program and in `/usr/lib/hearth`.
    pub shim: Option<Utf8PathBuf>,
    /// Where the answer of the KVM probe is kept; `None` asks again in each process.
    pub probe_cache: Option<Utf8PathBuf>,
    /// What is known of KVM here.
    pub kvm: Kvm,
    /// The CPU template: the name of one of Firecracker's, or the path of a file.
    pub cpu_template: Option<String>,
    /// How shims are started.
    pub launcher: Launcher,
}

/// What is known of KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kvm {
    /// A guest is booted once to find out.
    #[default]
    Probe,
    /// It may not be used.
    Off,
    /// It works. For tests, which know what they do.
    Assumed,
}

/// VMs in Firecracker processes.
#[derive(Debug)]
pub struct FirecrackerDriver {
    config: FirecrackerConfig,
    known: version::Known,
    probes: kvm::Probes,
    gates: Gates,
}

impl FirecrackerDriver {
    /// A driver. Nothing is looked for or run before it is needed.
    #[must_use]
    pub fn new(config: FirecrackerConfig) -> Self {
        Self {
            config,
            known: version::Known::default(),
            probes: kvm::Probes::default(),
            gates: Gates::default(),
        }
    }

    fn binary(&self) -> Result<Utf8PathBuf, VmmError> {
        let found = match &self.config.binary {
            Some(path) => path.is_file().then(|| path.as_std_path().to_owned()),
            None => hearth_host::command::find(NAME),
        };
        // The shim runs it from another working folder.
        let absolute = found
            .and_then(|path| std::path::absolute(path).ok())
            .and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
        absolute.ok_or_else(|| VmmError::Missing {
            what: "Firecracker".to_owned(),
            detail: match &self.config.binary {
                Some(path) => format!("there is no {path}; FIRECRACKER_PATH names it"),
                None => format!(
                    "{NAME} is in no system folder; install its release and name it with FIRECRACKER_PATH"
                ),
            },
        })
    }

    fn shim(&self) -> Result<Utf8PathBuf, VmmError> {
        let explicit = self.config.shim.as_deref().map(Utf8Path::as_std_path);
        find_companion("hearth-shim", explicit)
    }

    fn template(&self) -> Result<Option<Template>, VmmError> {
        let Some(template) = &self.config.cpu_template else {
            return Ok(None);
        };
        if !template.starts_with('/') {
            return Ok(Some(Template::Named(template.clone())));
        }
        read_template(Utf8Path::new(template)).map(|body| Some(Template::Own(body)))
    }

    /// Launches without asking whether KVM works.
    async fn launch_unasked(
        &self,
        spec: &LaunchSpec,
        max: Option<Duration>,
    ) -> Result<ProcessIdentity, VmmError> {
        config::check(spec)?;
        let binary = self.binary()?;
        let shim = self.shim()?;
        let version = self.known.version(&binary).await?;
        let template = self.template()?;
        let mut request = shim_request(spec, &binary, version)?;
        request.max_millis = max.and_then(|max| u64::try_from(max.as_millis()).ok());
        let needs = Needs {
            devices: vec!["/dev/kvm"],
            makes_code: false,
            overhead: OVERHEAD,
            threads: THREADS,
        };
        let begun = tokio::time::Instant::now();
        let launcher = self.config.launcher;
        let identity = launch::through_shim(launcher, &shim, spec, &request, &needs).await?;
        let executed = begun.elapsed();
        let gate = self.gates.pass(spec.vm).await;
        let requests = config::requests(spec, template.as_ref());
        let configured = configure(&identity, &spec.dir, requests);
        launch::greeted(spec.vm, &spec.dir, &identity, START_DEADLINE, configured).await?;
        drop(gate);
        tracing::debug!(
            vm = %spec.vm,
            pid = identity.pid,
            executed_us = executed.as_micros(),
            started_us = begun.elapsed().as_micros(),
            "VMM runs"
        );
        Ok(identity)
    }

    async fn command(
        &self,
        vm: VmId,
        dir: &Utf8Path,
        what: &str,
        request: &Request,
        deadline: Duration,
    ) -> Result<Value, VmmError> {
        let work = async {
            let _gate = self.gates.pass(vm).await;
            Connection::open(dir).await?.request(request).await
        };
        tokio::time::timeout(deadline, work)
            .await
            .unwrap_or(Err(ApiError::Deadline(deadline)))
            .map_err(|error| control(vm, what, chain(&error)))
    }
}

fn control(vm: VmId, command: &str, detail: String) -> VmmError {
    VmmError::Control {
        vm,
        command: command.to_owned(),
        detail,
    }
}

fn read_template(path: &Utf8Path) -> Result<Value, VmmError> {
    use std::io::Read as _;
    let failed = |source| VmmError::Io {
        operation: "read the CPU template",
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TEMPLATE_MAX).read_to_end(&mut text))
        .map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

#[async_trait]
impl Vmm for FirecrackerDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn probe(&self, kernel: Option<&KernelFiles>) -> Result<Probe, VmmError> {
        let binary = self.binary()?;
        let version = self.known.version(&binary).await?;
        let detail = self.probes.check(self, version, kernel).await?;
        Ok(Probe {
            version: version.to_string(),
            accelerator: "kvm".to_owned(),
            detail,
        })
    }

    async fn admits(&self, spec: &VmSpec) -> Result<(), VmmError> {
        if spec.vcpus > config::MAX_VCPUS {
            return Err(VmmError::Unsuitable {
                detail: format!(
                    "{} vCPUs are more than the {} that Firecracker has; ask for less or choose the driver qemu",
                    spec.vcpus,
                    config::MAX_VCPUS
                ),
            });
        }
        if spec.health.asks_qemu_agent() {
            return Err(VmmError::Unsuitable {
                detail: "Firecracker has no port for QEMU's guest agent; leave the check qemu-agent out or choose the driver qemu".to_owned(),
            });
        }
        let binary = self.binary()?;
        self.known.version(&binary).await?;
        self.shim()?;
        kvm::possible(self.config.kvm)
    }

    async fn terms(
        &self,
        _choice: DriverChoice,
        kernel: &KernelFiles,
        dir: &Utf8Path,
        disks: &[Disk],
    ) -> Result<Terms, VmmError> {
        let probe = self.probe(Some(kernel)).await?;
        let serials: Result<_, _> = disks.iter().map(|disk| serial(dir, disk)).collect();
        Ok(Terms {
            driver: NAME,
            accelerator: probe.accelerator,
            serials: serials?,
            vsock: Some(VsockPorts {
                agent: AGENT_PORT,
                report: REPORT_PORT,
            }),
            ends_by_reset: true,
        })
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<ProcessIdentity, VmmError> {
        self.probe(Some(&spec.kernel)).await?;
        self.launch_unasked(spec, None).await
    }

    async fn run_state(
        &self,
        vm: VmId,
        dir: &Utf8Path,
        deadline: Duration,
    ) -> Result<RunState, VmmError> {
        const COMMAND: &str = "GET /";
        let answer = self
            .command(vm, dir, COMMAND, &Request::get("/"), deadline)
            .await?;
        match answer.get("state").and_then(Value::as_str) {
            Some("Running") => Ok(RunState::Running),
            Some("Paused") => Ok(RunState::Paused),
            // A launch that was not completed. There is no guest, and there will be none.
            Some("Not started") => Ok(RunState::Ended),
            _ => Err(control(vm, COMMAND, format!("unknown state in {answer}"))),
        }
    }

    /// Refused where the guest could not be reached after it: the version that counts is the
    /// running one's.
    async fn device_stats(
        &self,
        vm: VmId,
        dir: &Utf8Path,
    ) -> Result<Option<DeviceStats>, VmmError> {
        let flush = Request::put("/actions", json!({"action_type": "FlushMetrics"}));
        self.command(vm, dir, "FlushMetrics", &flush, COMMAND_DEADLINE)
            .await?;
        metrics::sums(dir).map_err(|source| VmmError::Io {
            operation: "read",
            path: dir.join(hearth_shim::METRICS),
            source,
        })
    }

    async fn pause(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        let about = Request::get("/");
        let about = self
            .command(vm, dir, "GET /", &about, COMMAND_DEADLINE)
            .await?;
        let version = about.get("vmm_version").and_then(Value::as_str);
        if let Some(version) = version.and_then(version::number)
            && version::NO_PAUSE.contains(&version)
        {
            return Err(VmmError::Unsuitable {
                detail: format!(
                    "Firecracker {version} loses the guest's vsock device when it goes on after a pause; use {} or newer, or one before {}",
                    version::NO_PAUSE.end,
                    version::NO_PAUSE.start
                ),
            });
        }
        let request = Request::patch("/vm", json!({"state": "Paused"}));
        self.command(vm, dir, "pause", &request, COMMAND_DEADLINE)
            .await
            .map(drop)
    }

    async fn resume(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        let request = Request::patch("/vm", json!({"state": "Resumed"}));
        self.command(vm, dir, "resume", &request, COMMAND_DEADLINE)
            .await
            .map(drop)
    }

    /// Its file is looked at anew, under the name that it has in the cage.
    async fn disk_grown(&self, vm: VmId, dir: &Utf8Path, disk: &GrownDisk) -> Result<(), VmmError> {
        let id = format!("disk{}", disk.number);
        let body = json!({"drive_id": id, "path_on_host": disk.file});
        let request = Request::patch(&format!("/drives/{id}"), body);
        self.command(vm, dir, "PATCH /drives", &request, COMMAND_DEADLINE)
            .await
            .map(drop)
    }

    async fn power_button(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        let request = config::ctrl_alt_del();
        self.command(vm, dir, "SendCtrlAltDel", &request, COMMAND_DEADLINE)
            .await
            .map(drop)
    }

    /// By SIGTERM, which ends it at once: its API has no command for it.
    async fn quit(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        terminate(dir).map_err(|error| control(vm, "quit", error.to_string()))
    }

    async fn kill(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        launch::kill(identity).await
    }

    async fn wait_dead(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        hearth_host::process::watch(identity.clone()).await;
        Ok(())
    }

    async fn agent(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        let stream = place::connect_vsock(dir, AGENT_PORT);
        let stream = tokio::time::timeout(COMMAND_DEADLINE, stream)
            .await
            .map_err(|_| {
                control(
                    vm,
                    "CONNECT",
                    ApiError::Deadline(COMMAND_DEADLINE).to_string(),
                )
            })?
            .map_err(|source| VmmError::Io {
                operation: "connect to the guest's agent behind",
                path: dir.join(place::VSOCK_SOCKET),
                source,
            })?;
        Ok(Box::new(stream))
    }

    async fn console(&self, _vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        let name = hearth_shim::CONSOLE_SOCKET;
        let stream = hearth_host::unixsock::connect(dir.as_std_path(), name)
            .await
            .map_err(|source| VmmError::Io {
                operation: "connect to",
                path: dir.join(name),
                source,
            })?;
        Ok(Box::new(stream))
    }

    async fn exit_record(&self, dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError> {
        record::exit_record(dir).await
    }
}

/// Asks the VMM whose lock this is to end, by its process.
fn terminate(dir: &Utf8Path) -> std::io::Result<()> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let gone = || std::io::Error::new(std::io::ErrorKind::NotFound, "no VMM lives here");
    let vmm = place::holder(dir)?.vmm.ok_or_else(gone)?;
    let pid = Pid::from_raw(vmm.pid).ok_or_else(gone)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    // In this order: the descriptor is of that process, or it is dead.
    if !vmm.lives() {
        return Err(gone());
    }
    Ok(pidfd_send_signal(process, Signal::TERM)?)
}
