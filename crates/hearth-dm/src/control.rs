//! `/dev/mapper/control`: one method per ioctl that Hearth needs.
//!
//! A device is named by a [`Key`]. Whoever changes a device that is there names it by its uuid:
//! then the kernel itself proves, in the same call, that it is the one that carries the mark,
//! whatever bears its name by now.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::call::{self, Answer, Failure};
use crate::device::{Device, Info, Listed, Table, TargetVersion};
use crate::error::DmError;
use crate::header::{self, Header};
use crate::wire;

const CONTROL: &str = "/dev/mapper/control";

/// The ioctl's numbers.
const VERSION: u8 = 0;
const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const DEV_WAIT: u8 = 8;
const TABLE_LOAD: u8 = 9;
const TABLE_DEPS: u8 = 11;
const TABLE_STATUS: u8 = 12;
const LIST_VERSIONS: u8 = 13;
const TARGET_MSG: u8 = 14;
const DEV_ARM_POLL: u8 = 16;

const READONLY: u32 = 1;
const SUSPENDED: u32 = 1 << 1;
const WANT_TABLE: u32 = 1 << 4;
const NO_LOCK_FS: u32 = 1 << 10;
const NO_FLUSH: u32 = 1 << 11;
const DATA_OUT: u32 = 1 << 16;
const DEFERRED: u32 = 1 << 17;

/// Which device is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// The one of this name, whosever it is.
    Name(&'a str),
    /// The one of this uuid: the owner's mark.
    Uuid(&'a str),
}

impl Key<'_> {
    fn header(self, flags: u32) -> Result<Header, DmError> {
        let (name, uuid) = match self {
            Self::Name(name) => (name, ""),
            Self::Uuid(uuid) => ("", uuid),
        };
        let given = name.len() + uuid.len();
        let fits = name.len() <= header::LONGEST_NAME && uuid.len() <= header::LONGEST_UUID;
        if given == 0 || !fits {
            return Err(DmError::Invalid {
                what: format!("{self:?}"),
            });
        }
        Ok(Header {
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            flags,
            ..Header::default()
        })
    }
}

/// How a device is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspend {
    /// File systems on it are frozen and what is on its way is written.
    Flushed,
    /// Only what is on its way is written.
    NoFreeze,
    /// What waits for room stays in the queue: the only way for a pool that is full.
    NoFlush,
}

/// When a device is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remove {
    /// Now, or not at all.
    Now,
    /// Now, or when the last of those who have it open lets go.
    WhenClosed,
}

