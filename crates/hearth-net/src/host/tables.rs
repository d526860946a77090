//! Our nftables tables on the host: read by `nft -j list table`, changed by `nft -f -`.
//!
//! ```text
//!            ┌──────────── replace both tables, read back, seal ◄───────────┐
//!            ▼                                                              │
//! apply: sealed and unchanged? ── yes ─► add/delete the elements that ─ refused
//!                                        differ (one transaction)
//! ```

use hearth_host::command::{self, CommandError};
use hearth_types::net::RuleSet;

use super::{TOOL_DEADLINE, is_interface_name, links};
use crate::nft::{self, Shape, Tables};
use crate::{NetError, NetworkConfig};

/// A rule set that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the TAP name {0:?} is not an interface name")]
struct BadTap(String);

fn shape(config: &NetworkConfig) -> Shape {
    Shape {
        table: config.table.clone(),
        bridge: config.bridge.clone(),
        subnet: config.subnet,
        mark: config.mark,
        group: links::tap_group(config),
    }
}

/// What our tables say; nothing (but not `None`) when their static part was damaged, so
/// that the next pass applies what should be there.
pub(super) async fn rules(config: &NetworkConfig) -> Result<Option<RuleSet>, NetError> {
    Ok(read(config).await?.map(|tables| {
        if tables.intact {
            tables.rules
        } else {
            RuleSet::default()
        }
    }))
}

pub(super) async fn apply(config: &NetworkConfig, rules: &RuleSet) -> Result<(), NetError> {
    let failed = |error| failed("write", config, error);
    if let Some(bad) = rules.guests.iter().find(|g| !is_interface_name(&g.tap)) {
        return Err(failed(BadTap(bad.tap.clone()).into()));
    }
    let shape = shape(config);
    if let Some(tables) = read(config).await?
        && tables.intact
    {
        let text = nft::delta(&shape, &tables.rules, rules).map_err(|e| failed(e.into()))?;
        if text.is_empty() {
            return Ok(());
        }
        match write(&text).await {
            Ok(()) => return Ok(()),
            // Somebody else changed elements between the reading and the writing.
            Err(CommandError::Failed { output, .. }) => {
                tracing::warn!(table = config.table, output, "rules replaced as a whole");
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
    let text = nft::replacement(&shape, rules).map_err(|e| failed(e.into()))?;
    write(&text).await.map_err(|e| failed(e.into()))?;
    // A crash before the seal leaves tables that work and are replaced once more.
    let Some(tables) = read(config).await? else {
        return Err(failed("the tables are gone again".into()));
    };
    let seal = nft::seal(&shape, tables.fingerprint);
    write(&seal).await.map_err(|e| failed(e.into()))
}

/// Removes what is there of our tables, after it has proved to be ours.
pub(super) async fn remove(config: &NetworkConfig) -> Result<(), NetError> {
    if read(config).await?.is_none() {
        return Ok(());
    }
    let mut text = String::new();
    for family in ["inet", "bridge"] {
        let table = &config.table;
        text += &format!("add table {family} {table}\ndelete table {family} {table}\n");
    }
    write(&text)
        .await
        .map_err(|error| failed("remove", config, error.into()))
}

/// Reads both tables; `None` when there is neither.
async fn read(config: &NetworkConfig) -> Result<Option<Tables>, NetError> {
    let (inet, bridge) = tokio::try_join!(list(config, "inet"), list(config, "bridge"))?;
    let printed: Vec<&[u8]> = [&inet, &bridge]
        .into_iter()
        .filter_map(|text| text.as_deref())
        .collect();
    if printed.is_empty() {
        return Ok(None);
    }
    let tables =
        nft::parse(&shape(config), &printed).map_err(|e| failed("read", config, e.into()))?;
    if tables.ours {
        Ok(Some(tables))
    } else {
        Err(NetError::Foreign {
            object: format!("an nftables table named {}", config.table),
        })
    }
}

/// One table as JSON; `None` when there is none.
async fn list(config: &NetworkConfig, family: &str) -> Result<Option<Vec<u8>>, NetError> {
    let args = ["-j", "list", "table", family, &config.table];
    match command::run("nft", &args, b"", TOOL_DEADLINE).await {
        Ok(text) => Ok(Some(text)),
        Err(CommandError::Failed { output, .. })
            if output.contains("No such file or directory") =>
        {
            Ok(None)
        }
        Err(error) => Err(failed("read", config, error.into())),
    }
}

async fn write(text: &str) -> Result<(), CommandError> {
    command::run("nft", &["-f", "-"], text.as_bytes(), TOOL_DEADLINE)
        .await
        .map(drop)
}

fn failed(
    operation: &'static str,
    config: &NetworkConfig,
    error: Box<dyn std::error::Error + Send + Sync>,
) -> NetError {
    NetError::failed(
        operation,
        format!("the nftables tables {}", config.table),
        error,
    )
}
