//! The tools over metadata in memory: what makes a fake pool is its first sixteen bytes.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use camino::Utf8Path;

use super::{FakeGround, MAGIC};
use crate::error::PoolError;
use crate::ground::{Checked, Mending, Place};

impl FakeGround {
    /// A write of its metadata has failed.
    pub fn set_needs_check(&self, needs: bool) {
        self.0.lock().needs_check = needs;
    }

    /// Whether it keeps a state of its metadata for somebody.
    #[must_use]
    pub fn holds_metadata(&self) -> bool {
        self.0.lock().held
    }
}

pub(super) fn hold(ground: &FakeGround, place: &Place, hold: bool) -> Result<(), PoolError> {
    ground.call(|host| {
        if !host.devices.contains_key(&place.uuid) {
            return Err(PoolError::NotWorking { state: "down" });
        }
        host.held = hold;
        Ok(())
    })
}

pub(super) fn mend(ground: &FakeGround, work: &Mending<'_>) -> Result<Checked, PoolError> {
    ground.call(|host| {
        if host.no_tool {
            return Err(PoolError::Check(
                hearth_host::command::CommandError::Missing {
                    program: "thin_repair".to_owned(),
                },
            ));
        }
        let io = |error| PoolError::io("mend", "metadata")(error);
        match work {
            Mending::Dump { from, to, held } => {
                if *held && !host.held {
                    return Ok(Checked::Bad("no current metadata snap".to_owned()));
                }
                let first = first(from).map_err(io)?;
                if first[..8] != MAGIC {
                    return Ok(Checked::Bad("bad checksum in superblock".to_owned()));
                }
                std::fs::write(to, &first[8..]).map_err(io)?;
                Ok(Checked::Good)
            }
            Mending::Restore { from, to, blocks } => {
                if *blocks == 0 {
                    return Ok(Checked::Bad("mapping beyond end of data device".to_owned()));
                }
                let number = std::fs::read(from).map_err(io)?;
                whole(to, &number).map_err(io)?;
                Ok(Checked::Good)
            }
            // What is behind the first bytes can be found again, and they cannot without help.
            Mending::Repair {
                from,
                to,
                first: help,
            } => {
                let damaged = first(from).map_err(io)?;
                if damaged[8..] == [0; 8] {
                    return Ok(Checked::Bad("nothing is left of it".to_owned()));
                }
                if damaged[..8] == [0; 8] && help.is_none() {
                    return Ok(Checked::Bad("the transaction must be given".to_owned()));
                }
                whole(to, &damaged[8..]).map_err(io)?;
                Ok(Checked::Good)
            }
            Mending::Absolve { .. } => {
                host.needs_check = false;
                Ok(Checked::Good)
            }
        }
    })
}

fn first(path: &Utf8Path) -> std::io::Result<[u8; 16]> {
    let mut first = [0; 16];
    std::fs::File::open(path)?.read_exact_at(&mut first, 0)?;
    Ok(first)
}

fn whole(path: &Utf8Path, number: &[u8]) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&MAGIC, 0)?;
    file.write_all_at(number, 8)
}