/// The kernel's device-mapper.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Opens it.
    ///
    /// # Errors
    /// [`DmError::NotHere`].
    pub fn open() -> Result<Self, DmError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(CONTROL, flags, Mode::empty())
            .map(Self)
            .map_err(|errno| DmError::NotHere(errno.into()))
    }

    /// The version of the kernel's interface.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn version(&self) -> Result<[u32; 3], DmError> {
        let answer = self.ask("ask the version of", VERSION)?;
        Ok(answer.header.version)
    }

    /// All devices, ours and others'.
    ///
    /// # Errors
    /// When the kernel refuses, or its answer cannot be understood.
    pub fn list(&self) -> Result<Vec<Listed>, DmError> {
        wire::read_names(self.ask("list", LIST_DEVICES)?.data())
    }

    /// The types of targets that the kernel has loaded. One that it would load when it is first
    /// used is not among them.
    ///
    /// # Errors
    /// As [`Control::list`].
    pub fn targets(&self) -> Result<Vec<TargetVersion>, DmError> {
        wire::read_versions(self.ask("list the targets of", LIST_VERSIONS)?.data())
    }

    /// Makes a device without a table.
    ///
    /// # Errors
    /// [`DmError::Exists`], [`DmError::Invalid`] for a name or uuid that the kernel cannot take,
    /// or another refusal.
    pub fn create(&self, name: &str, uuid: &str) -> Result<Info, DmError> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if name.contains('/') || !plain(name) || !plain(uuid) || uuid.len() > header::LONGEST_UUID {
            return Err(DmError::Invalid {
                what: format!("the name {name:?} with the uuid {uuid:?}"),
            });
        }
        let call = Header {
            uuid: uuid.to_owned(),
            ..Key::Name(name).header(0)?
        };
        self.call("create", DEV_CREATE, &call, &[])
            .map(|answer| answer.info())
    }

    /// Removes a device.
    ///
    /// # Errors
    /// [`DmError::Busy`] if somebody has it open and it is to go now, [`DmError::Absent`], or
    /// another refusal.
    pub fn remove(&self, key: Key<'_>, when: Remove) -> Result<(), DmError> {
        let flags = match when {
            Remove::Now => 0,
            Remove::WhenClosed => DEFERRED,
        };
        self.call("remove", DEV_REMOVE, &key.header(flags)?, &[])?;
        Ok(())
    }

    /// Gives a device the table that its next resume takes.
    ///
    /// # Errors
    /// [`DmError::Absent`], [`DmError::Invalid`], or another refusal.
    pub fn load(&self, key: Key<'_>, table: &[Table], read_only: bool) -> Result<(), DmError> {
        let call = Header {
            target_count: u32::try_from(table.len()).unwrap_or(u32::MAX),
            ..key.header(if read_only { READONLY } else { 0 })?
        };
        let data = wire::write_table(table)?;
        self.call("load a table into", TABLE_LOAD, &call, &data)?;
        Ok(())
    }

    /// Stops a device's requests; they wait. This blocks for as long as those that are on their
    /// way take.
    ///
    /// # Errors
    /// [`DmError::Absent`] or another refusal.
    pub fn suspend(&self, key: Key<'_>, how: Suspend) -> Result<(), DmError> {
        let how = match how {
            Suspend::Flushed => 0,
            Suspend::NoFreeze => NO_LOCK_FS,
            Suspend::NoFlush => NO_LOCK_FS | NO_FLUSH,
        };
        self.call("suspend", DEV_SUSPEND, &key.header(SUSPENDED | how)?, &[])?;
        Ok(())
    }

    /// Takes the loaded table, if there is one, and lets requests go on.
    ///
    /// # Errors
    /// [`DmError::Absent`] or another refusal.
    pub fn resume(&self, key: Key<'_>) -> Result<Info, DmError> {
        self.call("resume", DEV_SUSPEND, &key.header(0)?, &[])
            .map(|answer| answer.info())
    }

    /// Takes the loaded table at once: the device is suspended, without freezing what is on it and
    /// without waiting for what waits for room, gets the table and goes on, all in one call. So nobody who dies
    /// on the way leaves it suspended.
    ///
    /// # Errors
    /// [`DmError::Absent`] or another refusal. If the table's targets refuse it, the device is left
    /// suspended with it.
    pub fn swap(&self, key: Key<'_>) -> Result<Info, DmError> {
        let header = key.header(NO_LOCK_FS | NO_FLUSH)?;
        self.call("change the table of", DEV_SUSPEND, &header, &[])
            .map(|answer| answer.info())
    }

    /// From now on polling the control device tells that some device, ours or another, has had
    /// an event since.
    ///
    /// # Errors
    /// When the kernel refuses: before 4.14 it cannot.
    pub fn arm(&self) -> Result<(), DmError> {
        self.ask("arm", DEV_ARM_POLL).map(drop)
    }

    /// What the kernel says about a device.
    ///
    /// # Errors
    /// [`DmError::Absent`] or another refusal.
    pub fn info(&self, key: Key<'_>) -> Result<Info, DmError> {
        self.call("look at", DEV_STATUS, &key.header(0)?, &[])
            .map(|answer| answer.info())
    }

    /// What the targets of a device say. A thin pool commits its metadata first, and so may
    /// block, unless `no_flush`.
    ///
    /// # Errors
    /// [`DmError::Absent`] or another refusal.
    pub fn status(&self, key: Key<'_>, no_flush: bool) -> Result<(Info, Vec<Table>), DmError> {
        let flags = if no_flush { NO_FLUSH } else { 0 };
        self.lines("ask the state of", key, flags)
    }

    /// What the targets of a device were told.
    ///
    /// # Errors
    /// [`DmError::Absent`] or another refusal.
    pub fn table(&self, key: Key<'_>) -> Result<(Info, Vec<Table>), DmError> {
        self.lines("ask the table of", key, WANT_TABLE)
    }

    /// The devices that a device stands on.
    ///
    /// # Errors
    /// [`DmError::Absent`] or another refusal.
    pub fn deps(&self, key: Key<'_>) -> Result<Vec<Device>, DmError> {
        let answer = self.call("ask the devices below", TABLE_DEPS, &key.header(0)?, &[])?;
        wire::read_deps(answer.data())
    }

    /// Tells a device's target something; its answer, if it gives one.
    ///
    /// # Errors
    /// [`DmError::Absent`], or the target's refusal.
    pub fn message(&self, key: Key<'_>, text: &str) -> Result<Option<String>, DmError> {
        if text.contains('\0') {
            return Err(DmError::Invalid {
                what: format!("the message {text:?}"),
            });
        }
        // The sector that the message is for; all our devices have one target.
        let mut data = vec![0; 8];
        data.extend_from_slice(text.as_bytes());
        data.push(0);
        let answer = self.call("send a message to", TARGET_MSG, &key.header(0)?, &data)?;
        let said = answer.header.flags & DATA_OUT != 0;
        Ok(said.then(|| header::text(answer.data())))
    }

    /// Waits until a device's event count is no longer `event`. Blocks; a signal ends it with
    /// [`DmError::Refused`].
    ///
    /// # Errors
    /// [`DmError::Absent`] or another refusal.
    pub fn wait(&self, key: Key<'_>, event: u32) -> Result<Info, DmError> {
        let call = Header {
            event_nr: event,
            ..key.header(NO_FLUSH)?
        };
        self.call("wait for", DEV_WAIT, &call, &[])
            .map(|answer| answer.info())
    }

    fn lines(
        &self,
        operation: &'static str,
        key: Key<'_>,
        flags: u32,
    ) -> Result<(Info, Vec<Table>), DmError> {
        let answer = self.call(operation, TABLE_STATUS, &key.header(flags)?, &[])?;
        let lines = wire::read_table(answer.data(), answer.header.target_count)?;
        Ok((answer.info(), lines))
    }

    /// A call about no device in particular.
    fn ask(&self, operation: &'static str, number: u8) -> Result<Answer, DmError> {
        self.call(operation, number, &Header::default(), &[])
    }

    fn call(
        &self,
        operation: &'static str,
        number: u8,
        header: &Header,
        data: &[u8],
    ) -> Result<Answer, DmError> {
        call::make(self.0.as_fd(), number, header, data).map_err(|failure| match failure {
            Failure::Refused(errno) => refused(operation, header, errno),
            Failure::TooLarge => DmError::Garbled,
        })
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn refused(operation: &'static str, header: &Header, errno: Errno) -> DmError {
    let key = if header.name.is_empty() {
        header.uuid.clone()
    } else {
        header.name.clone()
    };
    match errno {
        Errno::NXIO => DmError::Absent { key },
        Errno::BUSY if operation == "create" => DmError::Exists { key },
        Errno::BUSY => DmError::Busy { key },
        errno => DmError::Refused {
            operation,
            key,
            source: errno.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_cut_is_refused() {
        assert!(Key::Name(&"n".repeat(127)).header(0).is_ok());
        assert!(Key::Uuid(&"u".repeat(128)).header(0).is_ok());
        for bad in [
            Key::Name(""),
            Key::Uuid(""),
            Key::Name(&"n".repeat(128)),
            Key::Uuid(&"u".repeat(129)),
        ] {
            assert!(
                matches!(bad.header(0), Err(DmError::Invalid { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_device_is_named_by_one_of_both() {
        // The kernel refuses a call that has both.
        let name = Key::Name("a").header(0).unwrap();
        let uuid = Key::Uuid("b").header(0).unwrap();
        assert_eq!((name.name.as_str(), name.uuid.as_str()), ("a", ""));
        assert_eq!((uuid.name.as_str(), uuid.uuid.as_str()), ("", "b"));
    }

    #[test]
    fn refusals_are_told_apart() {
        let header = Key::Uuid("HEARTH-x").header(0).unwrap();
        let said = refused("remove", &header, Errno::BUSY);
        assert!(matches!(said, DmError::Busy { key } if key == "HEARTH-x"));
        assert!(matches!(
            refused("create", &header, Errno::BUSY),
            DmError::Exists { .. }
        ));
        assert!(matches!(
            refused("remove", &header, Errno::NXIO),
            DmError::Absent { .. }
        ));
        assert!(matches!(
            refused("remove", &header, Errno::INVAL),
            DmError::Refused { .. }
        ));
    }
}
