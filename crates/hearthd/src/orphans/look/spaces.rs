//! Network namespaces and cages.

use anyhow::Context as _;
use hearth_types::orphan::{Orphan, OrphanKind, OrphanState};

use super::kernel::list;
use super::{Scene, kept, unproven};

/// Names that look like ours are this, or begin with it and a dash.
const NAME: &str = "hearth";

impl Scene {
    /// Named network namespaces: Hearth makes none.
    pub(super) fn network_namespaces(&self) -> anyhow::Result<Vec<Orphan>> {
        let folder = &self.places.namespaces;
        let names = list(folder)?.unwrap_or_default().into_iter();
        let alike = names.filter(|name| {
            let rest = name.strip_prefix(NAME);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        let alike = alike.map(|name| {
            unproven(
                format!("network_namespace-{name}"),
                OrphanKind::NetworkNamespace,
                folder.join(&name).to_string(),
                "only its name looks like ours: Hearth makes no network namespaces".to_owned(),
                "it is somebody else's",
            )
        });
        Ok(alike.collect())
    }

    /// Root folders of their own of VMMs that no VM has.
    pub(super) fn cages(&self) -> anyhow::Result<Vec<Orphan>> {
        use std::os::unix::fs::MetadataExt as _;
        let own = std::fs::metadata("/").context("cannot look at /")?;
        let mut found = Vec::new();
        for stranger in &self.strangers {
            let root = self
                .places
                .processes
                .join(stranger.pid.to_string())
                .join("root");
            let meta = match std::fs::metadata(&root) {
                Ok(meta) => meta,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot look at {root}")),
            };
            if (meta.dev(), meta.ino()) == (own.dev(), own.ino()) {
                continue;
            }
            found.push(Orphan {
                state: OrphanState::Unwanted,
                vm: stranger.mark.vm(),
                fate: kept("the kernel removes it with its process"),
                ..unproven(
                    format!("cage-{}-{}", stranger.pid, stranger.start_time),
                    OrphanKind::Cage,
                    root.to_string(),
                    "the VMM in it belongs to no VM of the database".to_owned(),
                    "",
                )
            });
        }
        Ok(found)
    }
}
