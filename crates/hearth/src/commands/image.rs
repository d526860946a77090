//! `hearth image …`.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};

use hearth_types::api::{
    ImageFromSnapshot, ImageView, ImportImage, ImportKind, PullImage, S3Access,
};
use hearth_types::units::Bytes;

use super::create::pull_image;
use super::image_jobs::{CancelArgs, RetryArgs, StatusArgs};
use super::{each, image_jobs};
use crate::ages::ago;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::progress::{self, Product};
use crate::table::{Cell, Table};
use crate::values;

/// Kinds of files that images are made from.
const KINDS: &[&str] = &["oci-layout", "docker-archive", "rootfs-tar", "disk"];

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    Pull(PullArgs),
    Import(ImportArgs),
    FromSnapshot(FromSnapshotArgs),
    /// Lists images
    #[command(visible_alias = "list")]
    Ls,
    Inspect(InspectArgs),
    Rm(RmArgs),
    Status(StatusArgs),
    Cancel(CancelArgs),
    Retry(RetryArgs),
}

/// Pulls an image from a registry or from S3
///
/// The daemon goes on by itself after a crash. Ctrl-C ends the pull, unless somebody else waits
/// for it; what was downloaded is kept for a day.
///
/// Credentials for registries come from the Docker config file ($DOCKER_CONFIG/config.json or
/// ~/.docker/config.json), or from the credential helper that it names. S3 is asked with the
/// daemon's own credentials: see S3_PROFILE and its neighbours in the configuration.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Allow plain HTTP for a registry that is not on loopback
    #[arg(long)]
    plain_http: bool,

    /// OS/ARCH; the host's when absent
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Leave it to the daemon, and print the job's id
    #[arg(short, long)]
    detach: bool,

    /// S3: kind of file; guessed from its content when absent
    #[arg(long, value_name = "KIND", value_parser = values::word::<ImportKind>(KINDS))]
    kind: Option<ImportKind>,

    /// S3: digest that the object must have (sha256:…)
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,

    /// S3: server to ask, such as http://localhost:9000
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// S3: region of the bucket
    #[arg(long, value_name = "REGION")]
    region: Option<String>,

    /// S3: profile of the daemon's shared credentials file
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,

    /// Reference, such as debian:12 or localhost:5000/demo:1, or s3://bucket/key
    reference: String,
}

/// Imports an image from a file on the daemon's host
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Kind of file; guessed from its content when absent
    #[arg(long, value_name = "KIND", value_parser = values::word::<ImportKind>(KINDS))]
    kind: Option<ImportKind>,

    /// Leave it to the daemon, and print the job's id
    #[arg(short, long)]
    detach: bool,

    /// OCI layout, output of `docker save`, root filesystem tar or raw disk image
    file: Utf8PathBuf,

    /// Reference to give it, such as demo:1
    reference: String,
}

/// Makes an image of the root disk of a snapshot
///
/// It has what the guest wrote there, its machine id and host keys among it, and needs the snapshot no
/// more. Data volumes are not in it. VMs of it are asked to run what the VM's own image asks for.
#[derive(Debug, Args)]
pub(crate) struct FromSnapshotArgs {
    /// Leave it to the daemon, and print the job's id
    #[arg(short, long)]
    detach: bool,

    /// Snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,

    /// Reference to give it, such as web:2
    reference: String,
}

/// Shows all that is known of images, as JSON
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// References or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes images
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// References or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) async fn run(context: &Context, command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::Pull(args) => {
            let reference = args.reference.clone();
            let product = pull_image(context, args.into_body()).await?;
            print(context, &reference, &product)
        }
        ImageCommand::Import(args) => import(context, args).await,
        ImageCommand::FromSnapshot(args) => from_snapshot(context, args).await,
        ImageCommand::Ls => list(context).await,
        ImageCommand::Inspect(args) => inspect(context, args).await,
        ImageCommand::Rm(args) => {
            let remove =
                |image: String| async move { Ok(context.client.delete_image(&image).await?) };
            each(&args.images, remove, |image, ()| context.out.line(image)).await
        }
        ImageCommand::Status(args) => image_jobs::status(context, args).await,
        ImageCommand::Cancel(args) => image_jobs::cancel(context, args).await,
        ImageCommand::Retry(args) => image_jobs::retry(context, args).await,
    }
}

