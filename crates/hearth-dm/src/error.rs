//! How calls fail.

/// How a call failed.
#[derive(Debug, thiserror::Error)]
pub enum DmError {
    /// This kernel has no device-mapper, or it may not be used from here.
    #[error("the kernel's device-mapper (/dev/mapper/control) cannot be used")]
    NotHere(#[source] std::io::Error),
    /// There is no such device.
    #[error("there is no device {key}")]
    Absent {
        /// Its name or uuid.
        key: String,
    },
    /// A device has this name or uuid already.
    #[error("there is a device {key} already")]
    Exists {
        /// Its name.
        key: String,
    },
    /// The device is open: mounted, used by another device, or just looked at.
    #[error("the device {key} is in use")]
    Busy {
        /// Its name or uuid.
        key: String,
    },
    /// What was asked for cannot be said to the kernel.
    #[error("{what} cannot be given to the device-mapper")]
    Invalid {
        /// What it is.
        what: String,
    },
    /// The kernel's answer cannot be understood.
    #[error("the device-mapper's answer cannot be understood")]
    Garbled,
    /// The kernel refused. Its log has the reason more often than the errno.
    #[error("cannot {operation} the device {key}; the kernel's log may say why")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// Its name or uuid.
        key: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
