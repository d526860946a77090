//! `hearth create`, and what `run` and `apply` share with it: the image and the new VM.

use clap::Args;
use uuid::Uuid;

use hearth_client::{ClientError, Wait};
use hearth_types::VmName;
use hearth_types::api::{CreateVm, PullImage, Vm};
use hearth_types::problem::Code;
use hearth_types::template::CreateFromTemplate;

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::progress::{self, Product};
use crate::spec_args::SpecArgs;
use crate::{docker_auth, friendly_names};

/// How often a clash of a made-up name is tried again with another one.
const NAME_TRIES: u32 = 5;

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pull {
    /// Each time
    Always,
    /// Only when the image is not there
    Missing,
    /// Never
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// When to pull the image
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: Pull,
}

/// Creates a VM without starting it
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pull: PullArgs,
    #[command(flatten)]
    spec: SpecArgs,
}

pub(crate) async fn run(context: &Context, args: CreateArgs) -> Outcome {
    let vm = create(context, &args.spec, args.pull.pull, false, None).await?;
    print_created(context, &vm)?;
    Ok(exit_codes::OK)
}

/// The new VM's id (docker's habit), or the VM itself as JSON.
pub(crate) fn print_created(context: &Context, vm: &Vm) -> Result<(), Failure> {
    if context.out.is_json() {
        context.out.json(vm)
    } else {
        context.out.line(vm.id)
    }
}

/// Gets the image if it has to, and creates the VM.
pub(crate) async fn create(
    context: &Context,
    args: &SpecArgs,
    pull: Pull,
    start: bool,
    wait: Option<Wait>,
) -> Result<Vm, Failure> {
    let mut tries = 0;
    let mut ensured = false;
    loop {
        let seed = Uuid::now_v7();
        let name = args.name.clone();
        let name = name.unwrap_or_else(|| friendly_names::pick(seed.as_u128()));
        let new = New::of(args, name.clone(), start)?;
        if let New::Vm(body) = &new
            && !ensured
        {
            ensure_image(context, &body.spec.image, pull).await?;
            ensured = true;
        }
        match new.create(context, &seed.to_string(), wait).await {
            Ok(vm) => return Ok(vm),
            Err(error) if args.name.is_none() && is_clash(&error) && tries < NAME_TRIES => {
                // Another VM has the made-up name, unless the clash is about something else.
                match context.client.vm(name.as_str()).await {
                    Ok(_) => tries += 1,
                    Err(_) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A VM that is to be.
#[derive(Debug)]
pub(crate) enum New {
    /// Of an image.
    Vm(Box<CreateVm>),
    /// Of a template.
    OfTemplate(VmName, Box<CreateFromTemplate>),
}

impl New {
    fn of(args: &SpecArgs, name: VmName, start: bool) -> Result<Self, Failure> {
        let Some(template) = &args.template else {
            let spec = args.to_spec(name)?;
            return Ok(Self::Vm(Box::new(CreateVm { spec, start })));
        };
        let body = CreateFromTemplate {
            name,
            overrides: args.to_partial()?,
            start,
        };
        Ok(Self::OfTemplate(template.clone(), Box::new(body)))
    }

    pub(crate) async fn create(
        &self,
        context: &Context,
        key: &str,
        wait: Option<Wait>,
    ) -> Result<Vm, ClientError> {
        let client = &context.client;
        match self {
            Self::Vm(body) => client.create_vm(body, key, wait).await,
            Self::OfTemplate(template, body) => {
                client
                    .create_from_template(template.as_str(), body, key, wait)
                    .await
            }
        }
    }
}

fn is_clash(error: &ClientError) -> bool {
    error.problem().is_some_and(|p| p.code == Code::Conflict)
}

/// Makes sure that the daemon has the image.
pub(crate) async fn ensure_image(
    context: &Context,
    reference: &str,
    pull: Pull,
) -> Result<(), Failure> {
    if pull != Pull::Always {
        match context.client.image(reference).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() && pull == Pull::Missing => {
                context
                    .out
                    .note(format!("Image {reference} is not here: pulling it"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let body = PullImage {
        reference: reference.to_owned(),
        ..PullImage::default()
    };
    pull_image(context, body).await.map(drop)
}

/// Pulls an image with the person's own credentials, showing how far it is.
pub(crate) async fn pull_image(context: &Context, body: PullImage) -> Result<Product, Failure> {
    // S3 is asked with the daemon's credentials: no registry's are looked for.
    let auth = match body.reference.starts_with("s3://") {
        true => None,
        false => docker_auth::lookup(&body.reference, &context.out),
    };
    let body = PullImage { auth, ..body };
    let stream = context.client.pull_image(&body).await?;
    progress::follow(&context.out, stream).await
}
