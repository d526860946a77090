//! `hearth inspect`.

use clap::Args;

use super::each;
use crate::cli::Context;
use crate::failure::Outcome;

/// Shows all that is known of VMs, as JSON
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// VMs by name or id
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: InspectArgs) -> Outcome {
    let mut found = Vec::new();
    let act = |vm: String| async move { Ok(context.client.vm(&vm).await?) };
    let code = each(&args.vms, act, |_, vm| {
        found.push(vm);
        Ok(())
    })
    .await?;
    context.out.json(&found)?;
    Ok(code)
}
