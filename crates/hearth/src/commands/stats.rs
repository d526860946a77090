//! `hearth stats`.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use serde::Serialize;

use hearth_client::ClientError;
use hearth_types::api::VmStats;
use hearth_types::status::Phase;
use hearth_types::units::Bytes;

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::table::Table;

/// How long CPU time is counted for one figure.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows what VMs use, again and again
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Once only
    #[arg(long)]
    no_stream: bool,

    /// VMs by name or id; all that run when absent
    #[arg(value_name = "VM")]
    vms: Vec<String>,
}

/// One VM's figures with its name.
#[derive(Debug, Serialize)]
struct Named {
    name: String,
    cpu_percent: Option<f64>,
    #[serde(flatten)]
    stats: VmStats,
}

pub(crate) async fn run(context: &Context, args: StatsArgs) -> Outcome {
    let mut before: HashMap<String, (Instant, u64)> = HashMap::new();
    let mut first = true;
    loop {
        let names = names(context, &args).await?;
        let sample = sample(context, &names, !args.vms.is_empty(), &mut before).await?;
        // A share of CPU needs two looks.
        if !(first && args.no_stream) {
            show(context, &sample, args.no_stream)?;
            if args.no_stream {
                return Ok(exit_codes::OK);
            }
        }
        first = false;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            result = tokio::signal::ctrl_c() => {
                return result.map(|()| exit_codes::OK).map_err(|e| {
                    Failure::because(exit_codes::FAILURE, "Cannot catch signals", &e)
                });
            }
        }
    }
}

async fn names(context: &Context, args: &StatsArgs) -> Result<Vec<String>, Failure> {
    if !args.vms.is_empty() {
        return Ok(args.vms.clone());
    }
    let vms = context.client.all_vms(&[]).await?;
    let running = vms
        .into_iter()
        .filter(|vm| matches!(vm.phase, Phase::Running | Phase::Paused));
    Ok(running.map(|vm| vm.spec.name.into()).collect())
}

async fn sample(
    context: &Context,
    names: &[String],
    named: bool,
    before: &mut HashMap<String, (Instant, u64)>,
) -> Result<Vec<Named>, Failure> {
    let work = names.iter().map(|name| async move {
        (
            name.clone(),
            context.client.stats(name).await,
            Instant::now(),
        )
    });
    let results: Vec<_> = futures::stream::iter(work).buffered(8).collect().await;
    let mut sample = Vec::new();
    for (name, result, now) in results {
        let stats = match result {
            Ok(stats) => stats,
            // It ended between the list and the look.
            Err(error) if !named && ended(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        let last = before.insert(name.clone(), (now, stats.cpu_millis));
        let cpu_percent = last.map(|(then, millis)| {
            let used = Duration::from_millis(stats.cpu_millis.saturating_sub(millis));
            100.0 * used.as_secs_f64() / (now - then).as_secs_f64().max(0.001)
        });
        sample.push(Named {
            name,
            cpu_percent,
            stats,
        });
    }
    Ok(sample)
}

fn ended(error: &ClientError) -> bool {
    error
        .problem()
        .is_some_and(|p| matches!(p.status, 404 | 409))
}

fn show(context: &Context, sample: &[Named], once: bool) -> Result<(), Failure> {
    if context.out.is_json() {
        return if once {
            context.out.json(sample)
        } else {
            context.out.json_line(sample)
        };
    }
    if !once && std::io::stdout().is_terminal() {
        // Home, and clear below: the table stays in its place.
        context.out.line("\u{1b}[H\u{1b}[J")?;
    }
    let mut table = Table::new(&[
        "NAME",
        "CPU %",
        "CPU TIME",
        "VMM MEM",
        "GUEST MEM USED / TOTAL",
        "DISK USED / TOTAL",
        "NET I/O",
        "BLOCK I/O",
        "PROCS",
        "LOAD",
    ]);
    let human = |bytes: u64| Bytes(bytes).human();
    for Named {
        name,
        cpu_percent,
        stats,
    } in sample
    {
        let cpu = cpu_percent.map_or_else(|| "-".to_owned(), |p| format!("{p:.1}%"));
        let secs = stats.cpu_millis / 1000;
        let mut cells = vec![
            name.into(),
            cpu.into(),
            format!(
                "{}:{:02}.{}",
                secs / 60,
                secs % 60,
                stats.cpu_millis % 1000 / 100
            )
            .into(),
            human(stats.vmm_rss).into(),
        ];
        let blocks = match &stats.devices {
            Some(devices) => format!(
                "{} / {}",
                human(devices.disk_read_bytes),
                human(devices.disk_write_bytes)
            ),
            None => "-".to_owned(),
        };
        match &stats.guest {
            Some(guest) => {
                let memory = guest.mem_total.saturating_sub(guest.mem_available);
                let disk = guest.disk_total.saturating_sub(guest.disk_free);
                cells.extend([
                    format!("{} / {}", human(memory), human(guest.mem_total)).into(),
                    format!("{} / {}", human(disk), human(guest.disk_total)).into(),
                    format!("{} / {}", human(guest.net_rx), human(guest.net_tx)).into(),
                    blocks.into(),
                    guest.processes.into(),
                    format!("{}.{:02}", guest.load1_centi / 100, guest.load1_centi % 100).into(),
                ]);
            }
            None => cells.extend(["-", "-", "-", &blocks, "-", "-"].map(Into::into)),
        }
        table.row(cells);
    }
    context.out.table(&table)
}
