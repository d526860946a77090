//! Measures what the safeguards cost an operation: `cargo run --release -p hearth-safeguards --example safeguards_bench`.
//! Needs root for the kernel's log. Each line is a name and a median in microseconds; `-cpu` is processor time of
//! all threads, which other work on the machine hardly changes.

#![expect(clippy::print_stdout, reason = "its output is a table for a program")]

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hearth_host::waits;
use hearth_safeguards::{
    Health, HostSigns, Operation, OperationGuard, Purpose, Settings, Thresholds, Whose,
};
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use rustix::time::{ClockId, clock_gettime};

const RUNS: usize = 51;
/// Threads that are there beside the host's own.
const CROWDS: [usize; 3] = [0, 500, 2000];

/// Threads that sleep until they are let go.
struct Crowd {
    stop: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn of(count: usize) -> io::Result<Self> {
        let mut crowd = Self {
            stop: Vec::new(),
            threads: Vec::new(),
        };
        for _ in 0..count {
            let (stop, stopped) = channel::<()>();
            let thread = std::thread::Builder::new().stack_size(64 << 10);
            crowd.threads.push(thread.spawn(move || {
                // Ends with the sender.
                stopped.recv().ok();
            })?);
            crowd.stop.push(stop);
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            // None of them panics.
            drop(thread.join());
        }
    }
}

fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort();
    samples
        .get(samples.len() / 2)
        .map_or(0.0, Duration::as_secs_f64)
        * 1e6
}

/// The least that a look at all threads needs: each `stat` is opened and read, and nothing made of it.
fn reads() -> io::Result<usize> {
    let (flags, mode) = (OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let proc = openat(CWD, "/proc", flags | OFlags::DIRECTORY, mode)?;
    let mut buffer = [0_u8; 1024];
    let mut total = 0;
    let numbers = |dir: &std::os::fd::OwnedFd| -> io::Result<Vec<String>> {
        let names = Dir::read_from(dir)?.flatten();
        let names = names.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        Ok(names
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
            .collect())
    };
    for pid in numbers(&proc)? {
        let Ok(tasks) = openat(
            &proc,
            format!("{pid}/task"),
            flags | OFlags::DIRECTORY,
            mode,
        ) else {
            continue;
        };
        for tid in numbers(&tasks)? {
            if let Ok(file) = openat(&tasks, format!("{tid}/stat"), flags, mode) {
                total += rustix::io::read(&file, &mut buffer).unwrap_or_default();
            }
        }
    }
    Ok(total)
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let begun = Instant::now();
    black_box(work());
    begun.elapsed()
}

/// What this process has used.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// Samples of wall clock and of processor time.
#[derive(Default)]
struct Both {
    wall: Vec<Duration>,
    processor: Vec<Duration>,
}

impl Both {
    fn sample<T>(&mut self, work: impl FnOnce() -> T) {
        let before = processor_time();
        self.wall.push(timed(work));
        let used = processor_time().saturating_sub(before);
        self.processor.push(used);
    }

    fn print(self, name: &str) {
        println!("{name} {:.1}", median(self.wall));
        println!("{name}-cpu {:.1}", median(self.processor));
    }
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let limits = Thresholds {
        budget: Duration::from_secs(30),
        ..Thresholds::default()
    };
    let nobody: hearth_safeguards::Resolver = Arc::new(|_: &_| Whose::Unknown);
    let health = Health::new(Arc::new(HostSigns::default()), limits, nobody);
    // The first one reads all of the kernel's log.
    let first = timed(|| runtime.block_on(health.look(Purpose::Change, None)));
    println!("first-look {:.1}", first.as_secs_f64() * 1e6);
    for count in CROWDS {
        let crowd = Crowd::of(count)?;
        let [mut looks, mut all, mut least] = [(); 3].map(|()| Both::default());
        for _ in 0..RUNS {
            looks.sample(|| runtime.block_on(health.look(Purpose::Change, None)));
            all.sample(|| waits::everywhere(Instant::now() + Duration::from_secs(30)));
            least.sample(reads);
        }
        drop(crowd);
        looks.print(&format!("look-{count}"));
        all.print(&format!("threads-{count}"));
        least.print(&format!("reads-{count}"));
    }
    let operation = Operation {
        name: "nothing",
        purpose: Purpose::Change,
        deadline: Duration::from_secs(30),
        pool: None,
    };
    let guard = OperationGuard::new(Settings::default(), None);
    let [mut guarded, mut plain] = [(); 2].map(|()| Both::default());
    for _ in 0..RUNS * 20 {
        let change = guard.run(operation.clone(), || Ok::<_, io::Error>(()));
        guarded.sample(|| runtime.block_on(change));
        plain.sample(|| runtime.block_on(async { tokio::task::spawn_blocking(|| ()).await }));
    }
    guarded.print("guard");
    plain.print("plain");
    Ok(())
}
