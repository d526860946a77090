//! A database from what the folders of VMs, volumes and snapshots keep (`vm.json` …) and what lives.
//!
//! ```text
//! vm.json of each folder ─► whose? ─► living VMMs of that installation ─► records ─► in place
//!                                     the pool's metadata, its devices ──► its ledger ─┤
//!                      volume.json, snapshot.json, templates, with disks that are there ─┘
//! ```
//! A VM whose VMM lives goes on; any other is a stopped VM, whatever was wanted of it: nobody
//! knows. What could not be known is said.

mod records;
mod thin;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use hearth_config::Config;
use hearth_plan::transition;
use hearth_store::{Store, VmRow, offline};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::observe::{ObservedProcess, ProcessRole};
use hearth_types::status::{Goal, Phase, VmStatus};
use jiff::Timestamp;

use super::Place;
use crate::engine::paths::Paths;
use crate::orphans::keepsake::{self, Keepsake};

/// What became of the VMs' folders.
#[derive(Debug, Default)]
struct Report {
    running: Vec<String>,
    stopped: Vec<String>,
    /// Folders that gave no record, and why.
    left: Vec<(Utf8PathBuf, String)>,
    /// VMs, and the names of the variables whose values are lost.
    environment: Vec<(String, Vec<String>)>,
    /// The pool's devices.
    thin: thin::Thin,
    /// Volumes, snapshots, templates.
    records: records::Records,
}

/// Makes it and says what is in it and what could not be known.
pub(super) async fn run(
    config: &Config,
    place: &Place,
    asked: Option<InstallationId>,
) -> anyhow::Result<String> {
    let mut report = Report::default();
    let paths = Paths::new(place.data.clone());
    let found = keepsakes(&paths, &mut report)?;
    let installation = whose(place, &paths, &found, asked)?;
    let living = tokio::task::spawn_blocking(move || hearth_host::process::survey(installation))
        .await?
        .context("the processes cannot be looked at, so nobody knows which VMs run")?;
    place.clear_new()?;
    offline::make(&place.new, installation)?;
    let store = Store::open(&place.new)?;
    let mut expected = thin::expected(&found);
    expected.extend(records::expected(&paths)?);
    for (folder, kept) in found {
        record(config, &store, &living, folder, kept, &mut report).await?;
    }
    let volumes = thin::volumes(config, &store);
    report.thin = thin::run(&volumes, expected).await;
    report.records = records::run(&paths, &store, &volumes).await?;
    report.left.append(&mut report.records.left);
    drop(volumes);
    tell(&store, &report).await?;
    // Closed, so that all of it is in the one file.
    drop(store);
    let old = place.put_in_place()?;
    Ok(format!(
        "{} was made anew: installation {installation}.\n{}{}",
        place.database,
        super::kept(old.as_deref()),
        report.words()
    ))
}

/// What each folder keeps; one that keeps nothing of use is reported.
fn keepsakes(paths: &Paths, report: &mut Report) -> anyhow::Result<Vec<(Utf8PathBuf, Keepsake)>> {
    let folder = paths.vms();
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {folder}")),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {folder}"))?;
        if entry.file_name().parse::<VmId>().is_err() {
            continue;
        }
        match keepsake::read(entry.path()) {
            Ok(kept) => found.push((entry.path().to_owned(), kept)),
            Err(error) => report
                .left
                .push((entry.path().to_owned(), format!("{error:#}"))),
        }
    }
    // Oldest first: of two that want the same thing the older one has it.
    found.sort_by_key(|(_, kept)| (kept.created_at, kept.vm));
    Ok(found)
}

/// The installation: what was asked for, what the damaged database still says, or what all of
/// the folders say.
fn whose(
    place: &Place,
    paths: &Paths,
    found: &[(Utf8PathBuf, Keepsake)],
    asked: Option<InstallationId>,
) -> anyhow::Result<InstallationId> {
    let mut said: BTreeSet<_> = found.iter().map(|(_, kept)| kept.installation).collect();
    if said.is_empty() {
        said = records::installations(paths)?;
    }
    let known = asked.or_else(|| offline::installation(&place.database));
    if let Some(known) = known {
        return Ok(known);
    }
    let mut said = said.into_iter();
    match (said.next(), said.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => anyhow::bail!(
            "no folder of a VM, a volume or a snapshot says whose it is: say it with --installation (the alias of the bridge has it: hearth:ID:shared), or move {} away to begin with an empty database",
            place.database
        ),
        (Some(one), Some(two)) => anyhow::bail!(
            "the folders speak of several installations ({one}, {two}, …): say which is this one with --installation"
        ),
    }
}

