//! Where the log goes: to the journal with fields where stderr is the journal, else to stderr
//! as lines.
//!
//! In the journal, every line about a VM has `HEARTH_VM_ID` and `HEARTH_VM_NAME`, so that
//! `journalctl HEARTH_VM_NAME=web` tells the VM's story. They come from the span that
//! [`vm_span`] makes; other fields of a line are there as `HEARTH_<FIELD>`.

use std::os::fd::AsFd as _;

use hearth_config::{Config, LogFormat};
use hearth_types::ids::VmId;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// What our fields in the journal begin with.
const PREFIX: &str = "HEARTH";
/// The name of the span that says which VM a line is about.
const VM_SPAN: &str = "vm";

/// Where the log went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// systemd's journal, with fields.
    Journal,
    /// Lines on stderr.
    Stderr,
}

/// Starts logging.
pub fn start(config: &Config) -> Sink {
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // Who asks for JSON wants JSON.
    let journal = (config.log_format == LogFormat::Text && stderr_is_journal())
        .then(|| tracing_journald::layer().ok())
        .flatten();
    if let Some(journal) = journal {
        let journal = journal
            .with_field_prefix(Some(PREFIX.to_owned()))
            .with_priority_mappings(priorities())
            .with_syslog_identifier("hearthd".to_owned());
        registry.with(journal).init();
        return Sink::Journal;
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let lines = match config.log_format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    registry.with(lines).init();
    Sink::Stderr
}

/// Starts the log of a helper: warnings, as lines on stderr, which is the daemon's.
pub fn to_stderr() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    let warnings = tracing_subscriber::filter::LevelFilter::WARN;
    tracing_subscriber::registry()
        .with(lines.with_filter(warnings))
        .init();
}

/// The levels as journalctl's `-p` names them: `info` is info.
fn priorities() -> PriorityMappings {
    PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    }
}

/// systemd sets `JOURNAL_STREAM` to device and inode of what it connected stderr to; a shell
/// in between may have redirected it since (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr().as_fd()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The span for work on one VM.
#[must_use]
pub fn vm_span(id: VmId, name: Option<&str>) -> tracing::Span {
    // At the level of errors, so that no filter for lines takes the VM from them.
    tracing::error_span!("vm", vm_id = %id, vm_name = name)
}

/// Calls `tell` so that what it logs is known to be about this VM, once.
pub fn about_vm<T>(id: VmId, name: Option<&str>, tell: impl FnOnce() -> T) -> T {
    let told = tracing::Span::current()
        .metadata()
        .is_some_and(|span| span.name() == VM_SPAN);
    if told {
        tell()
    } else {
        vm_span(id, name).in_scope(tell)
    }
}
