//! `hearth kernel …`.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};

use hearth_types::api::ImportKernel;
use hearth_types::units::Bytes;

use super::each;
use super::image::absolute;
use crate::ages::ago;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::progress::{self, Product};
use crate::table::{Cell, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    Import(ImportArgs),
    /// Lists kernels
    #[command(visible_alias = "list")]
    Ls,
    Default(DefaultArgs),
    Rm(RmArgs),
}

/// Imports a kernel from a file on the daemon's host, or the one that it runs
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Folder of its modules (…/lib/modules/VERSION), for a bare vmlinuz or vmlinux
    #[arg(long, value_name = "DIR")]
    modules: Option<Utf8PathBuf>,

    /// Name to give it; its version when absent
    #[arg(long)]
    name: Option<String>,

    /// Make it the default (the first kernel always is)
    #[arg(long)]
    default: bool,

    /// A vmlinuz, a vmlinux or a Debian kernel package; the running distribution's when absent
    file: Option<Utf8PathBuf>,
}

/// Makes a kernel the one that VMs use unless they name another
#[derive(Debug, Args)]
pub(crate) struct DefaultArgs {
    /// Kernel
    name: String,
}

/// Removes kernels
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Kernels
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) async fn run(context: &Context, command: KernelCommand) -> Outcome {
    match command {
        KernelCommand::Import(args) => import(context, args).await,
        KernelCommand::Ls => list(context).await,
        KernelCommand::Default(args) => {
            let kernel = context.client.set_default_kernel(&args.name).await?;
            if context.out.is_json() {
                context.out.json(&kernel)?;
            } else {
                context.out.line(&kernel.name)?;
            }
            Ok(exit_codes::OK)
        }
        KernelCommand::Rm(args) => {
            let remove =
                |name: String| async move { Ok(context.client.delete_kernel(&name).await?) };
            each(&args.names, remove, |name, ()| context.out.line(name)).await
        }
    }
}

async fn import(context: &Context, args: ImportArgs) -> Outcome {
    let body = ImportKernel {
        path: args.file.as_ref().map(absolute).transpose()?,
        modules: args.modules.as_ref().map(absolute).transpose()?,
        name: args.name,
        default: args.default,
    };
    let stream = context.client.import_kernel(&body).await?;
    if let Product::Kernel(kernel) = progress::follow(&context.out, stream).await? {
        if context.out.is_json() {
            context.out.json(&kernel)?;
        } else {
            context.out.line(&kernel.name)?;
        }
    }
    Ok(exit_codes::OK)
}

async fn list(context: &Context) -> Outcome {
    let list = context.client.kernels().await?;
    let out = &context.out;
    if out.is_json() {
        out.json(&list.items)?;
        return Ok(exit_codes::OK);
    }
    if out.quiet {
        for kernel in &list.items {
            out.line(&kernel.name)?;
        }
        return Ok(exit_codes::OK);
    }
    let mut header = vec![
        "NAME",
        "DEFAULT",
        "VERSION",
        "FORMATS",
        "INITRAMFS",
        "IMPORTED",
    ];
    if out.is_wide() {
        header.extend(["DIGEST", "MODULES"]);
    }
    let mut table = Table::new(&header);
    for kernel in &list.items {
        let formats = match (kernel.has_bzimage, kernel.has_elf) {
            (true, true) => "bzImage, ELF",
            (true, false) => "bzImage",
            (false, true) => "ELF",
            (false, false) => "-",
        };
        let mut cells = vec![
            Cell::from(&kernel.name),
            if kernel.default { "yes" } else { "" }.into(),
            (&kernel.version).into(),
            formats.into(),
            Bytes(kernel.initramfs_bytes).human().into(),
            ago(kernel.imported_at, out.now).into(),
        ];
        if out.is_wide() {
            cells.extend([(&kernel.digest).into(), kernel.modules.join(",").into()]);
        }
        table.row(cells);
    }
    out.table(&table)?;
    Ok(exit_codes::OK)
}
