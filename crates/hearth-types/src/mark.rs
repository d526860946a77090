//! The owner mark: how Hearth tells its own objects on the host from everybody else's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{InstallationId, InvalidId, VmId};

/// The environment variable that carries the mark of a VMM process and its helpers.
pub const OWNER_ENV: &str = "HEARTH_OWNER";

/// What Hearth acts for: one VM, or the installation as a whole (bridge, name server).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// An object of one VM.
    Vm(VmId),
    /// An object that all VMs share.
    Shared,
}

/// Says whose an object on the host is: `<installation>:<vm>` or `<installation>:shared`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OwnerMark {
    /// Which installation made the object.
    pub installation: InstallationId,
    /// For whom.
    pub owner: Owner,
}

impl OwnerMark {
    /// The mark of an object that belongs to one VM.
    #[must_use]
    pub const fn of_vm(installation: InstallationId, vm: VmId) -> Self {
        Self {
            installation,
            owner: Owner::Vm(vm),
        }
    }

    /// The mark of an object that all VMs of an installation share.
    #[must_use]
    pub const fn shared(installation: InstallationId) -> Self {
        Self {
            installation,
            owner: Owner::Shared,
        }
    }

    /// The VM, if the object belongs to one.
    #[must_use]
    pub const fn vm(&self) -> Option<VmId> {
        match self.owner {
            Owner::Vm(vm) => Some(vm),
            Owner::Shared => None,
        }
    }

    /// The alias of a network interface: `hearth:<installation>:<vm>`.
    ///
    /// 80 characters at most; the kernel's `IFALIASZ` is 256.
    #[must_use]
    pub fn interface_alias(&self) -> String {
        format!("hearth:{self}")
    }

    /// Reads an interface alias; `None` for anything that is not a mark.
    #[must_use]
    pub fn from_interface_alias(alias: &str) -> Option<Self> {
        alias.strip_prefix("hearth:")?.parse().ok()
    }
}

impl fmt::Display for OwnerMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            Owner::Vm(vm) => write!(f, "{}:{vm}", self.installation),
            Owner::Shared => write!(f, "{}:shared", self.installation),
        }
    }
}

impl FromStr for OwnerMark {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "owner mark",
            value: text.to_owned(),
            expected: "<installation uuid>:<vm uuid> or <installation uuid>:shared",
        };
        let (installation, owner) = text.split_once(':').ok_or_else(invalid)?;
        let installation = installation.parse().map_err(|_| invalid())?;
        let owner = match owner {
            "shared" => Owner::Shared,
            vm => Owner::Vm(vm.parse().map_err(|_| invalid())?),
        };
        Ok(Self {
            installation,
            owner,
        })
    }
}

impl TryFrom<String> for OwnerMark {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<OwnerMark> for String {
    fn from(mark: OwnerMark) -> Self {
        mark.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_read_back_and_others_are_not_ours() {
        let mark = OwnerMark::of_vm(InstallationId::new(), VmId::new());
        assert_eq!(
            OwnerMark::from_interface_alias(&mark.interface_alias()),
            Some(mark)
        );
        for foreign in [
            "",
            "hearth",
            "hearth:",
            "hearth:x:y",
            "my tap",
            &mark.to_string(),
        ] {
            assert_eq!(
                OwnerMark::from_interface_alias(foreign),
                None,
                "{foreign:?}"
            );
        }
    }
}
