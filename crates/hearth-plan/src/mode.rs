//! Who asked for a step, and what the mode and the operator's switches let through.
//!
//! ```text
//!                 recorded   manual   automatic                  trial
//!  normal            yes       yes    unless its switch is off   unless its switch is off
//!  maintenance       yes       yes    no                         where the host's breaker asked for the mode
//!  readonly          yes       no     no                         no
//! ```
//! *Recorded* is what is merely written down of what has happened: an end, a VMM that was
//! found alive, what a VMM says of itself. Nothing on the host changes by it.

use hearth_types::mode::Mode;

/// What the daemon does by itself, each kind with a switch of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Automatic {
    /// Starts by the restart policy, and the stops of VMs that are unhealthy before them.
    Restart,
    /// Starts after a reboot of the host.
    Bootstrap,
    /// The removal of what belongs to no VM, and of second VMMs.
    Orphans,
    /// Putting back what a VM that runs needs and has lost: bridge, TAP, filters, names.
    Drift,
    /// Taking away what nobody needs any more: the TAP of a VM that has ended, VMs with
    /// `--rm`, a VMM whose guest has ended, the network when no VM uses it.
    Cleanup,
}

impl Automatic {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Restart,
        Self::Bootstrap,
        Self::Orphans,
        Self::Drift,
        Self::Cleanup,
    ];

    /// The key of the configuration that switches it off.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Restart => "AUTO_RESTART",
            Self::Bootstrap => "AUTO_BOOTSTRAP",
            Self::Orphans => "AUTO_ORPHANS",
            Self::Drift => "AUTO_DRIFT",
            Self::Cleanup => "AUTO_CLEANUP",
        }
    }
}

/// Who asked for a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nobody: what has happened is written down.
    Recorded,
    /// The user.
    Manual,
    /// The daemon.
    Automatic(Automatic),
    /// The daemon, for the one VM that tells whether the host is well again.
    Trial(Automatic),
}

/// The operator's switches: `true` is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own, as in the configuration"
)]
pub struct Switches {
    /// [`Automatic::Restart`].
    pub restart: bool,
    /// [`Automatic::Bootstrap`].
    pub bootstrap: bool,
    /// [`Automatic::Orphans`].
    pub orphans: bool,
    /// [`Automatic::Drift`].
    pub drift: bool,
    /// [`Automatic::Cleanup`].
    pub cleanup: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            restart: true,
            bootstrap: true,
            orphans: true,
            drift: true,
            cleanup: true,
        }
    }
}

impl Switches {
    /// Whether this kind is on.
    #[must_use]
    pub const fn on(self, kind: Automatic) -> bool {
        match kind {
            Automatic::Restart => self.restart,
            Automatic::Bootstrap => self.bootstrap,
            Automatic::Orphans => self.orphans,
            Automatic::Drift => self.drift,
            Automatic::Cleanup => self.cleanup,
        }
    }
}

/// The mode in force, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stance {
    /// The mode.
    pub mode: Mode,
    /// Why; `None` in mode `normal`.
    pub reason: Option<String>,
    /// A rule entered it: whether its cause is gone is looked at soon.
    pub by_rule: bool,
    /// It is in force for the host's circuit breaker and for nothing else, so that the
    /// breaker's trial passes it.
    pub by_breaker: bool,
}

/// Whether a step of this origin may be taken.
#[must_use]
pub const fn allowed(stance: &Stance, switches: Switches, origin: Origin) -> bool {
    match (origin, stance.mode) {
        (Origin::Recorded, _) | (Origin::Manual, Mode::Normal | Mode::Maintenance) => true,
        (Origin::Automatic(kind) | Origin::Trial(kind), Mode::Normal) => switches.on(kind),
        (Origin::Trial(kind), Mode::Maintenance) => stance.by_breaker && switches.on(kind),
        (Origin::Manual | Origin::Trial(_), Mode::Readonly)
        | (Origin::Automatic(_), Mode::Maintenance | Mode::Readonly) => false,
    }
}

/// How much of a file system is kept free for the daemon itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// So many bytes; 0 switches the rule off.
    Bytes(u64),
    /// So many percent of its size.
    Percent(u8),
}

impl Default for Reserve {
    fn default() -> Self {
        Self::Bytes(64 << 20)
    }
}

impl Reserve {
    /// In bytes, of a file system of this size.
    #[must_use]
    pub fn of(self, size: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => size / 100 * u64::from(percent),
        }
    }

    /// Whether a file system is full: it is when less than the reserve is free, and it stays so
    /// until half as much again is free, lest the mode change with every file.
    #[must_use]
    pub fn is_full(self, free: u64, size: u64, was_full: bool) -> bool {
        let reserve = self.of(size);
        let enough = if was_full {
            reserve.saturating_add(reserve / 2)
        } else {
            reserve
        };
        free < enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_do_what() {
        let all = Automatic::ALL.map(Origin::Automatic);
        let on = Switches::default();
        for mode in Mode::ALL {
            let stance = stance(mode, false);
            assert!(allowed(&stance, on, Origin::Recorded), "{mode}");
            assert_eq!(allowed(&stance, on, Origin::Manual), mode != Mode::Readonly);
            for origin in all {
                let is = allowed(&stance, on, origin);
                assert_eq!(is, mode == Mode::Normal, "{origin:?}");
            }
        }
        let off = Switches { drift: false, ..on };
        for kind in Automatic::ALL {
            let origin = Origin::Automatic(kind);
            let is = allowed(&Stance::default(), off, origin);
            assert_eq!(is, kind != Automatic::Drift, "{kind:?}");
        }
        assert!(allowed(&Stance::default(), off, Origin::Manual));
    }

    #[test]
    fn a_trial_passes_the_mode_that_the_breaker_asked_for_and_no_other() {
        let trial = Origin::Trial(Automatic::Restart);
        let on = Switches::default();
        let off = Switches {
            restart: false,
            ..on
        };
        for (mode, by_breaker, passes) in [
            (Mode::Normal, false, true),
            (Mode::Maintenance, true, true),
            (Mode::Maintenance, false, false),
            (Mode::Readonly, true, false),
            (Mode::Readonly, false, false),
        ] {
            let stance = stance(mode, by_breaker);
            assert_eq!(allowed(&stance, on, trial), passes, "{mode} {by_breaker}");
            assert!(!allowed(&stance, off, trial), "{mode} {by_breaker}");
            let other = Origin::Automatic(Automatic::Restart);
            assert_eq!(allowed(&stance, on, other), mode == Mode::Normal);
        }
    }

    fn stance(mode: Mode, by_breaker: bool) -> Stance {
        Stance {
            mode,
            by_breaker,
            ..Stance::default()
        }
    }

    #[test]
    fn a_disk_that_was_full_needs_more_than_the_reserve() {
        let reserve = Reserve::Bytes(100);
        assert!(reserve.is_full(99, 1000, false));
        assert!(!reserve.is_full(100, 1000, false));
        assert!(reserve.is_full(149, 1000, true));
        assert!(!reserve.is_full(150, 1000, true));
        assert_eq!(Reserve::Percent(1).of(1000), 10);
        let off = Reserve::Bytes(0);
        assert!(!off.is_full(0, 1000, false) && !off.is_full(0, 1000, true));
    }
}
