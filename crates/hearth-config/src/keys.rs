//! The table of keys. The [`Config`] struct, the flags, the checks, `config show` and
//! `docs/configuration.md` are all made from it.

use std::net::IpAddr;

use camino::Utf8PathBuf;
use hearth_types::gc::GcKind;
use hearth_types::spec::BootstrapPolicy;
use hearth_types::units::{Bytes, Span};
use ipnet::Ipv4Net;

use crate::kinds::{
    self, AccelMode, DefaultDriver, DiskReserve, Kind, LogFormat, OrphanMode, Secret, Storage,
};
use crate::resolve::Values;

/// One key of the configuration, as data.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// Its value when nobody sets it; empty if it has none. `<RUN_DIR>` stands for that key's value.
    pub default: &'static str,
    /// What it does; sentences joined by newlines.
    pub doc: &'static str,
    /// Its type in a word or two.
    pub kind: &'static str,
    /// The accepted form.
    pub form: &'static str,
    /// Never shown, and no flag: command lines are for everyone to read.
    pub secret: bool,
}

impl Key {
    /// The environment variable of the same meaning: `HEARTH_DATA_DIR`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("HEARTH_{}", self.name)
    }

    /// The flag of the same meaning, without the dashes: `data-dir`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }
}

macro_rules! keys {
    ($( $(#[doc = $doc:literal])+ $name:ident $field:ident: $type:ty = $default:literal, $kind:ident; )*) => {
        /// The daemon's configuration, each value checked.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $field: $type, )*
        }

        /// Every key, in the order of the documentation.
        pub static KEYS: &[Key] = &[
            $( Key {
                name: stringify!($name),
                default: $default,
                doc: concat!($($doc, "\n"),+),
                kind: kinds::$kind.name,
                form: kinds::$kind.form,
                secret: kinds::$kind.secret,
            }, )*
        ];

        /// Reads every value; `None` if any of them was refused (the errors are in `values`).
        pub(crate) fn build(values: &mut Values) -> Option<Config> {
            $( let $field: Option<$type> = {
                let kind: &Kind<$type> = &kinds::$kind;
                values.read(stringify!($name), kind)
            }; )*
            Some(Config { $( $field: $field?, )* })
        }
    };
}

keys! {
    /// Where the database, images, kernels and the VMs' disks live.
    DATA_DIR data_dir: Utf8PathBuf = "/var/lib/hearth", PATH;
    /// Where sockets and other things live that need not survive a reboot.
    RUN_DIR run_dir: Utf8PathBuf = "/run/hearth", PATH;
    /// The unix socket of the API.
    SOCKET socket: Utf8PathBuf = "<RUN_DIR>/hearthd.sock", SOCKET_PATH;
    /// Permissions of the socket. Whoever may write to it may do anything that root may.
    SOCKET_MODE socket_mode: u32 = "0660", MODE;
    /// Group that owns the socket; when unset `hearth` if there is such a group, else the
    /// daemon's own. With systemd's hearthd.socket, that unit says mode and group.
    SOCKET_GROUP socket_group: Option<String> = "", GROUP;
    /// TCP port of the API. Unset: no TCP at all.
    API_PORT api_port: Option<u16> = "", PORT;
    /// Address that the TCP port listens on. Anything but loopback is reached by others:
    /// the token then crosses the network unencrypted.
    API_ADDRESS api_address: IpAddr = "127.0.0.1", ADDRESS;
    /// Token that clients on TCP must show. With `API_PORT`, this or `API_TOKEN_FILE` is required.
    API_TOKEN api_token: Option<Secret> = "", TOKEN;
    /// A file with the token as its only line.
    API_TOKEN_FILE api_token_file: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// Another token, which opens `GET /metrics` on TCP and nothing else: for Prometheus.
    METRICS_TOKEN metrics_token: Option<Secret> = "", TOKEN;
    /// A kernel (vmlinuz, vmlinux or Debian package) that is imported when the daemon starts and has none.
    KERNEL_PATH kernel_path: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// The domain that the guests' names end in.
    BASE_DOMAIN base_domain: String = "hearth.internal", DOMAIN;
    /// The bridge that VMs are connected to. Made by the daemon; one that others made is refused.
    BRIDGE bridge: String = "hearth0", INTERFACE;
    /// The guests' IPv4 subnet. Its first address is the host's on the bridge.
    SUBNET subnet: Ipv4Net = "10.213.0.0/16", SUBNET;
    /// The nftables table (family `inet`) that is the daemon's alone.
    NFT_TABLE nft_table: String = "hearth", IDENTIFIER;
    /// First of the user ids that VMMs run as, one for each VM. 0: they run as the daemon's user.
    /// The default lies above the ranges of subordinate ids, systemd's containers and
    /// directory services, and below systemd's foreign range.
    UID_BASE uid_base: u32 = "2100000000", UID;
    /// How many user ids there are, and so how many VMs.
    UID_COUNT uid_count: u32 = "65536", UID_COUNT;
    /// The QEMU program; `qemu-system-x86_64` on the search path when unset.
    QEMU_PATH qemu_path: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// The Firecracker program, a version from 1.13 up to, but not including, 2.0; `firecracker`
    /// on the search path when unset.
    FIRECRACKER_PATH firecracker_path: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// Firecracker's CPU template: the name of one of its own, or a file with one.
    FIRECRACKER_CPU_TEMPLATE firecracker_cpu_template: Option<String> = "", CPU_TEMPLATE;
    /// What runs a VM that does not name its driver.
    DRIVER driver: DefaultDriver = "qemu", DRIVER;
    /// Where disks of new VMs are made: `files`, in the data folder; `thin`, in the pool, which is set
    /// up on first use; `auto`, in the pool where the host can have one. Disks that are there stay what they are.
    STORAGE storage: Storage = "files", STORAGE;
    /// The `hearth-shim` program; the one beside `hearthd` when unset.
    SHIM_PATH shim_path: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// The `hearth-guest` program; the one beside `hearthd` when unset.
    GUEST_PATH guest_path: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// `auto`: KVM if a guest really boots with it, else TCG. `off`: always TCG, and no Firecracker.
    KVM kvm: AccelMode = "auto", ACCEL;
    /// Size at which a VM's console log is rotated.
    CONSOLE_LOG_MAX console_log_max: Bytes = "8MiB", LOG_SIZE;
    /// How many rotated console logs are kept beside the current one.
    CONSOLE_LOG_KEEP console_log_keep: u32 = "2", LOG_KEEP;
    /// How old something of ours that belongs to no VM must be before it is removed.
    ORPHAN_GRACE orphan_grace: Span = "30s", DURATION;
    /// If more orphans than this are found at once, none is removed: something is wrong then.
    ORPHAN_CAP orphan_cap: u32 = "20", COUNT;
    /// What happens to VMMs of ours that run and have no record. `proven`: those are removed
    /// whose VM the journal knows, so that it was made and removed with this database; the others
    /// are reported, because their records may be lost: see `hearth orphans`.
    ORPHAN_VMMS orphan_vmms: OrphanMode = "proven", PROVEN_ORPHANS;
    /// What happens to other processes of ours that belong to no VM.
    ORPHAN_PROCESSES orphan_processes: OrphanMode = "remove", ORPHANS;
    /// What happens to systemd units of ours that belong to no VM and hold no process of one.
    ORPHAN_UNITS orphan_units: OrphanMode = "remove", ORPHANS;
    /// What happens to TAPs of ours that belong to no VM.
    ORPHAN_TAPS orphan_taps: OrphanMode = "remove", ORPHANS;
    /// What happens to VM folders, with the disks in them, that belong to no VM. `proven` as
    /// with `ORPHAN_VMMS`.
    ORPHAN_DIRS orphan_dirs: OrphanMode = "proven", PROVEN_ORPHANS;
    /// The loop looks at the host at least this often.
    RESYNC_INTERVAL resync_interval: Span = "60s", POSITIVE_DURATION;
    /// First wait before a VM is restarted by its policy; it doubles with each failure in a row, and is shortened by 5 to 30 % so that VMs that fell together do not rise together.
    BACKOFF_FIRST backoff_first: Span = "1s", POSITIVE_DURATION;
    /// The longest wait before a restart.
    BACKOFF_MAX backoff_max: Span = "5m", POSITIVE_DURATION;
    /// A run that lasted this long clears the count of failures.
    STABLE_AFTER stable_after: Span = "10m", POSITIVE_DURATION;
    /// So many failures of a VM within `BREAKER_WINDOW` open its circuit breaker: it is not
    /// started by itself for a while. Runs and starts that failed count alike. 0: never.
    BREAKER_FAILURES breaker_failures: u32 = "5", FAILURES;
    /// The time in which the failures that open a VM's circuit breaker must fall.
    BREAKER_WINDOW breaker_window: Span = "10m", POSITIVE_DURATION;
    /// How long an open breaker waits before it lets one start through on trial. The wait
    /// doubles with each trial that fails.
    BREAKER_COOLDOWN breaker_cooldown: Span = "5m", POSITIVE_DURATION;
    /// The longest wait of an open breaker.
    BREAKER_COOLDOWN_MAX breaker_cooldown_max: Span = "1h", POSITIVE_DURATION;
    /// So many VMs that fail for one cause within a minute (half of those that should run, but
    /// three at least, are enough) open the host's circuit breaker: nothing is started by itself
    /// but one VM on trial. 0: never.
    HOST_BREAKER_VMS host_breaker_vms: u32 = "5", COUNT;
    /// How long the host's open breaker waits before one VM is started on trial. The wait doubles
    /// with each trial that fails, up to fifteen times as long.
    HOST_BREAKER_COOLDOWN host_breaker_cooldown: Span = "60s", POSITIVE_DURATION;
    /// So many automatic starts may be under way at once; the others wait, by priority and age.
    /// 0: as many as the host has CPUs, but four at least. What the user starts never waits.
    START_CONCURRENCY start_concurrency: u32 = "0", COUNT;
    /// After as many as may be under way at once, so many automatic starts a second follow.
    /// 0: no limit.
    START_RATE start_rate: u32 = "2", COUNT;
    /// With so much CPU pressure on the host (percent, `some avg10` of PSI), automatic starts are
    /// made one by one. 0: never.
    START_CPU_PRESSURE start_cpu_pressure: u32 = "80", PERCENT;
    /// The same for memory pressure.
    START_MEMORY_PRESSURE start_memory_pressure: u32 = "20", PERCENT;
    /// Which VMs are started again after a reboot of the host, of those whose restart policy wants it.
    /// `restart-all`: all. `restart-healthy`: those that ran when it went down, without a failure since
    /// they were last stable, with their breaker closed, and not unhealthy. `manual`: none, until
    /// `hearth start` or `hearth recover`. A VM's own specification (`bootstrap`) comes first.
    BOOTSTRAP_POLICY bootstrap_policy: BootstrapPolicy = "restart-all", BOOTSTRAP;
    /// How long an automatic start waits for the VMs that it comes after (`after` in its
    /// specification): until they run and are healthy. Then it is made all the same.
    AFTER_WAIT after_wait: Span = "5m", DURATION;
    /// Whether VMs are started again by their restart policy. Off: the plan says which would be.
    AUTO_RESTART auto_restart: bool = "on", SWITCH;
    /// Whether VMs are started again after a reboot of the host. Off: the plan says which would be.
    AUTO_BOOTSTRAP auto_bootstrap: bool = "on", SWITCH;
    /// Whether what belongs to no VM is removed, and a second VMM of one VM killed. Off: the plan
    /// says what would be, whatever the `ORPHAN_` keys say.
    AUTO_ORPHANS auto_orphans: bool = "on", SWITCH;
    /// Whether what a running VM has lost (bridge, TAP, filters, names) is put back. Off: the
    /// plan says what would be.
    AUTO_DRIFT auto_drift: bool = "on", SWITCH;
    /// Whether what nobody needs any more is taken away: the TAP of a VM that has ended, VMs
    /// made with `--rm`, a VMM whose guest has ended, the network when no VM uses it.
    AUTO_CLEANUP auto_cleanup: bool = "on", SWITCH;
    /// With less than this free in the file system of `DATA_DIR`, the daemon goes into mode
    /// `readonly` by itself, until half as much again is free. 0: never.
    DISK_RESERVE disk_reserve: DiskReserve = "64MiB", RESERVE;
    /// The database is backed up this often, to `backups` in `DATA_DIR`, and each copy looked through. 0: not by itself.
    DB_BACKUP_INTERVAL db_backup_interval: Span = "24h", DURATION;
    /// So many backups of the database are kept, the newest.
    DB_BACKUP_KEEP db_backup_keep: u32 = "7", POSITIVE_COUNT;
    /// So many device-mapper operations may be under way at once.
    GUARD_CONCURRENCY guard_concurrency: u32 = "1", CONCURRENCY;
    /// A thread that waits in the kernel on device-mapper (state D) and has not moved for so long
    /// hangs: no device-mapper operation is begun.
    GUARD_HELD_FOR guard_held_for: Span = "2s", POSITIVE_DURATION;
    /// So many percent of the host's memory must be available for a device-mapper operation. 0: it
    /// is not looked at.
    GUARD_MEMORY guard_memory: u32 = "5", PERCENT;
    /// With more of the CPUs' time (percent) spent waiting for disks, no device-mapper operation is
    /// begun. 0: it is not looked at.
    GUARD_IO_WAIT guard_io_wait: u32 = "50", PERCENT;
    /// The same for I/O pressure (percent, `full avg10` of PSI). 0: it is not looked at.
    GUARD_IO_PRESSURE guard_io_pressure: u32 = "90", PERCENT;
    /// For so long after a BUG, a shortage of memory or an error of the pool's devices in the
    /// kernel's log no device-mapper operation is begun; older ones are only told. 0: never.
    GUARD_KERNEL_LOG guard_kernel_log: Span = "10m", DURATION;
    /// How long the look at the host before a device-mapper operation may take.
    GUARD_BUDGET guard_budget: Span = "100ms", POSITIVE_DURATION;
    /// The block device that the thin pool's data is on when the pool is set up: a disk, a partition or a logical volume
    /// that nobody uses and nothing is on, by a name that lasts (`/dev/GROUP/VOLUME`, `/dev/disk/by-id/…`). Unset: a file in
    /// the data folder. A pool that is there stays where it is.
    POOL_DEVICE pool_device: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// Whether the thin pool grows by itself when it is nearly full.
    POOL_EXTEND pool_extend: bool = "on", SWITCH;
    /// The most data that the thin pool grows to by itself. Unset: what the host's file system
    /// bears, of which a tenth is kept back, 10 GiB at the most.
    POOL_MAX pool_max: Option<Bytes> = "", OPTIONAL_SIZE;
    /// The sizes of all volumes and snapshots in the thin pool together may be so many times the
    /// most data that it can have. 0: no limit.
    POOL_OVERCOMMIT pool_overcommit: u32 = "10", COUNT;
    /// With more than so many percent of the most data used, nothing new is made in the thin pool.
    POOL_DATA_DANGER pool_data_danger: u32 = "95", PERCENT;
    /// The same for its metadata, which must never be used up.
    POOL_METADATA_DANGER pool_metadata_danger: u32 = "80", PERCENT;
    /// How often the thin pool's metadata is backed up. 0s: never by itself.
    POOL_BACKUP_INTERVAL pool_backup_interval: Span = "24h", DURATION;
    /// How many backups of it are kept.
    POOL_BACKUP_KEEP pool_backup_keep: u32 = "7", KEEP;
    /// Garbage (see `hearth gc`) is looked for this often. 0s: only when somebody asks.
    GC_INTERVAL gc_interval: Span = "0s", DURATION;
    /// With less than so many percent of the file system of `DATA_DIR` free it is looked for, too, each
    /// hour while that lasts. 0: not.
    GC_LOW_SPACE gc_low_space: u32 = "10", PERCENT;
    /// The kinds of garbage that are then cleaned. None: nothing is, the event `gc.found` tells what could be.
    GC_KINDS gc_kinds: Vec<GcKind> = "", GARBAGE;
    /// The most bytes that an image may unpack to.
    IMAGE_MAX_BYTES image_max_bytes: Bytes = "64GiB", SIZE;
    /// The most files and folders that an image may hold.
    IMAGE_MAX_ENTRIES image_max_entries: u32 = "2000000", POSITIVE_COUNT;
    /// How many folders deep a file of an image may lie.
    IMAGE_MAX_DEPTH image_max_depth: u32 = "255", DEPTH;
    /// How many layers are downloaded at once.
    PULL_CONCURRENCY pull_concurrency: u32 = "4", CONCURRENCY;
    /// How many images are downloaded at once; the others wait.
    PULL_IMAGES pull_images: u32 = "5", CONCURRENCY;
    /// How many times a download that breaks off is tried in all. What came is kept, and gone on with.
    PULL_ATTEMPTS pull_attempts: u32 = "6", CONCURRENCY;
    /// How long one try of a download, of its comparison or of unpacking may take; time in a queue does not
    /// count. Finding a name and sealing an image have 10 minutes.
    PULL_DEADLINE pull_deadline: Span = "6h", POSITIVE_DURATION;
    /// A PEM file with the certificates of authorities that registries' certificates may come
    /// from, and those of S3 servers, beside those that the system trusts. It is read at each pull.
    REGISTRY_CA registry_ca: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// The server that `s3://bucket/key` is asked from, unless a pull names one. Unset: what
    /// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile say, else AWS. Plain HTTP only if
    /// it begins with `http://`.
    S3_ENDPOINT s3_endpoint: Option<String> = "", ENDPOINT;
    /// The region of S3's buckets. Unset: what `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile
    /// say, else `us-east-1`.
    S3_REGION s3_region: Option<String> = "", WORD;
    /// Whether an endpoint is asked as `endpoint/bucket/key`. Off: as `bucket.endpoint/key`.
    /// AWS itself is always asked in the way that its certificates allow.
    S3_PATH_STYLE s3_path_style: bool = "on", SWITCH;
    /// The profile of the shared credentials file that S3 is asked with. Unset: the keys in the
    /// daemon's environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`),
    /// else the profile of `AWS_PROFILE` or `default`, else nobody: for buckets open to all.
    S3_PROFILE s3_profile: Option<String> = "", WORD;
    /// The shared credentials file. Unset: the one of `AWS_SHARED_CREDENTIALS_FILE`, else
    /// `~/.aws/credentials` of the daemon's user.
    S3_CREDENTIALS_FILE s3_credentials_file: Option<Utf8PathBuf> = "", OPTIONAL_PATH;
    /// Whether the metadata service of a cloud's machine or container is asked for credentials when
    /// there are no others. Nothing is ever asked of it while this is off.
    S3_INSTANCE_CREDENTIALS s3_instance_credentials: bool = "off", SWITCH;
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,hearth_net=debug`.
    LOG log: String = "info", LOG_FILTER;
    /// How log lines are written.
    LOG_FORMAT log_format: LogFormat = "text", LOG_FORMAT;
}
