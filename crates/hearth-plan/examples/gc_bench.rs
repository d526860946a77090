//! Measures the reference graph of garbage collection: `cargo run --release -p hearth-plan --example gc_bench`.
//! Each line is a count of objects and a median in milliseconds: the graph is made, and what is garbage told. `-cpu` is
//! processor time, which other work on the machine hardly changes.

#![expect(clippy::print_stdout, reason = "its output is a table for a program")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hearth_plan::gc::Graph;
use rustix::time::{ClockId, clock_gettime};

const RUNS: usize = 21;

/// Names as long as the real ones: kind, uuid or digest.
fn name(kind: &str, number: u32) -> String {
    format!("{kind}-0197f3a2-{number:08}-7c1e-9d83-0c2a8d3f1a77")
}

/// A tenth are images, of which half are used; the rest VMs, their devices, snapshots and downloads.
fn graph(objects: u32) -> Graph<String> {
    let mut graph = Graph::default();
    let (images, vms) = (objects / 10, objects * 3 / 10);
    for number in 0..images {
        let image = name("image", number);
        graph.refer(image.clone(), name("device", number));
        graph.add(name("device", number));
        graph.refer(image, name("layer", number / 2));
        graph.add(name("layer", number / 2));
    }
    for number in 0..vms {
        let vm = name("vm", number);
        let (image, disk) = (number % (images / 2).max(1), images + number);
        graph.root(vm.clone());
        graph.refer(vm.clone(), name("image", image));
        graph.refer(vm, name("device", disk));
        graph.refer(name("device", disk), name("device", image));
    }
    for number in 0..objects.saturating_sub(images * 2 + images / 2 + vms * 2) {
        // Half of them are nobody's.
        let snapshot = name("snapshot", number);
        graph.add(snapshot.clone());
        graph.refer(snapshot.clone(), name("device", number % vms.max(1)));
        if number % 2 == 0 {
            graph.root(snapshot);
        }
    }
    graph
}

/// What this process has used.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort();
    let middle = samples.get(samples.len() / 2);
    middle.map_or(0.0, Duration::as_secs_f64) * 1e3
}

fn main() {
    for objects in [1_000, 10_000, 100_000] {
        let (mut wall, mut processor) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (begun, used) = (Instant::now(), processor_time());
            black_box(graph(objects).garbage());
            wall.push(begun.elapsed());
            processor.push(processor_time().saturating_sub(used));
        }
        let garbage = graph(objects).garbage().len();
        println!("{objects} {:.3} ms, {garbage} are garbage", median(wall));
        println!("{objects}-cpu {:.3} ms", median(processor));
    }
}
