//! The flags about a VM's share of the host.

use clap::Args;

use hearth_types::resources::{Priority, Resources};
use hearth_types::units::Bytes;

use crate::values;

#[derive(Debug, Args)]
#[command(next_help_heading = "Share of the host")]
pub(crate) struct ResourceArgs {
    /// CPU time under contention, relative to other VMs: 1 to 10000 [default: 100]
    #[arg(long, value_name = "WEIGHT")]
    cpu_weight: Option<u32>,

    /// CPU time in percent of one CPU, VMM included [default: 100 per vCPU and 50]
    #[arg(long, value_name = "PERCENT")]
    cpu_quota: Option<u32>,

    /// Disk time under contention, relative to other VMs: 1 to 10000 [default: 100]
    #[arg(long, value_name = "WEIGHT")]
    io_weight: Option<u32>,

    /// Bytes per second read from disk
    #[arg(long, value_name = "SIZE")]
    io_read_bps: Option<Bytes>,

    /// Bytes per second written to disk
    #[arg(long, value_name = "SIZE")]
    io_write_bps: Option<Bytes>,

    /// Read requests per second to disk
    #[arg(long, value_name = "N")]
    io_read_iops: Option<u64>,

    /// Write requests per second to disk
    #[arg(long, value_name = "N")]
    io_write_iops: Option<u64>,

    /// Who goes last when the host runs out of memory
    #[arg(long, value_name = "PRIORITY", default_value = "normal", value_parser = values::word::<Priority>(&["low", "normal", "high"]))]
    priority: Priority,
}

impl ResourceArgs {
    pub(crate) fn to_resources(&self) -> Resources {
        Resources {
            cpu_weight: self.cpu_weight,
            cpu_quota: self.cpu_quota,
            io_weight: self.io_weight,
            io_read_bps: self.io_read_bps,
            io_write_bps: self.io_write_bps,
            io_read_iops: self.io_read_iops,
            io_write_iops: self.io_write_iops,
            priority: self.priority,
        }
    }
}
