//! The tools of `thin-provisioning-tools`, and what a pool is told for them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use hearth_dm::thin::{Message, PoolStatus};
use hearth_dm::{Control, Key};
use hearth_host::command::{self, CommandError};

use camino::Utf8Path;

use super::{dm, find, roots};
use crate::error::PoolError;
use crate::files;
use crate::ground::{Checked, First, Found, Mending, Place, Running};
use crate::hands::Hands;

/// Where the first block has its flags, in bytes, and the one of them that is meant
/// (`THIN_METADATA_NEEDS_CHECK_FLAG`).
const FLAGS: u64 = 4;
const NEEDS_CHECK: u32 = 1;
/// Seen with 0.9.0 (Debian 12): its search for the newest root sorts the candidates with an order that is
/// none, and runs out of the list when there are more than a few, as in each pool that was used for a while.
const OLD_TOOLS: &str = "thin-provisioning-tools before 1.0 do that over metadata with a history, and a \
     newer one may read it";

pub(super) fn hold(control: &Control, place: &Place, hold: bool) -> Result<(), PoolError> {
    let Found::Running(Running { status, .. }) = find(control, place)? else {
        return Err(PoolError::NotWorking { state: "down" });
    };
    let held = matches!(
        status,
        PoolStatus::Works {
            held_root: Some(_),
            ..
        }
    );
    let message = match (hold, held) {
        (true, false) => Message::ReserveMetadataSnapshot,
        (false, true) => Message::ReleaseMetadataSnapshot,
        (false, false) => return Ok(()),
        // It is of another moment: whoever held it is gone.
        (true, true) => {
            say(control, place, Message::ReleaseMetadataSnapshot)?;
            Message::ReserveMetadataSnapshot
        }
    };
    say(control, place, message)
}

fn say(control: &Control, place: &Place, message: Message) -> Result<(), PoolError> {
    let text = message.to_string();
    control
        .message(Key::Uuid(&place.uuid), &text)
        .map(drop)
        .map_err(dm("hold or let go of the metadata of"))
}

pub(super) fn needs_check(place: &Place) -> Result<bool, PoolError> {
    let path = place.metadata();
    let mut flags = [0; 4];
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut flags, FLAGS))
        .map_err(PoolError::io("read", &path))?;
    Ok(u32::from_le_bytes(flags) & NEEDS_CHECK != 0)
}

pub(super) async fn mend(work: &Mending<'_>, deadline: Duration) -> Result<Checked, PoolError> {
    let (tool, args) = words(work);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = command::run(tool, &args, b"", deadline).await;
    if let Mending::Repair { from, to, first } = *work
        && broke_down(&ended)
    {
        let draft = from.with_extension("draft");
        let mended = with_roots(from, &draft, to, first, deadline).await;
        files::forget(&draft)?;
        if let Some(mended) = mended? {
            return found_something(mended, to, deadline).await;
        }
    }
    let judged = judge(tool, ended)?;
    match work {
        Mending::Repair { to, .. } => found_something(judged, to, deadline).await,
        _ => Ok(judged),
    }
}

/// A repair of metadata of which nothing can be read ends well, with metadata of an empty pool: that would let the
/// data of all volumes be written over.
async fn found_something(
    judged: Checked,
    repaired: &Utf8Path,
    deadline: Duration,
) -> Result<Checked, PoolError> {
    if judged != Checked::Good {
        return Ok(judged);
    }
    let args = ["--no-headers", "-o", "DEV", repaired.as_str()];
    let listed = command::run("thin_ls", &args, b"", deadline).await;
    Ok(match listed {
        Ok(said) if said.trim_ascii().is_empty() => {
            Checked::Bad("thin_repair found no volume in it".to_owned())
        }
        listed => judge("thin_ls", listed)?,
    })
}

fn broke_down(ended: &Result<Vec<u8>, CommandError>) -> bool {
    matches!(ended, Err(CommandError::Failed { status, .. }) if status.signal().is_some())
}

