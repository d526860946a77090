//! Measures the reference graph of garbage collection: `cargo run --release -p hearth-plan --example gc_bench`.
//! Each line is a count of objects and a median in milliseconds: the graph is made, and what is garbage told.

#![expect(clippy::print_stdout, reason = "its output is a table for a program")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hearth_plan::gc::Graph;

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

fn main() {
    for objects in [1_000, 10_000, 100_000] {
        let mut samples: Vec<Duration> = (0..RUNS)
            .map(|_| {
                let begun = Instant::now();
                black_box(graph(objects).garbage());
                begun.elapsed()
            })
            .collect();
        samples.sort();
        let garbage = graph(objects).garbage().len();
        let median = samples.get(RUNS / 2).copied().unwrap_or_default();
        println!(
            "{objects} {:.3} ms, {garbage} are garbage",
            median.as_secs_f64() * 1e3
        );
    }
}
