//! One answer of what is recorded and what the kernel has.

use hearth_dm::thin::{Mode, PoolStatus};
use hearth_types::pool::{PoolState, PoolVerdict};
use hearth_types::survey::chain;

use crate::error::PoolError;
use crate::ground::{Found, Running};
use crate::record::{Record, Stage};

/// How the pool is, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// How it is.
    pub state: PoolState,
    /// Why, when not all is well.
    pub reason: Option<String>,
    /// What to do next.
    pub hint: Option<&'static str>,
}

impl Judgement {
    const fn plain(state: PoolState) -> Self {
        Self {
            state,
            reason: None,
            hint: None,
        }
    }

    fn said(state: PoolState, reason: impl Into<String>, hint: &'static str) -> Self {
        Self {
            state,
            reason: Some(reason.into()),
            hint: Some(hint),
        }
    }

    /// Of an error.
    fn failed(state: PoolState, error: &PoolError) -> Self {
        Self {
            state,
            reason: Some(chain(error)),
            hint: error.hint(),
        }
    }
}

/// One answer of what is recorded and what the kernel has. What could not be looked at is never
/// taken for absent.
#[must_use]
pub fn judge(
    record: &Result<Option<Record>, PoolError>,
    found: &Result<Found, PoolError>,
) -> Judgement {
    let record = match record {
        Ok(record) => record.as_ref(),
        Err(error) => return Judgement::failed(PoolState::Unknown, error),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return Judgement::failed(of_error(error), error),
    };
    let Some(record) = record else {
        return match found {
            Found::Nothing => Judgement::plain(PoolState::Absent),
            Found::Unfinished | Found::Running(_) => Judgement::said(
                PoolState::Unknown,
                "the kernel has it, and its record is gone",
                "put pool.json back from a backup, or give the pool up: hearth pool destroy --force",
            ),
        };
    };
    match (record.stage, found) {
        (Stage::Preparing, _) => Judgement::said(
            PoolState::Preparing,
            "its making was cut off, or is under way; nothing is in it",
            "begin anew with: hearth pool setup",
        ),
        (Stage::Destroying, _) => Judgement::said(
            PoolState::Destroying,
            "its destruction was cut off, or is under way",
            "go on with: hearth pool destroy",
        ),
        (Stage::Ready, Found::Running(running)) => works(running),
        (Stage::Ready, Found::Nothing | Found::Unfinished) => down(record),
    }
}

fn of_error(error: &PoolError) -> PoolState {
    match error {
        PoolError::Unavailable(_) => PoolState::Unavailable,
        PoolError::Foreign { .. } => PoolState::Foreign,
        _ => PoolState::Unknown,
    }
}

fn down(record: &Record) -> Judgement {
    let bad = record
        .last_check
        .as_ref()
        .filter(|check| check.verdict != PoolVerdict::Good);
    let Some(check) = bad else {
        return Judgement::said(
            PoolState::Down,
            "the kernel does not have it",
            "put it together with: hearth pool check",
        );
    };
    let said = check.said.as_deref().unwrap_or("nothing more was said");
    let error = PoolError::Damaged {
        said: format!("{}: {said}", check.verdict),
    };
    Judgement::failed(PoolState::Damaged, &error)
}

const READ_IT: &str =
    "the kernel's log says why (dmesg); stop what stands on it, then: hearth pool check";

