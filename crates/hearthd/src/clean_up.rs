//! `hearthd clean-up`: takes away what the daemon made on the host for all VMs together (name
//! server, filters, bridge, the pool in the kernel), when nothing needs it any more. Run by the package when it is
//! removed; the next daemon would make all of it anew.
//!
//! The rules are those of the loop: only what carries this installation's mark, nothing while
//! a VM lives, nothing on a survey that failed.

use std::sync::Arc;

use anyhow::Context as _;
use hearth_config::Config;
use hearth_host::lock::LockFile;
use hearth_net::{HostNetwork, Network as _};
use hearth_safeguards::{OperationGuard, Settings};
use hearth_store::Store;

use crate::daemon::network_config;
use crate::engine::paths::Paths;

/// Cleans up and says what was done.
///
/// # Errors
/// When a daemon runs, the host cannot be looked at, or something cannot be removed.
pub async fn run(config: &Config) -> anyhow::Result<String> {
    let database = config.data_dir.join("hearth.db");
    if !database.exists() {
        return Ok(format!(
            "No daemon ever ran here: there is no {database}.\n"
        ));
    }
    let lock = config.data_dir.join("hearthd.lock");
    let _lock = LockFile::acquire(&lock, jiff::Timestamp::now())
        .context("a daemon runs, and what is there is in use; stop it first")?;
    let store = Store::open(&database)
        .context("the database cannot be read, so nothing can be proved to be ours")?;
    let installation = store.installation();
    let network = network_config(config, installation);
    let living = tokio::task::spawn_blocking(move || hearth_host::process::survey(installation))
        .await?
        .context("the processes cannot be looked at, so nothing is removed")?;
    let vms: std::collections::BTreeSet<_> = living
        .iter()
        .filter_map(|process| process.identity.mark.vm())
        .collect();
    if !vms.is_empty() {
        return Ok(format!(
            "VMs that run: {}; name server, filters and bridge stay.\n",
            vms.len()
        ));
    }
    let net = HostNetwork::new(network).context("the network cannot be used")?;
    net.remove_names().await.context("the name server stays")?;
    net.remove_rules().await.context("the filters stay")?;
    net.remove_bridge().await.context("the bridge stays")?;
    let helpers = crate::dm_helper::of_host(installation);
    let ground = crate::dm_helper::ground(&helpers);
    // The kernel answers, or it does not: the host is not looked at first.
    let guard = OperationGuard::with_elsewhere(Settings::default(), None, Some(Arc::new(helpers)));
    let paths = Paths::new(config.data_dir.clone());
    let pool = crate::pool::of_host(&paths, installation, Arc::clone(&ground), guard);
    let volumes = crate::volumes::of_host(pool.clone(), ground, store, config.storage);
    if let Err(error) = volumes.thins().let_go().await {
        tracing::info!(error = %hearth_types::survey::chain(&error), "volumes of the pool stay on");
    }
    let taken = pool.take_down().await.context("the pool stays")?;
    let pool = if taken {
        "The pool is taken from the kernel; its files stay.\n"
    } else {
        ""
    };
    Ok(format!(
        "No VM runs: name server, filters and bridge are gone.\n{pool}"
    ))
}