/// Repairs a copy whose first block leads to its newest roots. `None` if there are none, or nothing is
/// known of what else the first block should say.
async fn with_roots(
    from: &Utf8Path,
    draft: &Utf8Path,
    to: &Utf8Path,
    first: Option<First>,
    deadline: Duration,
) -> Result<Option<Checked>, PoolError> {
    let (metadata, copy) = (from.to_owned(), draft.to_owned());
    let hands = Hands::default();
    let found = hands.take(
        "a search for the roots of the metadata",
        deadline,
        move || {
            let Some(newest) = roots::newest(&File::open(&metadata)?)? else {
                return Ok(false);
            };
            tracing::warn!(
                ?newest,
                "thin_repair broke down; the newest roots of the metadata are looked for without it"
            );
            std::fs::copy(&metadata, &copy)?;
            let file = File::options().read(true).write(true).open(&copy)?;
            roots::write(&file, newest, first)
        },
    );
    if !found.await?.map_err(PoolError::io("read", from))? {
        return Ok(None);
    }
    let args = ["-i", draft.as_str(), "-o", to.as_str()];
    let ended = command::run("thin_repair", &args, b"", deadline).await;
    judge("thin_repair", ended).map(Some)
}

/// What a tool's end says of the metadata.
pub(super) fn judge(
    tool: &str,
    ended: Result<Vec<u8>, CommandError>,
) -> Result<Checked, PoolError> {
    match ended {
        Ok(_) => Ok(Checked::Good),
        Err(CommandError::Failed { status, output, .. }) => {
            Ok(Checked::Bad(match status.signal() {
                Some(signal) => format!("{tool} broke down (signal {signal}); {OLD_TOOLS}"),
                None if output.is_empty() => format!("{tool} ended with {status}"),
                None => output,
            }))
        }
        Err(CommandError::Deadline { .. }) => Ok(Checked::Unfinished),
        Err(error @ (CommandError::Missing { .. } | CommandError::Run { .. })) => {
            Err(PoolError::Check(error))
        }
    }
}

fn words(work: &Mending<'_>) -> (&'static str, Vec<String>) {
    let text = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    match work {
        Mending::Dump { from, to, held } => {
            let mut words: Vec<String> = text(&[from.as_str(), "-o", to.as_str()]);
            if *held {
                // Last: it may take a value.
                words.push("--metadata-snap".to_owned());
            }
            ("thin_dump", words)
        }
        Mending::Restore { from, to, blocks } => {
            let mut words: Vec<String> = text(&["-q", "-i", from.as_str(), "-o", to.as_str()]);
            words.extend(["--nr-data-blocks".to_owned(), blocks.to_string()]);
            ("thin_restore", words)
        }
        Mending::Repair { from, to, first } => {
            let mut words: Vec<String> = text(&["-i", from.as_str(), "-o", to.as_str()]);
            if let Some(first) = first {
                let block = first.layout.block;
                for (key, value) in [
                    ("--transaction-id", first.transaction),
                    ("--data-block-size", block.sectors().into()),
                    ("--nr-data-blocks", first.layout.data / block.bytes()),
                ] {
                    words.extend([key.to_owned(), value.to_string()]);
                }
            }
            ("thin_repair", words)
        }
        Mending::Absolve { metadata } => (
            "thin_check",
            text(&["-q", "--clear-needs-check-flag", metadata.as_str()]),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_tool_that_breaks_down_says_nothing_of_the_metadata() {
        let ended = |status: i32, output: &str| {
            let failed = CommandError::Failed {
                command: "thin_repair".to_owned(),
                status: ExitStatus::from_raw(status),
                output: output.to_owned(),
            };
            match judge("thin_repair", Err(failed)) {
                Ok(Checked::Bad(said)) => said,
                other => format!("{other:?}"),
            }
        };
        assert_eq!(ended(1 << 8, "bad checksum"), "bad checksum");
        assert_eq!(ended(1 << 8, ""), "thin_repair ended with exit status: 1");
        let broke = ended(11, "examining mapping tree");
        assert!(
            broke.starts_with("thin_repair broke down (signal 11); "),
            "{broke}"
        );
        assert!(broke.contains("a newer one"), "{broke}");
    }

    /// What is held of a pool that the kernel has is written down as one of no blocks (0.9.0), which nothing
    /// can be restored from without the number.
    #[test]
    fn a_backup_is_restored_with_the_number_of_blocks() {
        let work = Mending::Restore {
            from: "/from".into(),
            to: "/to".into(),
            blocks: 4096,
        };
        let (tool, args) = words(&work);
        assert_eq!(tool, "thin_restore");
        assert!(
            args.ends_with(&["--nr-data-blocks".to_owned(), "4096".to_owned()]),
            "{args:?}"
        );
    }
}
