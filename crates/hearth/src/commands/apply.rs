//! `hearth apply`: the VMs of a file, made so.
//!
//! The difference is found here, from what the API says; changes carry the generation that
//! was seen, so that what somebody else changed meanwhile is never overwritten.

mod diff;

use std::io::Read;

use camino::Utf8PathBuf;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use hearth_client::ActOptions;
use hearth_types::api::{CreateVm, Vm};
use hearth_types::manifest::{Entry, Format, Manifest};
use hearth_types::problem::Code;
use hearth_types::spec::VmSpec;
use hearth_types::status::Goal;
use hearth_types::template::CreateFromTemplate;
use hearth_types::volume::volumes_clash;

use self::diff::Change;
use super::create::{New, Pull, ensure_image};
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::{BAD, GOOD, WARN};

/// The largest file that is read.
const MAX_FILE: u64 = 16 << 20;

/// Makes the VMs of a file so: creates and starts, changes, and with --prune removes
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// TOML or JSON file with many VMs; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Utf8PathBuf,

    /// Print the difference and do nothing
    #[arg(long)]
    dry_run: bool,

    /// Remove the VMs that the selectors match and the file does not name
    #[arg(long, requires = "labels")]
    prune: bool,

    /// Selector for --prune: KEY or KEY=VALUE (several times: all must match)
    #[arg(short = 'l', long = "label", value_name = "SELECTOR")]
    labels: Vec<String>,

    /// Create VMs without starting them
    #[arg(long)]
    no_start: bool,
}

/// What is to be done about one VM.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
enum Step {
    Create {
        name: String,
        #[serde(skip)]
        new: New,
    },
    Change {
        name: String,
        changes: Vec<Change>,
        #[serde(skip)]
        spec: Box<VmSpec>,
        #[serde(skip)]
        generation: u64,
    },
    Unchanged {
        name: String,
    },
    Remove {
        name: String,
        #[serde(skip)]
        generation: u64,
    },
}

pub(crate) async fn run(context: &Context, args: ApplyArgs) -> Outcome {
    let manifest = read(&args.file)?;
    let all = context.client.all_vms(&[]).await?;
    let prunable = if args.prune {
        context.client.all_vms(&args.labels).await?
    } else {
        Vec::new()
    };
    let steps = plan(manifest, &all, &prunable, !args.no_start)?;
    check_volumes(context, &steps).await?;
    if context.out.is_json() {
        context.out.json(&steps)?;
    } else {
        for step in &steps {
            show(context, step)?;
        }
        summarise(context, &steps, args.dry_run);
    }
    if args.dry_run {
        return Ok(exit_codes::OK);
    }
    let mut code = exit_codes::OK;
    for step in steps {
        if let Err(failure) = act(context, step).await {
            failure.print();
            code = exit_codes::worse(code, failure.code);
        }
    }
    Ok(code)
}

fn read(path: &Utf8PathBuf) -> Result<Manifest, Failure> {
    let fail =
        |e: &std::io::Error| Failure::because(exit_codes::USAGE, format!("Cannot read {path}"), e);
    let mut text = String::new();
    if path == "-" {
        std::io::stdin().take(MAX_FILE).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(|e| fail(&e))?;
        file.take(MAX_FILE).read_to_string(&mut text)
    }
    .map_err(|e| fail(&e))?;
    let format = match path.extension() {
        Some("json") => Format::Json,
        Some("toml") => Format::Toml,
        _ if text.trim_start().starts_with('{') => Format::Json,
        _ => Format::Toml,
    };
    Manifest::parse(&text, format)
        .map_err(|errors| Failure::fields(format!("{path} cannot be used"), errors))
}

/// What has to be done, in the file's order; removals last, and first those changes after which
/// a VM waits for nobody that it did not wait for before: what others then do closes no circle.
fn plan(
    manifest: Manifest,
    all: &[Vm],
    prunable: &[Vm],
    start: bool,
) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    let mut named = Vec::new();
    for entry in manifest.vm {
        let name = entry.name().clone();
        // One that is being removed makes room for its successor.
        let found = all
            .iter()
            .find(|vm| vm.spec.name == name && vm.goal != Goal::Absent);
        steps.push(match found {
            None => Step::Create {
                name: name.to_string(),
                new: new(entry, start),
            },
            Some(vm) => change(vm, wanted(entry, vm)?),
        });
        named.push(name);
    }
    steps.sort_by_key(|step| match step {
        Step::Change { changes, .. } => {
            let of_order = |change: &&Change| change.field == "after";
            let order = changes.iter().find(of_order);
            !order.is_some_and(|change| no_more(change.from.as_ref(), change.to.as_ref()))
        }
        _ => true,
    });
    let gone = prunable
        .iter()
        .filter(|vm| vm.goal != Goal::Absent && !named.contains(&vm.spec.name));
    steps.extend(gone.map(|vm| Step::Remove {
        name: vm.spec.name.to_string(),
        generation: vm.generation,
    }));
    Ok(steps)
}

