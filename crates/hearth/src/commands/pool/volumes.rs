//! `hearth pool volumes`: what is in the pool.

use hearth_types::thin::{PoolVolumes, ThinState};
use hearth_types::units::Bytes;

use super::or_dash;
use crate::ages::ago;
use crate::failure::Failure;
use crate::output::{BAD, DIM, GOOD, Output, WARN};
use crate::table::{Cell, Table};

pub(super) fn show(out: &Output, shown: &PoolVolumes) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(shown);
    }
    if out.quiet {
        for volume in &shown.volumes {
            out.line(&volume.name)?;
        }
        return Ok(());
    }
    let mut header = vec![
        "ID", "NAME", "KIND", "WHOSE", "STATE", "SIZE", "USED", "ORIGIN",
    ];
    if out.is_wide() {
        header.extend(["DEVICE", "MADE", "CAUSE"]);
    }
    let mut table = Table::new(&header);
    for volume in &shown.volumes {
        let style = match volume.state {
            ThinState::Ready => GOOD,
            ThinState::Creating | ThinState::Filling => WARN,
            ThinState::Deleting => DIM,
            ThinState::Orphaned => BAD,
        };
        let mut cells = vec![
            volume.id.into(),
            (&volume.name).into(),
            volume.kind.into(),
            or_dash(volume.whose.as_ref()),
            Cell::styled(volume.state, style),
            Bytes(volume.bytes).human().into(),
            or_dash(volume.mapped.map(|bytes| Bytes(bytes).human())),
            or_dash(volume.origin),
        ];
        if out.is_wide() {
            cells.extend([
                or_dash(volume.device.as_ref()),
                ago(volume.created_at, out.now).into(),
                or_dash(volume.cause.as_ref()),
            ]);
        }
        table.row(cells);
    }
    out.table(&table)?;
    for difference in &shown.differences {
        let end = if difference.repaired {
            " (repaired)"
        } else {
            ""
        };
        out.note(format!("{}: {}{end}", difference.kind, difference.what));
    }
    if let Some(unknown) = &shown.unknown {
        out.note(format!("Not all could be asked: {unknown}."));
    }
    Ok(())
}
