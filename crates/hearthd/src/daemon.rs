//! Wiring: from a configuration to a running daemon, and its end.
//!
//! ```text
//! lock ─► database ─► rooms ─► first pass (adopts what lives) ─► listen ─► ready ─► loop …
//!                                                       SIGTERM ─► listeners, loop end; VMs go on
//! ```
//! Whatever fails before the first pass ends the daemon with a message and leaves the host
//! as it is.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use camino::Utf8Path;
use hearth_config::{AccelMode, Config, DefaultDriver, DiskReserve, Loaded, OrphanMode};
use hearth_host::boot::BootId;
use hearth_host::lock::{LockError, LockFile};
use hearth_image::jobs::Patience;
use hearth_image::{ImageStore, Limits};
use hearth_kernel::{Import, KernelStore, Source};
use hearth_net::{HostNetwork, NetworkConfig};
use hearth_plan::gc::schedule::Schedule;
use hearth_plan::mode::{Reserve, Switches};
use hearth_plan::{BreakerPolicy, HostBreakerPolicy, OrphanAction, Policy, StormPolicy};
use hearth_pool::Thins;
use hearth_store::{LeaseRanges, Store};
use hearth_types::api::ConfigView;
use hearth_types::observe::ObservedProcess;
use hearth_types::process::ProcessIdentity;
use hearth_types::spec::DriverChoice;
use hearth_types::{InstallationId, OwnerMark};
use hearth_vmm::drivers::Drivers;
use hearth_vmm::firecracker::{FirecrackerConfig, FirecrackerDriver, Kvm};
use hearth_vmm::qemu::{KvmMode, QemuConfig, QemuDriver};
use hearth_vmm::{Launcher, LogLimits};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::Api;
use crate::engine::{Engine, Parts, Settings, paths::Paths};
use crate::gc::keeper::GcPolicy;
use crate::host::{Processes, SystemClock};
use crate::layers::PoolLayers;
use crate::listen::Sockets;
use crate::manager::Manager;
use crate::safeguards::Safeguards;

/// The first context id that is a guest's.
const FIRST_CID: u32 = 3;
/// How long a holder of the lock is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks at the lock.
const LOCK_LOOK: Duration = Duration::from_millis(20);
/// How long open requests may take to end after SIGTERM.
pub const GOODBYE: Duration = Duration::from_secs(5);

/// The host's processes, as /proc shows them.
#[derive(Debug)]
struct HostProcesses {
    boot_id: String,
}

#[async_trait::async_trait]
impl Processes for HostProcesses {
    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    async fn survey(&self, installation: InstallationId) -> anyhow::Result<Vec<ObservedProcess>> {
        let survey =
            tokio::task::spawn_blocking(move || hearth_host::process::survey(installation));
        Ok(survey.await??)
    }

    fn pressure(&self, resource: hearth_host::pressure::Resource) -> Option<u32> {
        // A kernel without it says so each time; starts are not slowed down then.
        hearth_host::pressure::some_avg10(resource).ok()
    }

    fn condition(
        &self,
        identity: &ProcessIdentity,
    ) -> anyhow::Result<hearth_host::process::Condition> {
        Ok(hearth_host::process::condition(identity)?)
    }

