//! Our nftables tables on the host: read by `nft -j list table`, changed by `nft -f -`.
//!
//! Reading costs two runs of `nft` and grows with the elements; the kernel's count of
//! transactions says for the price of a system call when nothing needs to be read.
//!
//! ```text
//!            ┌──────────── replace both tables, read back, seal ◄───────────┐
//!            ▼                                                              │
//! apply: sealed and unchanged? ── yes ─► add/delete the elements that ─ refused
//!                                        differ (one transaction)
//! ```

mod generation;

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

/// What was read last, and the generation that it is true for.
#[derive(Debug, Default)]
pub(super) struct Known(Option<(u32, Option<Tables>)>);

impl Known {
    /// Whether somebody has written to a table since ours were read or written.
    pub(super) fn is_outdated(&self) -> bool {
        match (&self.0, generation::current()) {
            (Some((then, _)), Some(now)) => *then != now,
            _ => true,
        }
    }

    /// One transaction of ours was made on top of a generation: what is there now is known if
    /// nobody else made one meanwhile.
    fn follows(&mut self, before: Option<u32>, after: Option<Tables>) {
        let now = generation::current();
        if let (Some(before), Some(now)) = (before, now)
            && now == generation::next(before)
        {
            self.0 = Some((now, after));
        }
    }
}

/// What our tables say; nothing (but not `None`) when their static part was damaged, so
/// that the next pass applies what should be there.
pub(super) async fn rules(
    config: &NetworkConfig,
    known: &mut Known,
) -> Result<Option<RuleSet>, NetError> {
    Ok(read(config, known).await?.map(|tables| {
        if tables.intact {
            tables.rules
        } else {
            RuleSet::default()
        }
    }))
}

pub(super) async fn apply(
    config: &NetworkConfig,
    known: &mut Known,
    rules: &RuleSet,
) -> Result<(), NetError> {
    let failed = |error| failed("write", config, error);
    if let Some(bad) = rules.guests.iter().find(|g| !is_interface_name(&g.tap)) {
        return Err(failed(BadTap(bad.tap.clone()).into()));
    }
    let shape = shape(config);
    if let Some(tables) = read(config, known).await?
        && tables.intact
    {
        let text = nft::delta(&shape, &tables.rules, rules).map_err(|e| failed(e.into()))?;
        let after = Tables {
            rules: rules.clone(),
            ..tables
        };
        match write(&text, known, after).await {
            // True unless somebody else wrote at the same time: then it is read anew.
            Ok(()) => {
                let now = read(config, known).await?;
                if now.is_some_and(|now| now.intact && now.rules == *rules) {
                    return Ok(());
                }
            }
            Err(CommandError::Failed { output, .. }) => {
                tracing::warn!(table = config.table, output, "rules replaced as a whole");
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
    replace(config, known, &shape, rules).await
}

/// Writes both tables anew and seals them.
async fn replace(
    config: &NetworkConfig,
    known: &mut Known,
    shape: &Shape,
    rules: &RuleSet,
) -> Result<(), NetError> {
    let failed = |error| failed("write", config, error);
    let text = nft::replacement(shape, rules).map_err(|e| failed(e.into()))?;
    known.0 = None;
    send(&text).await.map_err(|e| failed(e.into()))?;
    // A crash before the seal leaves tables that work and are replaced once more.
    let Some(tables) = read(config, known).await? else {
        return Err(failed("the tables are gone again".into()));
    };
    let seal = nft::seal(shape, tables.fingerprint);
    let after = Tables {
        intact: true,
        ..tables
    };
    write(&seal, known, after)
        .await
        .map_err(|e| failed(e.into()))
}

/// Removes what is there of our tables, after it has proved to be ours.
pub(super) async fn remove(config: &NetworkConfig, known: &mut Known) -> Result<(), NetError> {
    // Looked at again whatever is known: this takes something away.
    known.0 = None;
    if read(config, known).await?.is_none() {
        return Ok(());
    }
    let before = known.0.take().map(|(generation, _)| generation);
    let mut text = String::new();
    for family in ["inet", "bridge"] {
        let table = &config.table;
        text += &format!("add table {family} {table}\ndelete table {family} {table}\n");
    }
    send(&text)
        .await
        .map_err(|error| failed("remove", config, error.into()))?;
    known.follows(before, None);
    Ok(())
}

/// Reads both tables; `None` when there is neither. What is known already is not read
/// again as long as nobody in this namespace has changed any table.
async fn read(config: &NetworkConfig, known: &mut Known) -> Result<Option<Tables>, NetError> {
    let before = generation::current();
    if let (Some(now), Some((then, tables))) = (before, &known.0)
        && now == *then
    {
        return Ok(tables.clone());
    }
    known.0 = None;
    let (inet, bridge) = tokio::try_join!(list(config, "inet"), list(config, "bridge"))?;
    let printed: Vec<&[u8]> = [&inet, &bridge]
        .into_iter()
        .filter_map(|text| text.as_deref())
        .collect();
    let tables = if printed.is_empty() {
        None
    } else {
        let parsed = nft::parse(&shape(config), &printed);
        Some(parsed.map_err(|e| failed("read", config, e.into()))?)
    };
    if tables.as_ref().is_some_and(|tables| !tables.ours) {
        return Err(NetError::Foreign {
            object: format!("an nftables table named {}", config.table),
        });
    }
    if let Some(generation) = before
        && generation::current() == before
    {
        known.0 = Some((generation, tables.clone()));
    }
    Ok(tables)
}

/// Writes one transaction on top of what is known, and knows the outcome if nobody else
/// wrote meanwhile.
async fn write(text: &str, known: &mut Known, after: Tables) -> Result<(), CommandError> {
    let before = known.0.take().map(|(generation, _)| generation);
    if text.is_empty() {
        known.0 = before.map(|generation| (generation, Some(after)));
        return Ok(());
    }
    send(text).await?;
    known.follows(before, Some(after));
    Ok(())
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

async fn send(text: &str) -> Result<(), CommandError> {
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