/// Makes one record. What cannot be is reported: the folder stays, and can be adopted.
async fn record(
    config: &Config,
    store: &Store,
    living: &[ObservedProcess],
    folder: Utf8PathBuf,
    kept: Keepsake,
    report: &mut Report,
) -> anyhow::Result<()> {
    if kept.installation != store.installation() {
        let other = kept.installation;
        report
            .left
            .push((folder, format!("it belongs to installation {other}")));
        return Ok(());
    }
    let own: Vec<_> = living
        .iter()
        .filter(|process| process.identity.mark.vm() == Some(kept.vm))
        .collect();
    let vmms: Vec<_> = own
        .iter()
        .filter(|process| process.role == ProcessRole::Vmm)
        .collect();
    if vmms.len() > 1 || (vmms.is_empty() && !own.is_empty()) {
        let what = format!("{} processes and {} VMMs of it live", own.len(), vmms.len());
        report.left.push((folder, what));
        return Ok(());
    }
    let subnet = config.subnet;
    if let Some(ip) = kept.leases.ip.filter(|ip| !subnet.contains(ip)) {
        let what = format!("its address {ip} is not of the subnet {subnet}");
        report.left.push((folder, what));
        return Ok(());
    }
    let environment = kept.environment.clone();
    let row = row(kept, vmms.first().map(|vmm| **vmm));
    match store.restore_vm(row).await {
        Ok(row) => {
            let name = row.spec.name.to_string();
            if !environment.is_empty() {
                report.environment.push((name.clone(), environment));
            }
            match row.goal {
                Goal::Running => report.running.push(name),
                _ => report.stopped.push(name),
            }
            Ok(())
        }
        // Of the VM, not of the disk: the others may do.
        Err(error) if is_conflict(&error) => {
            report.left.push((folder, error.to_string()));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

const fn is_conflict(error: &hearth_store::StoreError) -> bool {
    use hearth_store::StoreError as E;
    !matches!(
        error,
        E::Io { .. } | E::Full { .. } | E::Database { .. } | E::Locked { .. } | E::Corrupt { .. }
    )
}

fn row(kept: Keepsake, vmm: Option<&ObservedProcess>) -> VmRow {
    let blank = VmStatus {
        observed_generation: 1,
        ..VmStatus::default()
    };
    let (goal, status) = match vmm {
        Some(vmm) => (
            Goal::Running,
            transition::adopted(&blank, vmm.identity.clone(), vmm.started_at),
        ),
        None => (
            Goal::Stopped,
            VmStatus {
                phase: Phase::Exited,
                ..blank
            },
        ),
    };
    VmRow {
        id: kept.vm,
        spec: kept.spec,
        generation: 1,
        goal,
        force_stop: false,
        stop_timeout: None,
        leases: kept.leases,
        status,
        created_at: kept.created_at,
        image: kept.image,
        kernel: kept.kernel,
    }
}

/// Events of what was done, for those who come later.
async fn tell(store: &Store, report: &Report) -> anyhow::Result<()> {
    let message = format!("[recovery] the database was made anew: {}", report.count());
    let event = NewEvent::info("database.rebuilt", message).severity(Severity::Warning);
    store.event(event, Timestamp::now()).await?;
    let names: BTreeMap<_, _> = store
        .vms()
        .await
        .into_iter()
        .map(|row| (row.spec.name.to_string(), row))
        .collect();
    for (name, lost) in &report.environment {
        let Some(row) = names.get(name) else { continue };
        let message = format!(
            "[recovery] {name} has a record again; the values of its environment are lost, its next start lacks them: {}",
            lost.join(", ")
        );
        let event = NewEvent::info("orphan.adopted", message).severity(Severity::Warning);
        let event = event.vm(row.id, &row.spec.name);
        store.event(event, Timestamp::now()).await?;
    }
    Ok(())
}

impl Report {
    fn count(&self) -> String {
        format!(
            "{} VM(s) that run, {} stopped, {}, {} folder(s) or file(s) left as they are",
            self.running.len(),
            self.stopped.len(),
            self.records.count(),
            self.left.len()
        )
    }

    /// All of it, for a person.
    fn words(&self) -> String {
        let mut text = format!("In it: {}.\n", self.count());
        for (what, names) in [("run on", &self.running), ("stopped", &self.stopped)] {
            if !names.is_empty() {
                line(&mut text, format_args!("  {what}: {}", names.join(" ")));
            }
        }
        self.records.done(&mut text);
        self.thin.done(&mut text);
        for (folder, why) in &self.left {
            line(&mut text, format_args!("  not recorded: {folder}: {why}"));
        }
        text.push_str("Not known any more:\n");
        for (name, lost) in &self.environment {
            let lost = lost.join(", ");
            line(
                &mut text,
                format_args!(
                    "  the values of {name}'s environment: {lost} (hearth apply sets them)"
                ),
            );
        }
        self.records.unknown(&mut text);
        self.thin.unknown(&mut text);
        text.push_str(
            "  which of the stopped VMs were to run: hearth start\n\
             \u{20} changes of VMs that have not been written to their folders, and VMs without one\n\
             \u{20} volumes, snapshots and templates that have not been written to their folders; VMs whose disks were still to be made of a snapshot\n\
             \u{20} holds, breakers, restart counts, how runs ended, events, the journal, the mode, idempotency keys\n",
        );
        if !self.left.is_empty() {
            text.push_str("hearth orphans lists what is not recorded; hearth orphans adopt --name records what only lacks a name of its own.\n");
        }
        text
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(text, "{words}").ok();
}