    fn kernel_waits(
        &self,
        vmm: Option<&ProcessIdentity>,
    ) -> hearth_types::survey::Survey<Vec<hearth_host::waits::KernelWait>> {
        // A pid that is somebody else's by now is nobody's to look at.
        let same = |vmm: &&ProcessIdentity| {
            let condition = hearth_host::process::condition(vmm);
            condition.is_ok_and(|condition| condition != hearth_host::process::Condition::Gone)
        };
        crate::stuck::look(vmm.filter(same).map(|vmm| vmm.pid))
    }
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start; the host is as it was.
pub async fn run(
    loaded: Loaded,
    listeners: Vec<StdUnixListener>,
    manager: Manager,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let config = &loaded.config;
    make_folders(config)?;
    let lock_path = config.data_dir.join("hearthd.lock");
    let _lock = lock(&lock_path).await?;
    let (engine, thins) = build(config, &manager)?;
    import_kernel(&engine, config).await;

    let (stop, stopping) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut engine_loop = tokio::spawn(Arc::clone(&engine).run(stopping.clone()));
    crate::stuck::guard_runtime(&engine).context("cannot make a thread")?;
    // Nothing is answered before the first pass: no client is told what was true once.
    let mut changes = engine.passes();
    tokio::select! {
        _ = changes.wait_for(Option::is_some) => {}
        _ = terminate.recv() => return Ok(()),
        ended = &mut engine_loop => return Err(loop_ended(ended)),
    }

    let told = Arc::clone(&engine);
    drop(tokio::spawn(crate::pool::keep(
        Arc::clone(&engine),
        thins.clone(),
        manager.longest_pause(config.resync_interval.as_duration()),
        config.pool_backup_interval.as_duration(),
        stopping.clone(),
    )));
    let shown = Arc::new(ConfigView {
        entries: loaded.entries,
    });
    let patience = Patience {
        download: config.pull_attempts,
        long: config.pull_deadline.as_duration(),
        ..Patience::default()
    };
    let jobs = crate::image_jobs::open(&engine, &shown, patience)
        .context("the image folder cannot be used")?;
    engine.backups.configure(
        config.db_backup_interval.as_duration(),
        config.db_backup_keep,
    );
    let backups = crate::backups::keep_up(Arc::downgrade(&engine), stopping.clone());
    drop(tokio::spawn(backups));
    let garbage = crate::gc::Ground {
        engine: Arc::clone(&engine),
        thins: thins.clone(),
        jobs: jobs.clone(),
    };
    let garbage = crate::gc::keeper::Keeper::new(garbage, gc_policy(config)).await;
    drop(tokio::spawn(garbage.run(stopping.clone())));
    let state = Api {
        engine,
        pool: thins.pool().clone(),
        thins,
        jobs: jobs.clone(),
        config: shown,
        started,
        stopping: stopping.clone(),
    };
    let sockets = Sockets::open(config, listeners)?;
    let servers = sockets.serve(config, state, stopping.clone()).await?;
    tracing::info!(socket = %config.socket, millis = started.elapsed().as_millis(), "hearthd {} is ready", env!("CARGO_PKG_VERSION"));
    manager.ready();
    // Nobody waits for it: what it would still say is old.
    drop(tokio::spawn(manager.clone().follow(told, stopping)));
    let mut fault = None;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending; the VMs go on"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending; the VMs go on"),
        ended = &mut engine_loop => fault = Some(loop_ended(ended)),
    }
    manager.stopping();
    // Clients that lose their connection now have not left their pulls.
    jobs.stopping();
    stop.send_replace(true);
    // A task that has ended cannot be awaited again.
    let engine_loop = fault.is_none().then_some(engine_loop);
    let all = futures::future::join_all(servers.into_iter().chain(engine_loop));
    if tokio::time::timeout(GOODBYE, all).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    sockets.remove();
    fault.map_or(Ok(()), Err)
}

/// The loop ends only when it is told to: a daemon without it would answer and do nothing.
/// Who started the daemon starts it again.
fn loop_ended(ended: Result<(), tokio::task::JoinError>) -> anyhow::Error {
    let error = ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned());
    anyhow::anyhow!("the loop has ended ({error}); so does the daemon, and the VMs go on")
}

/// Takes the data folder's lock. A daemon that was killed a moment ago may still be dying
/// with the lock in its hands, so a holder gets that moment.
async fn lock(path: &Utf8Path) -> anyhow::Result<LockFile> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match LockFile::acquire(path, jiff::Timestamp::now()) {
            Err(LockError::Held { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_LOOK).await;
            }
            taken => return taken.context("another hearthd has this data folder"),
        }
    }
}

fn make_folders(config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "hearthd must run as root: it makes TAPs, bridges and loop devices, and gives each VMM a user of its own"
    );
    let parent = config.socket.parent().map(Utf8Path::to_owned);
    // VMMs run as users of their own and reach their folders through these.
    for (path, mode) in [
        (config.data_dir.clone(), 0o711),
        (config.data_dir.join("vms"), 0o711),
        (config.data_dir.join("volumes"), 0o711),
        // Only the daemon reads what was frozen.
        (config.data_dir.join("snapshots"), 0o700),
        (config.run_dir.clone(), 0o711),
    ] {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {path}"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {path}"))?;
    }
    if let Some(parent) = parent {
        std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {parent}"))?;
    }
    Ok(())
}

