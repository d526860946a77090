//! The tools of `thin-provisioning-tools`, and what a pool is told for them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use hearth_dm::thin::{Message, PoolStatus};
use hearth_dm::{Control, Key};
use hearth_host::command::{self, CommandError};

use super::{dm, find};
use crate::error::PoolError;
use crate::ground::{Checked, Found, Mending, Place, Running};

/// Where the first block has its flags, in bytes, and the one of them that is meant
/// (`THIN_METADATA_NEEDS_CHECK_FLAG`).
const FLAGS: u64 = 4;
const NEEDS_CHECK: u32 = 1;

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
    judge(tool, command::run(tool, &args, b"", deadline).await)
}

/// What a tool's end says of the metadata.
pub(super) fn judge(
    tool: &str,
    ended: Result<Vec<u8>, CommandError>,
) -> Result<Checked, PoolError> {
    match ended {
        Ok(_) => Ok(Checked::Good),
        Err(CommandError::Failed { status, output, .. }) => {
            Ok(Checked::Bad(if output.is_empty() {
                format!("{tool} ended with {status}")
            } else {
                output
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
        Mending::Restore { from, to } => (
            "thin_restore",
            text(&["-q", "-i", from.as_str(), "-o", to.as_str()]),
        ),
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