/// Refuses the whole file when VMs cannot have its volumes together with those that are attached to them: nothing
/// of it is done then.
async fn check_volumes(context: &Context, steps: &[Step]) -> Result<(), Failure> {
    let changed = steps.iter().filter_map(|step| match step {
        Step::Change {
            name,
            changes,
            spec,
            ..
        } if changes
            .iter()
            .any(|change| change.field.starts_with("volumes")) =>
        {
            Some((name, spec))
        }
        _ => None,
    });
    let changed: Vec<_> = changed.collect();
    if changed.is_empty() {
        return Ok(());
    }
    let volumes = context.client.volumes().await?.items;
    let clashes = changed.into_iter().filter_map(|(name, spec)| {
        let attached = volumes.iter().flat_map(|view| &view.attached);
        let attached = attached.filter(|it| it.vm_name == spec.name);
        let attached: Vec<_> = attached.cloned().collect();
        let why = volumes_clash(&spec.volumes, &attached)?;
        Some(format!("{name} cannot have these volumes: {why}"))
    });
    let clashes: Vec<String> = clashes.collect();
    if clashes.is_empty() {
        return Ok(());
    }
    let hint = "mount them elsewhere, or take what is attached from the VM: hearth volume detach VM VOLUME; nothing was changed";
    Err(Failure::new(exit_codes::CONFLICT, clashes.join("; ")).hint(hint))
}

/// A VM that is not there yet.
fn new(entry: Entry, start: bool) -> New {
    match entry {
        Entry::Whole(spec) => New::Vm(Box::new(CreateVm { spec: *spec, start })),
        Entry::OfTemplate {
            template,
            name,
            own,
        } => {
            let body = CreateFromTemplate {
                name,
                overrides: *own,
                start,
            };
            New::OfTemplate(template, Box::new(body))
        }
    }
}

/// What a VM that is there should be. What it got from its template it keeps, whatever that has now.
fn wanted(entry: Entry, vm: &Vm) -> Result<Box<VmSpec>, Failure> {
    match entry {
        Entry::Whole(spec) => Ok(spec),
        Entry::OfTemplate { template, own, .. } if vm.spec.template.as_ref() == Some(&template) => {
            Ok(Box::new(own.over(vm.spec.clone())))
        }
        Entry::OfTemplate { template, name, .. } => {
            let message = format!("{name} is there and was not made from template {template}");
            let hint = format!(
                "remove it first (hearth rm {name}), give it another name, or write down its image"
            );
            Err(Failure::usage(message).hint(hint))
        }
    }
}

fn change(vm: &Vm, spec: Box<VmSpec>) -> Step {
    let name = vm.spec.name.to_string();
    let changes = diff::between(&vm.spec, &spec);
    if changes.is_empty() {
        return Step::Unchanged { name };
    }
    Step::Change {
        name,
        changes,
        spec,
        generation: vm.generation,
    }
}

/// Whether a list has nothing that the one before had not.
fn no_more(before: Option<&Value>, after: Option<&Value>) -> bool {
    let items = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let before = items(before);
    items(after).iter().all(|item| before.contains(item))
}

fn show(context: &Context, step: &Step) -> Result<(), Failure> {
    let out = &context.out;
    match step {
        Step::Create { name, new } => {
            let of = match new {
                New::Vm(body) => body.spec.image.clone(),
                New::OfTemplate(template, _) => format!("template {template}"),
            };
            out.line(format!("{GOOD}+ {name}{GOOD:#} (create from {of})"))
        }
        Step::Change { name, changes, .. } => {
            out.line(format!("{WARN}~ {name}{WARN:#} (change)"))?;
            for change in changes {
                out.line(format!("    {change}"))?;
            }
            Ok(())
        }
        Step::Unchanged { name } => out.line(format!("= {name} (unchanged)")),
        Step::Remove { name, .. } => out.line(format!("{BAD}- {name}{BAD:#} (remove)")),
    }
}

fn summarise(context: &Context, steps: &[Step], dry_run: bool) {
    let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|s| wanted(s)).count();
    context.out.note(format!(
        "{} to create, {} to change, {} to remove, {} unchanged{}",
        count(|s| matches!(s, Step::Create { .. })),
        count(|s| matches!(s, Step::Change { .. })),
        count(|s| matches!(s, Step::Remove { .. })),
        count(|s| matches!(s, Step::Unchanged { .. })),
        if dry_run {
            " (dry run: nothing was done)"
        } else {
            ""
        },
    ));
}

async fn act(context: &Context, step: Step) -> Result<(), Failure> {
    let client = &context.client;
    let at = |generation| ActOptions {
        if_match: Some(generation),
        wait: None,
    };
    match step {
        Step::Unchanged { .. } => Ok(()),
        Step::Create { new, .. } => {
            if let New::Vm(body) = &new {
                ensure_image(context, &body.spec.image, Pull::Missing).await?;
            }
            let key = Uuid::now_v7().to_string();
            new.create(context, &key, None).await?;
            Ok(())
        }
        Step::Change {
            name,
            changes,
            spec,
            generation,
        } => {
            if changes.iter().any(|change| change.field == "image") {
                ensure_image(context, &spec.image, Pull::Missing).await?;
            }
            let answer = client.replace_spec(&name, &spec, &at(generation)).await;
            answer.map(drop).map_err(changed_meanwhile)
        }
        Step::Remove { name, generation } => {
            let answer = client.delete_vm(&name, true, &at(generation)).await;
            match answer {
                Err(error) if error.is_not_found() => Ok(()),
                other => other.map(drop).map_err(changed_meanwhile),
            }
        }
    }
}

fn changed_meanwhile(error: hearth_client::ClientError) -> Failure {
    let stale = error
        .problem()
        .is_some_and(|p| p.code == Code::PreconditionFailed);
    let failure = Failure::from(error);
    if stale && failure.hint.is_none() {
        failure.hint("it was changed since it was looked at: apply again")
    } else {
        failure
    }
}