/// Puts the rooms together.
fn build(config: &Config, manager: &Manager) -> anyhow::Result<(Arc<Engine>, Thins)> {
    let store = Store::open(config.data_dir.join("hearth.db"))
        .context("the database cannot be used; nothing on the host was touched")?;
    let network = network_config(config, store.installation());
    std::fs::create_dir_all(&network.dir)
        .with_context(|| format!("cannot make {}", network.dir))?;
    let limits = Limits {
        bytes: config.image_max_bytes.0,
        entries: config.image_max_entries.into(),
        depth: config.image_max_depth as usize,
        downloads: config.pull_images as usize,
        ..Limits::default()
    };
    if let Ok(Some(kind)) = crate::doctor::storage::in_memory(&config.data_dir) {
        tracing::warn!(folder = %config.data_dir, kind, "the data folder is in memory: a reboot takes the database, images and all disks with it");
    }
    hearth_vmm::sweep_probes(&config.data_dir);
    let guest = companion(config.guest_path.as_deref(), "hearth-guest", "GUEST_PATH")?;
    let shim = companion(config.shim_path.as_deref(), "hearth-shim", "SHIM_PATH")?;
    let paths = Paths::new(config.data_dir.clone());
    let installation = store.installation();
    let helpers = crate::dm_helper::of_host(installation);
    let ground = crate::dm_helper::ground(&helpers);
    let safeguards = Safeguards::of_host(config, installation, helpers);
    let pool = crate::pool::of_host(
        &paths,
        installation,
        Arc::clone(&ground),
        safeguards.guard(),
    )
    .with_limits(crate::pool::limits(config))
    .with_device(config.pool_device.clone());
    let volumes = crate::volumes::of_host(pool, ground, store.clone(), config.storage);
    let thins = volumes.thins().clone();
    let image_dir = config.data_dir.join("images");
    let layers = Arc::new(PoolLayers::new(volumes.clone(), image_dir.join("images")));
    let parts = Parts {
        images: ImageStore::open(&image_dir, limits)
            .context("the image folder cannot be used")?
            .with_layers(layers),
        kernels: Arc::new(
            KernelStore::open(config.data_dir.join("kernels"))
                .context("the kernel folder cannot be used")?,
        ),
        vmm: Arc::new(drivers(config, &shim)),
        net: Arc::new(HostNetwork::new(network.clone()).context("the network cannot be used")?),
        disks: Arc::new(volumes),
        processes: Arc::new(HostProcesses {
            boot_id: BootId::current()?.as_str().to_owned(),
        }),
        clock: Arc::new(SystemClock),
        guest_segment: Arc::new(
            hearth_kernel::initrd::guest_segment(guest.as_std_path())
                .context("the guest agent cannot be read")?,
        ),
        store,
    };
    let settings = Settings {
        policy: Policy {
            resync: manager.longest_pause(config.resync_interval.as_duration()),
            ..policy(config)
        },
        network,
        leases: LeaseRanges {
            subnet: config.subnet,
            uid_base: config.uid_base,
            uid_count: config.uid_count,
            cid_base: FIRST_CID,
        },
        unprivileged: config.uid_base != 0,
        console: LogLimits {
            max_bytes: config.console_log_max.0,
            keep: config.console_log_keep,
        },
    };
    let engine = Engine::new(parts, settings, paths);
    safeguards.watch(&engine);
    Ok((engine, thins))
}

fn drivers(config: &Config, shim: &Utf8Path) -> Drivers {
    let qemu = QemuDriver::new(QemuConfig {
        binary: config.qemu_path.clone(),
        shim: Some(shim.to_owned()),
        probe_cache: Some(config.data_dir.join("vmm-probe.json")),
        kvm: match config.kvm {
            AccelMode::Auto => KvmMode::Auto,
            AccelMode::Off => KvmMode::Off,
        },
        launcher: Launcher::Detect,
    });
    let firecracker = FirecrackerDriver::new(FirecrackerConfig {
        binary: config.firecracker_path.clone(),
        shim: Some(shim.to_owned()),
        probe_cache: Some(config.data_dir.join("firecracker-probe.json")),
        kvm: match config.kvm {
            AccelMode::Auto => Kvm::Probe,
            AccelMode::Off => Kvm::Off,
        },
        cpu_template: config.firecracker_cpu_template.clone(),
        launcher: Launcher::Detect,
    });
    Drivers {
        qemu: Arc::new(qemu),
        firecracker: Arc::new(firecracker),
        default: match config.driver {
            DefaultDriver::Qemu => DriverChoice::Qemu,
            DefaultDriver::Firecracker => DriverChoice::Firecracker,
        },
    }
}

