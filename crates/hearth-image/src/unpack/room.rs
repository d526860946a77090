//! Room on the file system that is unpacked to.

use std::os::fd::OwnedFd;

use crate::ImageError;

/// The file system under the root, which can be asked to make room.
pub trait Room {
    /// Makes sure that `bytes` more bytes and one more file fit, if that is possible while
    /// files are open. False: [`Room::enlarge`] has to do it.
    ///
    /// # Errors
    /// When the file system cannot grow.
    fn reserve(&mut self, bytes: u64) -> Result<bool, ImageError>;

    /// Makes the file system larger while nothing on it is open, and opens its root anew.
    ///
    /// # Errors
    /// When it cannot grow.
    fn enlarge(&mut self, bytes: u64) -> Result<OwnedFd, ImageError>;
}

/// Room that somebody else has taken care of.
#[derive(Debug, Clone, Copy)]
pub struct EnoughRoom;

impl Room for EnoughRoom {
    fn reserve(&mut self, _: u64) -> Result<bool, ImageError> {
        Ok(true)
    }

    fn enlarge(&mut self, _: u64) -> Result<OwnedFd, ImageError> {
        Err(ImageError::Volume("this folder cannot grow".into()))
    }
}