impl PullArgs {
    fn into_body(self) -> PullImage {
        PullImage {
            reference: self.reference,
            plain_http: self.plain_http,
            platform: self.platform,
            kind: self.kind,
            digest: self.digest,
            s3: S3Access {
                endpoint: self.endpoint,
                region: self.region,
                profile: self.profile,
                path_style: None,
            },
            detach: self.detach,
            ..PullImage::default()
        }
    }
}

/// The reference that can be used from now on, as docker prints it.
pub(super) fn print(context: &Context, reference: &str, product: &Product) -> Outcome {
    match product {
        Product::Image(image) if context.out.is_json() => context.out.json(image)?,
        Product::Image(image) if context.out.quiet => context.out.line(&image.id)?,
        Product::Job(job) if context.out.is_json() => context.out.json(job)?,
        Product::Job(job) => context.out.line(&job.id)?,
        _ => context.out.line(reference)?,
    }
    Ok(exit_codes::OK)
}

async fn import(context: &Context, args: ImportArgs) -> Outcome {
    let body = ImportImage {
        path: absolute(&args.file)?,
        reference: args.reference.clone(),
        kind: args.kind,
        detach: args.detach,
    };
    let stream = context.client.import_image(&body).await?;
    let product = progress::follow(&context.out, stream).await?;
    print(context, &args.reference, &product)
}

async fn from_snapshot(context: &Context, args: FromSnapshotArgs) -> Outcome {
    let body = ImageFromSnapshot {
        snapshot: args.snapshot,
        reference: args.reference,
        detach: args.detach,
    };
    let stream = context.client.image_from_snapshot(&body).await?;
    let product = progress::follow(&context.out, stream).await?;
    print(context, &body.reference, &product)
}

/// The daemon has another working folder than we have.
pub(crate) fn absolute(path: &Utf8PathBuf) -> Result<String, Failure> {
    let absolute = std::path::absolute(path).map_err(|e| {
        Failure::because(
            exit_codes::USAGE,
            format!("Cannot use the path {path:?}"),
            &e,
        )
    })?;
    let text = absolute.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage("The working folder's name is not valid UTF-8"))
}

async fn list(context: &Context) -> Outcome {
    let list = context.client.images().await?;
    let out = &context.out;
    if out.is_json() {
        out.json(&list.items)?;
        return Ok(exit_codes::OK);
    }
    if out.quiet {
        for view in &list.items {
            out.line(view.image.id.short())?;
        }
        return Ok(exit_codes::OK);
    }
    let mut header = vec!["REFERENCE", "ID", "SIZE", "CREATED", "USED BY"];
    if out.is_wide() {
        header.extend(["ON DISK", "LAYERS", "ARCH", "SOURCE", "IMPORTED"]);
    }
    let mut table = Table::new(&header);
    for view in &list.items {
        if view.image.references.is_empty() {
            table.row(row(context, view, "<none>"));
        }
        for reference in &view.image.references {
            table.row(row(context, view, reference));
        }
    }
    out.table(&table)?;
    Ok(exit_codes::OK)
}

fn row(context: &Context, view: &ImageView, reference: &str) -> Vec<Cell> {
    let (out, image) = (&context.out, &view.image);
    let id = if out.is_wide() {
        image.id.as_str()
    } else {
        image.id.short()
    };
    let created = image.created.unwrap_or(image.imported_at);
    let used = match view.used_by.len() {
        0 => String::new(),
        1 => view.used_by.join(""),
        _ if out.is_wide() => view.used_by.join(","),
        n => format!("{n} VMs"),
    };
    let mut cells = vec![
        reference.into(),
        id.into(),
        Bytes(image.volume_bytes).human().into(),
        ago(created, out.now).into(),
        used.into(),
    ];
    if out.is_wide() {
        cells.extend([
            Cell::from(Bytes(image.disk_bytes).human()),
            image.layers.into(),
            (&image.architecture).into(),
            (&image.source).into(),
            ago(image.imported_at, out.now).into(),
        ]);
    }
    cells
}

async fn inspect(context: &Context, args: InspectArgs) -> Outcome {
    let mut found = Vec::new();
    let look = |image: String| async move { Ok(context.client.image(&image).await?) };
    let code = each(&args.images, look, |_, view| {
        found.push(view);
        Ok(())
    })
    .await?;
    context.out.json(&found)?;
    Ok(code)
}