/// The shape of the network.
pub(crate) fn network_config(config: &Config, installation: InstallationId) -> NetworkConfig {
    NetworkConfig {
        bridge: config.bridge.clone(),
        table: config.nft_table.clone(),
        subnet: config.subnet,
        domain: config.base_domain.clone(),
        mark: OwnerMark::shared(installation),
        dir: config.data_dir.join("network"),
    }
}

fn companion(
    configured: Option<&Utf8Path>,
    name: &str,
    key: &str,
) -> anyhow::Result<camino::Utf8PathBuf> {
    hearth_vmm::find_companion(name, configured.map(Utf8Path::as_std_path)).with_context(|| {
        format!("{name} is needed: it lies beside hearthd or in /usr/lib/hearth, or {key} names it")
    })
}

fn gc_policy(config: &Config) -> GcPolicy {
    GcPolicy {
        schedule: Schedule {
            every: config.gc_interval.as_duration(),
            low: config.gc_low_space,
        },
        kinds: config.gc_kinds.clone(),
    }
}

fn policy(config: &Config) -> Policy {
    let action = |mode: OrphanMode| match mode {
        OrphanMode::Remove => OrphanAction::Remove,
        OrphanMode::Proven => OrphanAction::Proven,
        OrphanMode::Report => OrphanAction::Report,
    };
    Policy {
        orphan_grace: config.orphan_grace.as_duration(),
        orphan_cap: usize::try_from(config.orphan_cap).unwrap_or(usize::MAX),
        orphan_processes: action(config.orphan_processes),
        orphan_vmms: action(config.orphan_vmms),
        orphan_units: action(config.orphan_units),
        orphan_taps: action(config.orphan_taps),
        orphan_dirs: action(config.orphan_dirs),
        backoff_first: config.backoff_first.as_duration(),
        backoff_max: config.backoff_max.as_duration(),
        stable_after: config.stable_after.as_duration(),
        bootstrap: config.bootstrap_policy,
        after_wait: config.after_wait.as_duration(),
        storm: StormPolicy {
            at_once: match config.start_concurrency {
                0 => cpus().max(4),
                count => count,
            },
            per_second: config.start_rate,
            cpu_pressure: config.start_cpu_pressure,
            memory_pressure: config.start_memory_pressure,
        },
        host_breaker: HostBreakerPolicy {
            vms: config.host_breaker_vms,
            cooldown: config.host_breaker_cooldown.as_duration(),
            cooldown_max: config
                .host_breaker_cooldown
                .as_duration()
                .saturating_mul(15),
            ..HostBreakerPolicy::default()
        },
        breaker: BreakerPolicy {
            failures: config.breaker_failures,
            window: config.breaker_window.as_duration(),
            cooldown: config.breaker_cooldown.as_duration(),
            cooldown_max: config.breaker_cooldown_max.as_duration(),
        },
        auto: Switches {
            restart: config.auto_restart,
            bootstrap: config.auto_bootstrap,
            orphans: config.auto_orphans,
            drift: config.auto_drift,
            cleanup: config.auto_cleanup,
        },
        reserve: match config.disk_reserve {
            DiskReserve::Bytes(bytes) => Reserve::Bytes(bytes.0),
            DiskReserve::Percent(percent) => Reserve::Percent(percent),
        },
        ..Policy::default()
    }
}

fn cpus() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// `KERNEL_PATH`: the first kernel, imported once.
async fn import_kernel(engine: &Engine, config: &Config) {
    let Some(path) = config.kernel_path.clone() else {
        return;
    };
    let kernels = engine.parts.kernels.clone();
    let imported = tokio::task::spawn_blocking(move || {
        if kernels.list()?.is_empty() {
            let import = Import {
                source: Source::File(path.into()),
                modules_dir: None,
                name: None,
                default: true,
                extra_modules: Vec::new(),
            };
            kernels.import(&import).map(Some)
        } else {
            Ok(None)
        }
    });
    match imported.await {
        Ok(Ok(Some(kernel))) => tracing::info!(
            kernel = kernel.name,
            "the kernel of KERNEL_PATH was imported"
        ),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            tracing::error!(error = %hearth_types::survey::chain(&error), "the kernel of KERNEL_PATH cannot be imported; VMs need one: hearth kernel import")
        }
        Err(error) => tracing::error!(error = %error, "the import of KERNEL_PATH was interrupted"),
    }
}
