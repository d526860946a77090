//! What happens in a world, as data: a seed gives a script, and a script without some of its
//! strokes is a script, too.

use hearth_sim::{Guest, Kind, Reaction};
use hearth_types::mode::Mode;
use hearth_types::process::ProcessExit;
use hearth_types::spec::{NetworkMode, RestartPolicy};

/// Strokes of one world.
const STROKES: usize = 20;
/// The longest pauses after a stroke in ms, each as likely as another.
const PAUSES: [u64; 8] = [0, 20, 100, 1_000, 3_000, 10_000, 60_000, 300_000];
/// The users' VMs.
pub(super) const NAMES: [&str; 4] = ["vm-a", "vm-b", "vm-c", "vm-d"];

/// SplitMix64, by Steele, Lea and Flood.
pub(in super::super) struct Dice(pub(in super::super) u64);

impl Dice {
    pub(in super::super) fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub(in super::super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.throw(of.len() as u64)).unwrap()]
    }

    fn small(&mut self, sides: u64) -> u32 {
        u32::try_from(self.throw(sides)).unwrap()
    }
}

/// One thing that happens, and the time until the next one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stroke {
    pub(super) deed: Deed,
    /// In ms.
    pub(super) pause: u64,
}

/// What a user says about one VM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Word {
    Start,
    Stop { force: bool },
    Restart,
    Pause,
    Resume,
    Remove { force: bool },
    Hold,
    Release,
    Recover { force: bool },
    ResetBreaker,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Deed {
    /// A VM of this name is created, unless there is one.
    Create {
        name: &'static str,
        restart: RestartPolicy,
        network: NetworkMode,
        auto_remove: bool,
        ill_is_restarted: bool,
        running: bool,
    },
    Say(&'static str, Word),
    RecoverAll,
    ResetBreakers,
    SetMode(Mode),
    /// A kind of step fails so often.
    Fault(&'static str, u32),
    /// A kind of step overruns its deadline so often.
    Overrun(&'static str, u32),
    /// A kind of survey fails from now on.
    Blind(Kind),
    /// Looks at a kind of objects hang from now on.
    Dwell(&'static str),
    /// All surveys work again, at once.
    Sight,
    /// Agents and VMMs take so long to answer, in ms.
    Latency(u64),
    /// The data folder's file system has no room, or has again.
    DiskFull(bool),
    /// A VMM ends; `u32` says which, of those that there are.
    Die(u32, ProcessExit),
    /// A VMM is gone without a record; its shim hangs.
    Vanish(u32),
    /// A VMM dies, and its pid is a neighbour's at once.
    PidReuse(u32),
    /// A guest hangs, or all are well again.
    Hang(u32),
    Well,
    /// A VMM waits in the kernel and cannot be killed, or all go on.
    Stick(u32),
    Unstick,
    /// A TAP is off the bridge.
    Detach(u32),
    /// Somebody changes a limit of a unit.
    Loosen(u32),
    /// A TAP is gone.
    Unplug(u32),
    /// Our rules are gone.
    NoRules,
    /// Our name server is gone.
    NoNames,
    /// A VMM of ours that has no record.
    Stray,
    /// The daemon dies at the n-th place from here: before and after each step there is one.
    DieAtPlace(u32),
    /// The daemon dies now.
    DieNow,
    Reboot,
}

/// A world and all that happens in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Script {
    pub(super) seed: u64,
    /// The host has systemd.
    pub(super) systemd: bool,
    /// How guests react to a stop.
    pub(super) guest: Guest,
    /// By their places in the whole script.
    pub(super) strokes: Vec<(usize, Stroke)>,
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let guest = Guest {
            agent: dice.pick(&[Reaction::Missing, Reaction::Missing, Reaction::Obeys(1)]),
            power_button: dice.pick(&[Reaction::Obeys(3), Reaction::Ignores]),
            quit: dice.pick(&[Reaction::Obeys(0), Reaction::Ignores]),
        };
        let systemd = dice.throw(2) == 0;
        let strokes = (0..STROKES).map(|place| {
            // A world without VMs is a dull one.
            let deed = if place < 2 {
                create(&mut dice)
            } else {
                any(&mut dice)
            };
            let longest = dice.pick(&PAUSES);
            let pause = dice.throw(longest + 1);
            (place, Stroke { deed, pause })
        });
        let strokes = strokes.collect();
        Self {
            seed,
            systemd,
            guest,
            strokes,
        }
    }

    /// The same world with some of its strokes.
    pub(super) fn with(&self, strokes: Vec<(usize, Stroke)>) -> Self {
        Self {
            strokes,
            ..self.clone()
        }
    }
}

fn create(dice: &mut Dice) -> Deed {
    Deed::Create {
        name: dice.pick(&NAMES),
        restart: dice.pick(&[
            RestartPolicy::No,
            RestartPolicy::Always,
            RestartPolicy::UnlessStopped,
            RestartPolicy::OnFailure(None),
            RestartPolicy::OnFailure(Some(2)),
        ]),
        network: dice.pick(&[NetworkMode::Bridge, NetworkMode::Bridge, NetworkMode::None]),
        auto_remove: dice.throw(8) == 0,
        ill_is_restarted: dice.throw(2) == 0,
        running: dice.throw(3) != 0,
    }
}

fn any(dice: &mut Dice) -> Deed {
    match dice.throw(12) {
        0..=1 => create(dice),
        2..=5 => Deed::Say(dice.pick(&NAMES), word(dice)),
        6 => operator(dice),
        7..=10 => fate(dice),
        _ => end(dice),
    }
}

fn word(dice: &mut Dice) -> Word {
    let force = dice.throw(3) == 0;
    match dice.throw(14) {
        0..=1 => Word::Stop { force },
        2..=4 => Word::Start,
        5..=6 => Word::Restart,
        7 => Word::Pause,
        8 => Word::Resume,
        9 => Word::Remove { force: !force },
        10 => Word::Hold,
        11 => Word::Release,
        12 => Word::Recover { force },
        _ => Word::ResetBreaker,
    }
}

fn operator(dice: &mut Dice) -> Deed {
    match dice.throw(8) {
        0 => Deed::RecoverAll,
        1 => Deed::ResetBreakers,
        2..=5 => Deed::SetMode(Mode::Normal),
        6 => Deed::SetMode(Mode::Maintenance),
        _ => Deed::SetMode(Mode::Readonly),
    }
}

fn fate(dice: &mut Dice) -> Deed {
    const STEPS: [&str; 16] = [
        "ensure_bridge",
        "apply_rules",
        "ensure_names",
        "ensure_disks",
        "ensure_disks",
        "ensure_tap",
        "ensure_limits",
        "start_vmm",
        "start_vmm",
        "pause",
        "resume",
        "stop",
        "kill",
        "remove_tap",
        "flush_conntrack",
        "remove_bridge",
    ];
    const KINDS: [Kind; 8] = [
        Kind::Processes,
        Kind::RunStates,
        Kind::Units,
        Kind::Limits,
        Kind::Taps,
        Kind::Bridge,
        Kind::Rules,
        Kind::Names,
    ];
    const EXITS: [ProcessExit; 3] = [
        ProcessExit::Code(0),
        ProcessExit::Code(1),
        ProcessExit::Signal(9),
    ];
    const LOOKS: [&str; 6] = ["processes", "taps", "units", "bridge", "rules", "names"];
    let which = dice.small(1 << 16);
    match dice.throw(26) {
        0..=2 => Deed::Fault(dice.pick(&STEPS), dice.small(12)),
        3 => Deed::Overrun(dice.pick(&STEPS), dice.small(4)),
        4..=5 => Deed::Blind(dice.pick(&KINDS)),
        6..=7 => Deed::Sight,
        8 => Deed::Latency(dice.pick(&[0, 0, 100, 400, 2_000, 6_000])),
        9 => Deed::DiskFull(dice.throw(2) == 0),
        10..=13 => Deed::Die(which, dice.pick(&EXITS)),
        14 => Deed::Vanish(which),
        15 => Deed::PidReuse(which),
        16 => Deed::Hang(which),
        17 => Deed::Well,
        18 => dice.pick(&[Deed::Stick(which), Deed::Unstick]),
        19 => dice.pick(&[Deed::Detach(which), Deed::Loosen(which)]),
        20 => Deed::Unplug(which),
        21 => Deed::NoRules,
        22 => Deed::NoNames,
        23..=24 => Deed::Dwell(dice.pick(&LOOKS)),
        _ => Deed::Stray,
    }
}

fn end(dice: &mut Dice) -> Deed {
    match dice.throw(6) {
        0..=2 => Deed::DieAtPlace(dice.small(24)),
        3..=4 => Deed::DieNow,
        _ => Deed::Reboot,
    }
}
