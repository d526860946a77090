//! Measures the store on this machine: `cargo run --release -p hearth-store --example latency`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for developers"
)]

use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use hearth_store::{LeaseRanges, NewVm, Store};
use hearth_types::spec::VmSpec;
use hearth_types::status::{Goal, VmStatus};
use jiff::Timestamp;
use serde_json::json;

const VMS: u32 = 1000;

fn new_vm(n: u32) -> NewVm {
    let mut spec = VmSpec::new(format!("vm{n}").parse().unwrap(), "debian:12");
    spec.env.insert("NUMBER".to_owned(), n.to_string());
    spec.labels.insert("tier".to_owned(), "web".to_owned());
    NewVm {
        spec,
        goal: Goal::Running,
        image: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
        kernel: None,
    }
}

fn ranges() -> LeaseRanges {
    LeaseRanges {
        subnet: "10.213.0.0/16".parse().unwrap(),
        uid_base: 2_100_000_000,
        uid_count: 65_536,
        cid_base: 1000,
    }
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what:<28} median {:>9.1?}  p99 {:>9.1?}  n {}",
        at(50),
        at(99),
        times.len()
    );
}

async fn timed<T>(times: &mut Vec<Duration>, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let value = work.await;
    times.push(start.elapsed());
    value
}

#[tokio::main]
async fn main() {
    // Not the system's temporary folder, which may be in memory: the fsync is what counts.
    let dir = tempfile::tempdir_in(std::env::args().nth(1).as_deref().unwrap_or(".")).unwrap();
    let path = Utf8PathBuf::try_from(dir.path().join("hearth.db")).unwrap();
    let now = Timestamp::now();
    let store = Store::open(&path).unwrap();
    let (mut create, mut status, mut begin, mut list) = (vec![], vec![], vec![], vec![]);
    for n in 0..VMS {
        let row = timed(&mut create, store.create_vm(new_vm(n), ranges(), now)).await;
        let changed = VmStatus {
            restarts: 1,
            ..VmStatus::default()
        };
        let id = row.unwrap().id;
        timed(&mut status, store.set_status(id, changed))
            .await
            .unwrap();
        timed(&mut begin, store.begin(Some(id), json!({"step": "x"}), now))
            .await
            .unwrap();
    }
    for _ in 0..100 {
        let rows = timed(&mut list, store.vms()).await;
        assert_eq!(rows.len(), 1000);
    }
    let together = Instant::now();
    let creates = (VMS..2 * VMS).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.create_vm(new_vm(n), ranges(), now).await })
    });
    for create in creates.collect::<Vec<_>>() {
        create.await.unwrap().unwrap();
    }
    let together = together.elapsed();
    show("create_vm", create);
    show("set_status", status);
    show("begin", begin);
    show("list 1,000 VMs", list);
    println!("1,000 creates at once        {together:>9.1?}");
    drop(store);
    let (mut open, rounds) = (vec![], 20);
    for _ in 0..rounds {
        let start = Instant::now();
        drop(Store::open(&path).unwrap());
        open.push(start.elapsed());
    }
    show("open and close, 2,000 VMs", open);
}
