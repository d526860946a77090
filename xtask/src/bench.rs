//! `cargo xtask bench`: medians of ours beside the programs that people use instead.
//!
//! A bench is a list of [`Case`]s: the first is ours, the others are peers that do the same
//! work. The table goes to standard output, `target/bench/<bench>.json` holds every sample.
//! To add one: a file with `fn cases(&Context) -> Result<Vec<Case>>` and a line in [`BENCHES`].
//! Numbers are shown, never asserted.

mod disk_clone;
mod report;
mod unpack;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

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

/// One way to do the work.
pub(crate) struct Case {
    name: String,
    prepare: Prepare,
    work: Prepare,
    clean: Prepare,
}

impl Case {
    /// A case without preparation.
    pub(crate) fn new(
        name: impl Into<String>,
        work: impl FnMut() -> anyhow::Result<()> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            prepare: Box::new(|| Ok(())),
            work: Box::new(work),
            clean: Box::new(|| Ok(())),
        }
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

    fn sample(&mut self) -> anyhow::Result<Duration> {
        let measured = (self.prepare)().and_then(|()| {
            let start = Instant::now();
            (self.work)().map(|()| start.elapsed())
        });
        let cleaned = (self.clean)();
        let elapsed = measured?;
        cleaned.map(|()| elapsed)
    }
}

/// A named bench.
struct Bench {
    name: &'static str,
    about: &'static str,
    cases: fn(&Context) -> anyhow::Result<Vec<Case>>,
}

const BENCHES: [Bench; 3] = [
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
];

/// Runs the chosen benches one after the other.
#[expect(clippy::print_stdout, reason = "the table is this command's answer")]
pub(crate) fn run(arguments: &Benches) -> anyhow::Result<()> {
    if arguments.list {
        for bench in &BENCHES {
            println!("{:<12} {}", bench.name, bench.about);
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
    for bench in chosen {
        let results = measure(bench, arguments.runs.max(1))
            .with_context(|| format!("the bench {} failed", bench.name))?;
        println!("{}\n{}", bench.about, report::table(&results));
        let path = report::write(&target().join("bench"), bench.name, &results)?;
        println!("every sample: {}\n", path.display());
    }
    Ok(())
}

/// The samples of one case, in order.
pub(crate) struct Samples {
    pub(crate) name: String,
    /// How long each took, or why the case could not run.
    pub(crate) outcome: Result<Vec<Duration>, String>,
}

fn measure(bench: &Bench, runs: usize) -> anyhow::Result<Vec<Samples>> {
    let base = target().join("bench");
    let folder = base.join(format!("work-{}-{}", bench.name, std::process::id()));
    let context = Context {
        folder: folder.clone(),
        cache: base.join("cache"),
    };
    std::fs::create_dir_all(&context.folder).context("cannot make the bench's folder")?;
    std::fs::create_dir_all(&context.cache).context("cannot make the cache folder")?;
    let samples = (bench.cases)(&context).map(|mut cases| sample_all(&mut cases, runs));
    std::fs::remove_dir_all(&folder).context("cannot remove the bench's folder")?;
    samples
}

/// Takes turns, so that a slow spell of the machine hits all cases alike.
fn sample_all(cases: &mut [Case], runs: usize) -> Vec<Samples> {
    let mut all: Vec<Samples> = cases
        .iter()
        .map(|case| Samples {
            name: case.name.clone(),
            outcome: Ok(Vec::new()),
        })
        .collect();
    for _ in 0..runs {
        for (case, samples) in cases.iter_mut().zip(&mut all) {
            let Ok(times) = &mut samples.outcome else {
                continue;
            };
            match case.sample() {
                Ok(time) => times.push(time),
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
