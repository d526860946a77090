//! `cargo xtask bench`: medians of ours beside the programs that people use instead.
//!
//! A bench is a list of [`Case`]s: the first is ours, the others are peers that do the same
//! work. The table goes to standard output, `target/bench/<bench>.json` holds every sample.
//! To add one: a file with `fn cases(&Context) -> Result<Vec<Case>>` and a line in [`BENCHES`].
//! Numbers are shown, never asserted.
//!
//! Benches of the daemon run a `hearthd` of their own ([`rig`]): data folder, socket, bridge,
//! nftables table and VMs are the bench's and go with it.

mod adopt;
mod detect;
mod disk_clone;
mod example;
mod garbage;
mod http;
mod libvirt;
mod memory;
mod pass;
mod planner;
mod ps;
mod pull;
mod recover;
mod report;
mod rig;
mod safeguards;
mod start;
mod unit_start;
mod unpack;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;

use crate::Benches;
use crate::workspace::target;

/// What a bench gets.
pub(crate) struct Context {
    /// An empty folder of the bench's own, removed afterwards.
    pub(crate) folder: PathBuf,
    /// A folder that stays: things that are slow to make and the same each time.
    pub(crate) cache: PathBuf,
}

/// What is done once before each sample, unmeasured.
type Prepare = Box<dyn FnMut() -> anyhow::Result<()>>;
/// Does the work and says what was measured, in the case's unit.
type Work = Box<dyn FnMut() -> anyhow::Result<f64>>;

/// In what a case is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Mebibytes,
    /// Milliseconds of processor time in each minute.
    MillisPerMinute,
}

/// One way to do the work.
pub(crate) struct Case {
    name: String,
    unit: Unit,
    target: Option<String>,
    prepare: Prepare,
    work: Work,
    clean: Prepare,
    /// Goes after everything else of the case.
    _kept: Option<Box<dyn std::any::Any>>,
}

impl Case {
    /// A case without preparation.
    pub(crate) fn new(
        name: impl Into<String>,
        mut work: impl FnMut() -> anyhow::Result<()> + 'static,
    ) -> Self {
        Self::measured(name, Unit::Seconds, move || {
            let start = Instant::now();
            work().map(|()| start.elapsed().as_secs_f64())
        })
    }

    /// A case that measures itself.
    pub(crate) fn measured(
        name: impl Into<String>,
        unit: Unit,
        work: impl FnMut() -> anyhow::Result<f64> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            unit,
            target: None,
            prepare: Box::new(|| Ok(())),
            work: Box::new(work),
            clean: Box::new(|| Ok(())),
            _kept: None,
        }
    }

    /// A case that cannot run here, and why.
    pub(crate) fn not_here(name: impl Into<String>, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::new(name, move || anyhow::bail!("{reason}"))
    }

    /// Adds what is aimed at, shown beside the median.
    pub(crate) fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Adds what happens before each sample.
    pub(crate) fn before(mut self, prepare: impl FnMut() -> anyhow::Result<()> + 'static) -> Self {
        self.prepare = Box::new(prepare);
        self
    }

    /// Adds what happens after each sample, also after one that failed.
    pub(crate) fn after(mut self, clean: impl FnMut() -> anyhow::Result<()> + 'static) -> Self {
        self.clean = Box::new(clean);
        self
    }

    /// Keeps something until the rest of the case is gone: what its daemon's files lie on.
    pub(crate) fn keep(mut self, what: impl std::any::Any) -> Self {
        self._kept = Some(Box::new(what));
        self
    }

    fn sample(&mut self) -> anyhow::Result<f64> {
        let measured = (self.prepare)().and_then(|()| (self.work)());
        let cleaned = (self.clean)();
        let value = measured?;
        cleaned.map(|()| value)
    }
}

/// A named bench.
struct Bench {
    name: &'static str,
    about: &'static str,
    cases: fn(&Context) -> anyhow::Result<Vec<Case>>,
}

