//! `hearth template …`: an image that stays, with defaults for VMs of it.

use clap::{Args, Subcommand};

use hearth_types::VmName;
use hearth_types::spec::PartialSpec;
use hearth_types::template::{CreateTemplate, Template};
use hearth_types::units::Bytes;

use super::create::{PullArgs, ensure_image};
use super::each;
use crate::ages::ago;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::spec_args::SettingArgs;
use crate::table::{Cell, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    Create(Box<CreateArgs>),
    /// Lists templates
    #[command(visible_alias = "list")]
    Ls,
    Inspect(InspectArgs),
    Rm(RmArgs),
}

/// Makes a template: an image, and what VMs of it are unless somebody says otherwise
///
/// The image is what the reference means now, and is not removed before the template. A VM gets what the
/// template has when it is created; a template that is replaced later changes no VM.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Image: a reference (debian:12, localhost:5000/demo:1) or an id
    #[arg(long, required = true, value_name = "IMAGE")]
    image: String,

    /// Take the place of one that has the name
    #[arg(long)]
    replace: bool,

    /// Name of the template
    #[arg(value_name = "NAME")]
    name: VmName,

    /// Command and arguments instead of the image's
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,

    #[command(flatten)]
    pull: PullArgs,

    // Last: their headings hold for what follows.
    #[command(flatten)]
    settings: SettingArgs,
}

/// Shows everything about templates, as JSON
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Templates
    #[arg(required = true, value_name = "TEMPLATE")]
    templates: Vec<String>,
}

/// Removes templates; VMs that were made from them stay as they are
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Templates
    #[arg(required = true, value_name = "TEMPLATE")]
    templates: Vec<String>,
}

pub(crate) async fn run(context: &Context, command: TemplateCommand) -> Outcome {
    let (client, out) = (&context.client, &context.out);
    match command {
        TemplateCommand::Create(args) => create(context, *args).await,
        TemplateCommand::Ls => {
            let list = client.templates().await?;
            show(out, &list.items)?;
            Ok(exit_codes::OK)
        }
        TemplateCommand::Inspect(args) => {
            let mut found = Vec::new();
            let look = |name: String| async move { Ok(client.template(&name).await?) };
            let code = each(&args.templates, look, |_, template| {
                found.push(template);
                Ok(())
            })
            .await?;
            out.json(&found)?;
            Ok(code)
        }
        TemplateCommand::Rm(args) => {
            let remove = |name: String| async move { Ok(client.delete_template(&name).await?) };
            each(&args.templates, remove, |name, ()| out.line(name)).await
        }
    }
}

async fn create(context: &Context, args: CreateArgs) -> Outcome {
    let out = &context.out;
    let command = (!args.command.is_empty()).then_some(args.command);
    let body = CreateTemplate {
        name: args.name,
        image: args.image,
        defaults: PartialSpec {
            command,
            ..args.settings.to_partial()?
        },
        replace: args.replace,
    };
    ensure_image(context, &body.image, args.pull.pull).await?;
    let template = context.client.create_template(&body).await?;
    if out.is_json() {
        out.json(&template)?;
    } else {
        out.line(&template.name)?;
    }
    Ok(exit_codes::OK)
}

fn show(out: &Output, templates: &[Template]) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(templates);
    }
    if out.quiet {
        return templates.iter().try_for_each(|one| out.line(&one.name));
    }
    let mut header = vec![
        "NAME", "IMAGE", "VCPUS", "MEMORY", "DISK", "PORTS", "CREATED",
    ];
    if out.is_wide() {
        header.extend(["IMAGE ID", "VOLUMES", "REPLACED"]);
    }
    let size = |size: Option<Bytes>| size.map_or_else(|| "-".to_owned(), Bytes::human);
    let mut table = Table::new(&header);
    for one in templates {
        let defaults = &one.defaults;
        let ports = defaults.ports.iter().flatten().map(ToString::to_string);
        let ports: Vec<_> = ports.collect();
        let vcpus = defaults.vcpus.map(|vcpus| vcpus.to_string());
        let mut cells = vec![
            Cell::from(&one.name),
            (&one.image).into(),
            vcpus.unwrap_or_else(|| "-".to_owned()).into(),
            size(defaults.memory).into(),
            size(defaults.disk).into(),
            ports.join(", ").into(),
            ago(one.created_at, out.now).into(),
        ];
        if out.is_wide() {
            let changed = one.changed_at.map(|at| ago(at, out.now));
            cells.extend([
                one.image_id.short().into(),
                defaults.volumes.iter().flatten().count().into(),
                Cell::from(changed.unwrap_or_else(|| "-".to_owned())),
            ]);
        }
        table.row(cells);
    }
    out.table(&table)
}
