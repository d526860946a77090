//! What the host said of the machine, for those parts that get no configuration.

use std::sync::OnceLock;

use hearth_guest_proto::config::GuestConfig;
use hearth_guest_proto::message::ShutdownKind;

#[derive(Debug, Clone, Copy)]
struct Machine {
    report_port: Option<u32>,
    ends_by_reset: bool,
}

static MACHINE: OnceLock<Machine> = OnceLock::new();

/// Remembers it; the first time counts.
pub(crate) fn learn(config: &GuestConfig) {
    let _first = MACHINE.set(Machine {
        report_port: config.vsock.map(|ports| ports.report_port),
        ends_by_reset: config.ends_by_reset,
    });
}

/// The vsock port of the host that takes exit reports, if they go over vsock.
pub(crate) fn report_port() -> Option<u32> {
    MACHINE.get().and_then(|machine| machine.report_port)
}

/// How the machine is ended: one that cannot be switched off is reset, and its VMM ends.
pub(crate) fn ending(kind: ShutdownKind) -> ShutdownKind {
    if MACHINE.get().is_some_and(|machine| machine.ends_by_reset) {
        ShutdownKind::Reboot
    } else {
        kind
    }
}
