//! Development tasks: `cargo xtask guest`, `cargo xtask generate`, `cargo xtask deb`,
//! `cargo xtask testbed`, `cargo xtask chaos`, `cargo xtask soak`, `cargo xtask bench`.

#![forbid(unsafe_code)]

#[cfg(feature = "bench")]
mod bench;
mod chaos;
mod deb;
mod generate;
mod guest;
#[cfg(not(feature = "bench"))]
mod rerun;
mod soak;
mod testbed;
mod workspace;

use clap::{Parser, Subcommand};

/// Development tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the static guest agent and print its path.
    Guest,
    /// Write the generated files anew: OpenAPI document, configuration reference and default file.
    Generate {
        /// Write nothing; fail if a file is stale.
        #[arg(long)]
        check: bool,
    },
    /// Build the Debian package and print its path.
    Deb(deb::Options),
    /// A whole host as a VM: build its image, run scenarios, get a shell.
    #[command(disable_help_flag = true)]
    Testbed {
        /// What the testbed's own command line takes; see `testbed help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Break things on a host of its own with real guests, and see what becomes of them.
    Chaos(chaos::Options),
    /// The simulated host at length: many worlds, or a day of many VMs.
    Soak(soak::Options),
    /// Measure, beside the programs that people use instead.
    Bench(Benches),
}

/// Which benches to run, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Benches {
    /// The benches to run; all without a name.
    names: Vec<String>,
    /// List the benches and end.
    #[arg(long)]
    list: bool,
    /// Samples per case; the median is shown.
    #[arg(long, short, default_value_t = 5)]
    runs: usize,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Guest => guest::run(),
        Task::Generate { check } => generate::run(check),
        Task::Deb(options) => deb::run(&options),
        Task::Testbed { arguments } => testbed::run(&arguments),
        Task::Chaos(options) => chaos::run(&options),
        Task::Soak(options) => soak::run(&options),
        #[cfg(feature = "bench")]
        Task::Bench(benches) => bench::run(&benches),
        #[cfg(not(feature = "bench"))]
        Task::Bench(benches) => rerun::with_benches(&benches),
    }
}
