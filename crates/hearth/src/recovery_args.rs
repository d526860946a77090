//! The flags about what a VM comes back from: a reboot of the host, and failures.

use clap::Args;

use hearth_types::VmName;
use hearth_types::spec::{BootstrapPolicy, BreakerSpec, PartialSpec};
use hearth_types::units::Span;

use crate::values;

#[derive(Debug, Args)]
#[command(next_help_heading = "Recovery")]
pub(crate) struct RecoveryArgs {
    /// After a reboot of the host: restart-all, restart-healthy or manual [default: the daemon's]
    #[arg(long, value_name = "POLICY")]
    bootstrap: Option<BootstrapPolicy>,

    /// VM that an automatic start waits for, until it runs and is healthy (several times)
    #[arg(long, value_name = "VM")]
    after: Vec<VmName>,

    /// Failures within the window that stop restarts for a while; 0: never [default: the daemon's]
    #[arg(long, value_name = "N")]
    breaker_failures: Option<u32>,

    /// The window [default: the daemon's]
    #[arg(long, value_name = "TIME", value_parser = values::span)]
    breaker_window: Option<Span>,

    /// How long restarts are stopped at first [default: the daemon's]
    #[arg(long, value_name = "TIME", value_parser = values::span)]
    breaker_cooldown: Option<Span>,
}

impl RecoveryArgs {
    /// The specification with what these flags say.
    pub(crate) fn apply(&self, spec: PartialSpec) -> PartialSpec {
        PartialSpec {
            bootstrap: self.bootstrap,
            after: (!self.after.is_empty()).then(|| self.after.clone()),
            breaker: BreakerSpec {
                failures: self.breaker_failures,
                window: self.breaker_window,
                cooldown: self.breaker_cooldown,
            },
            ..spec
        }
    }
}
