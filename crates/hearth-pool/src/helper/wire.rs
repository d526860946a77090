//! What the daemon and its helper say to each other: a length of four bytes (little endian), then JSON.
//!
//! Both ends are the same program, so there is no version. What is longer than [`LONGEST`] or is not
//! understood ends the talk.

use std::io::{self, Read, Write};

use camino::Utf8PathBuf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::said::Said;
use crate::base::Base;
use crate::ground::{Layout, Place};
use crate::thin::Target;

/// The longest message, in bytes: the list of a hundred thousand devices.
const LONGEST: usize = 16 << 20;

/// A call, of a place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) place: Place,
    pub(super) call: Call,
}

/// What a ground is asked: see the methods of these names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Find,
    Assemble(Layout),
    TakeDown,
    Extend(Layout),
    Inspect { device: Utf8PathBuf, force: bool },
    Claim { base: Base, force: bool },
    Release(Base),
    HoldMetadata(bool),
    CreateThin { id: u32 },
    CreateSnapshot { id: u32, origin: u32 },
    DeleteThin { id: u32 },
    SetCount { from: u64, to: u64 },
    Holds { id: u32 },
    Activate(Target),
    Deactivate { id: u32 },
    Resume { id: u32 },
    Active,
    ReserveMetadata,
    ReleaseMetadata,
}

/// An answer: what the call has given, or how it failed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Done(serde_json::Value),
    Failed(Said),
}

/// The bytes of a message.
pub(super) fn pack(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    match u32::try_from(length) {
        Ok(said) if length <= LONGEST => bytes[..4].copy_from_slice(&said.to_le_bytes()),
        _ => return Err(too_long(length)),
    }
    Ok(bytes)
}

/// Says something.
pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&pack(message)?)
}

/// Hears something; `None` when the other end is gone and had begun nothing.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read(&mut length[..1]) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return receive(from),
        Err(error) => return Err(error),
    }
    from.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(too_long(length));
    }
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

fn too_long(length: usize) -> io::Error {
    let what = format!("a message of {length} bytes; {LONGEST} are the most");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Call {
    /// What it is, for people.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Find => "a look for the pool",
            Self::Assemble(_) => "the putting together of the pool",
            Self::TakeDown => "the taking down of the pool",
            Self::Extend(_) => "the extension of the pool",
            Self::Inspect { .. } => "a look at a device for the pool",
            Self::Claim { .. } => "the taking of a device for the pool",
            Self::Release(_) => "the giving back of the pool's device",
            Self::HoldMetadata(_) => "the holding of the metadata",
            Self::CreateThin { .. } => "the making of a thin device",
            Self::CreateSnapshot { .. } => "the making of a snapshot",
            Self::DeleteThin { .. } => "the deletion of a thin device",
            Self::SetCount { .. } => "the count of a change",
            Self::Holds { .. } => "a look for a thin device",
            Self::Activate(_) => "the activation of a thin device",
            Self::Deactivate { .. } => "the deactivation of a thin device",
            Self::Resume { .. } => "the resumption of a thin device",
            Self::Active => "a look at the active devices",
            Self::ReserveMetadata => "the reservation of the metadata",
            Self::ReleaseMetadata => "the release of the metadata",
        }
    }
}

/// A path as the wire has it: what is no UTF-8 is told with its letters replaced.
pub(super) fn plain(path: &std::path::Path) -> Utf8PathBuf {
    path.to_string_lossy().into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_as_they_went_and_their_end_is_told() {
        let mut pipe = Vec::new();
        send(&mut pipe, &vec![1, 2, 3]).unwrap();
        send(&mut pipe, &"next").unwrap();
        let mut from = pipe.as_slice();
        assert_eq!(receive::<Vec<u8>>(&mut from).unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(
            receive::<String>(&mut from).unwrap().as_deref(),
            Some("next")
        );
        assert_eq!(receive::<String>(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_cut_off_too_long_or_garbled_is_an_error() {
        let mut whole = Vec::new();
        send(&mut whole, &"a word").unwrap();
        for cut in 1..whole.len() {
            assert!(receive::<String>(&mut &whole[..cut]).is_err(), "{cut}");
        }
        let long = u32::MAX.to_le_bytes();
        let error = receive::<String>(&mut long.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        whole[4] = b'[';
        assert!(receive::<String>(&mut whole.as_slice()).is_err());
        let huge = "x".repeat(LONGEST);
        assert!(pack(&huge).is_err());
    }
}