const BENCHES: [Bench; 21] = [
    Bench {
        name: "unpack-tar",
        about: "a root filesystem's layer, plain tar, into an ext4 volume",
        cases: unpack::plain,
    },
    Bench {
        name: "unpack-gzip",
        about: "a root filesystem's layer, gzip, into an ext4 volume",
        cases: unpack::gzip,
    },
    Bench {
        name: "disk-clone",
        about: "a VM's root disk from an image's volume",
        cases: disk_clone::cases,
    },
    Bench {
        name: "start",
        about: "a request to create and start a VM until its VMM runs, the image present",
        cases: start::cases,
    },
    Bench {
        name: "unit-start",
        about: "a VMM's start in a unit of systemd, beside a detached process",
        cases: unit_start::cases,
    },
    Bench {
        name: "detect",
        about: "a VMM is killed until a client is told",
        cases: detect::cases,
    },
    Bench {
        name: "recover",
        about: "a VMM is killed until that is noticed, and until a new one runs",
        cases: recover::cases,
    },
    Bench {
        name: "pass",
        about: "processor time of a daemon that nothing happens to, health checks included",
        cases: pass::cases,
    },
    Bench {
        name: "adopt",
        about: "the daemon's exec until it answers, with VMs that live",
        cases: adopt::qemu,
    },
    Bench {
        name: "adopt-firecracker",
        about: "the same with VMs of Firecracker's driver",
        cases: adopt::firecracker,
    },
    Bench {
        name: "rss",
        about: "resident memory of the daemon",
        cases: memory::cases,
    },
    Bench {
        name: "ps",
        about: "hearth ps with 1,000 VMs defined",
        cases: ps::cases,
    },
    Bench {
        name: "planner",
        about: "the planner over a world with nothing to do",
        cases: planner::cases,
    },
    Bench {
        name: "gc",
        about: "garbage collection: the graph that decides, and 10,000 files by a daemon",
        cases: garbage::cases,
    },
    Bench {
        name: "safeguards",
        about: "what the safeguards cost an operation on device-mapper",
        cases: safeguards::cases,
    },
    Bench {
        name: "pull",
        about: "an image from a registry on loopback, unpacked",
        cases: pull::cases,
    },
    Bench {
        name: "pull-layers",
        about: "the same image in eight layers",
        cases: pull::layers,
    },
    Bench {
        name: "libvirt-create",
        about: "a request until the VM runs, beside libvirt",
        cases: libvirt::create,
    },
    Bench {
        name: "libvirt-detect",
        about: "a killed QEMU until a client is told, beside libvirt",
        cases: libvirt::killed,
    },
    Bench {
        name: "libvirt-restart",
        about: "the daemon's restart with 40 paused QEMUs until it lists them, beside libvirt",
        cases: libvirt::restart,
    },
    Bench {
        name: "libvirt-list",
        about: "the list of 1,000 VMs defined, beside libvirt",
        cases: libvirt::list,
    },
];

/// Runs the chosen benches one after the other.
#[expect(clippy::print_stdout, reason = "the table is this command's answer")]
pub(crate) fn run(arguments: &Benches) -> anyhow::Result<()> {
    if arguments.list {
        for bench in &BENCHES {
            println!("{:<18} {}", bench.name, bench.about);
        }
        return Ok(());
    }
    for name in &arguments.names {
        anyhow::ensure!(
            BENCHES.iter().any(|bench| bench.name == name),
            "there is no bench {name}; --list shows them"
        );
    }
    let chosen = BENCHES.iter().filter(|bench| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| name == bench.name)
    });
    let mut failed = Vec::new();
    for bench in chosen {
        // One that cannot be set up here does not keep the others from running.
        if let Err(error) = show(bench, arguments.runs.max(1)) {
            println!("{}: not run: {error:#}\n", bench.name);
            failed.push(bench.name);
        }
    }
    anyhow::ensure!(failed.is_empty(), "not run: {}", failed.join(", "));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is this command's answer")]
fn show(bench: &Bench, runs: usize) -> anyhow::Result<()> {
    let base = target().join("bench");
    let context = Context {
        folder: base.join(format!("work-{}-{}", bench.name, std::process::id())),
        cache: base.join("cache"),
    };
    std::fs::create_dir_all(&context.folder).context("cannot make the bench's folder")?;
    std::fs::create_dir_all(&context.cache).context("cannot make the cache folder")?;
    let results = (bench.cases)(&context).map(|mut cases| sample_all(&mut cases, runs));
    let removed =
        std::fs::remove_dir_all(&context.folder).context("cannot remove the bench's folder");
    let results = results?;
    println!("{}\n{}", bench.about, report::table(&results));
    let path = report::write(&base, bench.name, &results)?;
    println!("every sample: {}\n", path.display());
    removed
}

/// The samples of one case, in order.
pub(crate) struct Samples {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) target: Option<String>,
    /// What was measured, or why the case could not run.
    pub(crate) outcome: Result<Vec<f64>, String>,
}

/// Takes turns, so that a slow spell of the machine hits all cases alike.
fn sample_all(cases: &mut [Case], runs: usize) -> Vec<Samples> {
    let mut all: Vec<Samples> = cases
        .iter()
        .map(|case| Samples {
            name: case.name.clone(),
            unit: case.unit,
            target: case.target.clone(),
            outcome: Ok(Vec::new()),
        })
        .collect();
    for _ in 0..runs {
        for (case, samples) in cases.iter_mut().zip(&mut all) {
            let Ok(times) = &mut samples.outcome else {
                continue;
            };
            match case.sample() {
                Ok(value) => times.push(value),
                Err(error) => samples.outcome = Err(format!("{error:#}")),
            }
        }
    }
    all
}

/// Runs a program that must succeed.
pub(crate) fn tool<const N: usize>(program: &str, args: [&str; N]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Makes `path` under another name and renames it: half of it is never used.
pub(crate) fn made_once(
    path: &Path,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let fresh = path.with_file_name(format!("new-{}", std::process::id()));
    make(&fresh)?;
    std::fs::rename(&fresh, path).with_context(|| format!("cannot make {}", path.display()))
}