fn works(running: &Running) -> Judgement {
    let PoolStatus::Works {
        mode,
        needs_check,
        metadata,
        ..
    } = &running.status
    else {
        return Judgement::said(
            PoolState::Failed,
            "the kernel gave it up, and every request to it fails",
            READ_IT,
        );
    };
    match mode {
        Mode::ReadWrite => Judgement::plain(PoolState::Up),
        Mode::OutOfDataSpace => Judgement::said(
            PoolState::Full,
            "it has no free block: writes to new places wait, and fail after a minute",
            "hearth pool extend; or remove volumes, or discard what they do not use (fstrim in the guests)",
        ),
        Mode::ReadOnly => {
            let (why, hint) = match (*needs_check, metadata.free()) {
                (true, _) => (
                    "a write of its metadata has failed, and it must be checked",
                    READ_IT,
                ),
                (false, 0) => (
                    "its metadata is full",
                    "give it more: hearth pool extend --metadata SIZE",
                ),
                (false, _) => ("the kernel lets nobody write to it", READ_IT),
            };
            Judgement::said(PoolState::ReadOnly, why, hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_dm::{Device, DmError};
    use hearth_types::pool::PoolCheck;
    use jiff::Timestamp;

    use super::*;
    use crate::ground::Layout;

    fn record(stage: Stage, verdict: Option<PoolVerdict>) -> Result<Option<Record>, PoolError> {
        let mut record = Record::new(&Layout::of(None).unwrap(), Timestamp::UNIX_EPOCH);
        record.stage = stage;
        record.last_check = verdict.map(|verdict| PoolCheck {
            at: Timestamp::UNIX_EPOCH,
            took_ms: 1,
            verdict,
            said: Some("bad checksum".to_owned()),
        });
        Ok(Some(record))
    }

    fn running(said: &str) -> Result<Found, PoolError> {
        Ok(Found::Running(Running {
            device: Device {
                major: 253,
                minor: 0,
            },
            users: 0,
            event: 0,
            suspended: false,
            length: 0,
            status: said.parse().unwrap(),
        }))
    }

    fn gone() -> PoolError {
        PoolError::Unavailable(DmError::NotHere(std::io::ErrorKind::NotFound.into()))
    }

    #[test]
    fn the_kernels_words_become_states() {
        let ready = record(Stage::Ready, Some(PoolVerdict::Good));
        for (said, state, word) in [
            (
                "0 1/9 3/4 - rw discard_passdown queue_if_no_space - 1",
                PoolState::Up,
                "",
            ),
            (
                "0 1/9 4/4 - out_of_data_space discard_passdown queue_if_no_space - 1",
                PoolState::Full,
                "no free block",
            ),
            (
                "0 1/9 3/4 - ro discard_passdown queue_if_no_space needs_check 1",
                PoolState::ReadOnly,
                "must be checked",
            ),
            (
                "0 9/9 3/4 - ro discard_passdown queue_if_no_space - 1",
                PoolState::ReadOnly,
                "is full",
            ),
            ("Fail", PoolState::Failed, "gave it up"),
        ] {
            let judged = judge(&ready, &running(said));
            assert_eq!(judged.state, state, "{said}");
            let reason = judged.reason.unwrap_or_default();
            assert!(reason.contains(word), "{said}: {reason}");
            assert_eq!(judged.hint.is_some(), state != PoolState::Up);
        }
    }

    #[test]
    fn what_is_recorded_decides_what_is_not_there() {
        let nothing = || Ok(Found::Nothing);
        for (stage, verdict, state) in [
            (Stage::Preparing, None, PoolState::Preparing),
            (Stage::Destroying, None, PoolState::Destroying),
            (Stage::Ready, Some(PoolVerdict::Good), PoolState::Down),
            (Stage::Ready, None, PoolState::Down),
            (Stage::Ready, Some(PoolVerdict::Bad), PoolState::Damaged),
            (
                Stage::Ready,
                Some(PoolVerdict::Unfinished),
                PoolState::Damaged,
            ),
        ] {
            assert_eq!(judge(&record(stage, verdict), &nothing()).state, state);
        }
        assert_eq!(judge(&Ok(None), &nothing()).state, PoolState::Absent);
    }

    #[test]
    fn unknown_is_not_absent() {
        let cut_off = || {
            Err(PoolError::Stuck {
                what: "a look",
                waited: std::time::Duration::ZERO,
            })
        };
        let foreign = || {
            Err(PoolError::Foreign {
                what: "it is theirs".to_owned(),
            })
        };
        assert_eq!(judge(&Ok(None), &cut_off()).state, PoolState::Unknown);
        assert_eq!(judge(&Ok(None), &Err(gone())).state, PoolState::Unavailable);
        assert_eq!(judge(&Ok(None), &foreign()).state, PoolState::Foreign);
        let unrecorded = judge(&Ok(None), &running("0 1/9 0/4 - rw - 1"));
        assert_eq!(unrecorded.state, PoolState::Unknown);
        let unread = Err(PoolError::Destroying);
        assert_eq!(
            judge(&unread, &Ok(Found::Nothing)).state,
            PoolState::Unknown
        );
    }
}
