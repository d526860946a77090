//! What happens to the host, and in which order: all of it follows from the seed.

use serde::Serialize;

/// One kind of misfortune.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// SIGKILL.
    VmmKilled,
    /// SIGSEGV.
    VmmCrashed,
    /// Its cgroup has no memory left; the kernel kills it.
    VmmOutOfMemory,
    /// `echo c > /proc/sysrq-trigger`.
    GuestPanicked,
    /// `poweroff -f`.
    GuestPoweredOff,
    /// SIGSTOP.
    VmmStopped,
    /// The cgroup freezer, until it was noticed: nothing that is frozen can be killed.
    VmmFrozen,
    /// SIGKILL of the VMM's parent.
    ShimKilled,
    /// The VMM's socket is unlinked.
    QmpRemoved,
    /// … or somebody else listens there and talks rubbish.
    QmpCorrupted,
    /// The agent's socket is unlinked, and the daemon has to connect anew.
    AgentRemoved,
    /// … or somebody else listens there and talks rubbish.
    AgentCorrupted,
    /// `ip link delete`.
    TapDeleted,
    /// `ip link set down`.
    TapDown,
    /// `ip link set nomaster`.
    TapUnbridged,
    /// `ip link set down` of the bridge.
    BridgeDown,
    /// `nft flush table` of both of our tables.
    RulesFlushed,
    /// The set of guests that may send loses its elements.
    ElementsDeleted,
    /// `nft delete table` of both.
    TableDeleted,
    /// SIGKILL of the name server.
    NamesKilled,
    /// SIGKILL of the daemon.
    DaemonKilled,
    /// … while a VM is being made, and while it is being removed.
    DaemonKilledMidway,
    /// Another program takes the last byte of the data folder's file system.
    DiskFull,
    /// The daemon shares a small cgroup with a program that wants all memory.
    MemoryPressure,
}

/// To whom a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// One VM.
    Vm,
    /// What VMs share, beside whatever else happens.
    Host,
    /// What VMs share, and nothing else at the same time: until it is over nothing is put right.
    HostAlone,
}

/// How one sees that the daemon knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// `vm.exited`: by pidfd, at once.
    Death,
    /// A check fails for long enough.
    Illness,
    /// It takes this step to put it right, or a check fails for long enough.
    Step(&'static str),
    /// It goes into mode `readonly`.
    Readonly,
    /// It need not know, or cannot: it was dead.
    None,
}

impl Fault {
    pub(super) const ALL: [Self; 24] = [
        Self::VmmKilled,
        Self::VmmCrashed,
        Self::VmmOutOfMemory,
        Self::GuestPanicked,
        Self::GuestPoweredOff,
        Self::VmmStopped,
        Self::VmmFrozen,
        Self::ShimKilled,
        Self::QmpRemoved,
        Self::QmpCorrupted,
        Self::AgentRemoved,
        Self::AgentCorrupted,
        Self::TapDeleted,
        Self::TapDown,
        Self::TapUnbridged,
        Self::BridgeDown,
        Self::RulesFlushed,
        Self::ElementsDeleted,
        Self::TableDeleted,
        Self::NamesKilled,
        Self::DaemonKilled,
        Self::DaemonKilledMidway,
        Self::DiskFull,
        Self::MemoryPressure,
    ];

    pub(super) const fn scope(self) -> Scope {
        match self {
            Self::BridgeDown
            | Self::RulesFlushed
            | Self::ElementsDeleted
            | Self::TableDeleted
            | Self::NamesKilled
            | Self::DaemonKilled
            | Self::MemoryPressure => Scope::Host,
            Self::DaemonKilledMidway | Self::DiskFull => Scope::HostAlone,
            _ => Scope::Vm,
        }
    }

    pub(super) const fn sign(self) -> Sign {
        match self {
            Self::VmmKilled
            | Self::VmmCrashed
            | Self::VmmOutOfMemory
            | Self::GuestPanicked
            | Self::GuestPoweredOff => Sign::Death,
            Self::VmmStopped
            | Self::VmmFrozen
            | Self::QmpRemoved
            | Self::QmpCorrupted
            | Self::AgentRemoved
            | Self::AgentCorrupted => Sign::Illness,
            Self::TapDeleted | Self::TapDown | Self::TapUnbridged => Sign::Step("ensure_tap"),
            Self::BridgeDown => Sign::Step("ensure_bridge"),
            Self::RulesFlushed | Self::ElementsDeleted | Self::TableDeleted => {
                Sign::Step("apply_rules")
            }
            Self::NamesKilled => Sign::Step("ensure_names"),
            Self::DiskFull => Sign::Readonly,
            Self::ShimKilled
            | Self::DaemonKilled
            | Self::DaemonKilledMidway
            | Self::MemoryPressure => Sign::None,
        }
    }

    /// The lower, the longer it takes to make: no other one is to wait for it.
    pub(super) const fn haste(self) -> u8 {
        match self {
            // What the daemon starts under memory pressure would stay under it.
            Self::MemoryPressure => 0,
            Self::VmmOutOfMemory => 1,
            Self::GuestPanicked | Self::GuestPoweredOff => 2,
            _ => 3,
        }
    }

    /// Whether it goes away only when the run takes it away.
    pub(super) const fn lasts(self) -> bool {
        matches!(self, Self::VmmFrozen | Self::DiskFull)
    }
}

/// A fault and the VM that it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) fault: Fault,
    /// Its place among the VMs; `None` for what they share.
    pub(super) vm: Option<usize>,
}

/// Faults at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) faults: Vec<Drawn>,
}

/// Rounds without an end.
pub(super) struct Rounds {
    random: Random,
    cast: usize,
    deck: Vec<Fault>,
}

impl Rounds {
    /// Rounds for so many VMs.
    pub(super) const fn new(random: Random, cast: usize) -> Self {
        Self {
            random,
            cast,
            deck: Vec::new(),
        }
    }

    /// The next card. A new deck is shuffled when the last one is used up, so that every kind
    /// comes as often as every other.
    fn deal(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = Fault::ALL.to_vec();
            for end in (1..self.deck.len()).rev() {
                self.deck.swap(end, self.random.below(end + 1));
            }
        }
        self.deck.pop().expect("it was just filled")
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let wanted = 2 + self.random.below(2);
        let mut vms: Vec<usize> = (0..self.cast).collect();
        let mut faults: Vec<Drawn> = Vec::new();
        let mut shared = false;
        while faults.len() < wanted {
            let fault = self.deal();
            let alone = fault.scope() == Scope::HostAlone;
            let fits = match fault.scope() {
                Scope::Vm => !vms.is_empty(),
                Scope::Host => !shared,
                Scope::HostAlone => faults.is_empty(),
            };
            if !fits {
                // It begins the next round.
                self.deck.push(fault);
                break;
            }
            let on_vm = fault.scope() == Scope::Vm;
            shared |= !on_vm;
            let vm = on_vm.then(|| vms.swap_remove(self.random.below(vms.len())));
            faults.push(Drawn { fault, vm });
            if alone {
                break;
            }
        }
        Some(Round { faults })
    }
}

/// Numbers that look random and can be had again (xorshift64*, Vigna 2016).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        // Zero would stay zero; small seeds would begin alike.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap_or_default() % bound.max(1)
    }
}
