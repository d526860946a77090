//! The flags about what is kept of a VM that crashes.

use clap::{Args, ValueEnum};

use hearth_types::spec::CrashDump;
use hearth_types::units::Bytes;

/// What can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The core of the VMM.
    VmmCore,
    /// The guest's memory when its kernel panics.
    GuestMemory,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Crash dumps")]
pub(crate) struct DumpArgs {
    /// What is kept when it crashes: vmm-core, guest-memory (both: with a comma). They hold secrets
    #[arg(
        long,
        value_name = "KIND",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    crash_dump: Vec<Kind>,

    /// The largest dump that is kept [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    crash_dump_max: Option<Bytes>,

    /// Dumps of the guest's memory, and cores, that are kept [default: 2]
    #[arg(long, value_name = "N")]
    crash_dump_keep: Option<u32>,
}

impl DumpArgs {
    pub(crate) fn to_crash_dump(&self) -> Option<CrashDump> {
        let default = CrashDump::default();
        let said = !self.crash_dump.is_empty()
            || self.crash_dump_max.is_some()
            || self.crash_dump_keep.is_some();
        said.then(|| CrashDump {
            vmm_core: self.crash_dump.contains(&Kind::VmmCore),
            guest_memory: self.crash_dump.contains(&Kind::GuestMemory),
            max_size: self.crash_dump_max.unwrap_or(default.max_size),
            keep: self.crash_dump_keep.unwrap_or(default.keep),
        })
    }
}
