//! Crash dumps: what is kept of a VM that crashed, where its user asks for it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DriverChoice, FieldError, VmSpec};
use crate::units::{Bytes, GIB, MIB};

/// The most dumps that are kept of one VM.
pub const KEEP_MAX: u32 = 20;
/// The least that a dump may take.
const SIZE_MIN: Bytes = Bytes(MIB);

/// Which crash dumps are kept of a VM. None unless asked: a dump holds what was in memory, passwords and keys
/// included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CrashDump {
    /// The core of the VMM when a signal ends it. Where the kernel writes it is said by the host's
    /// `kernel.core_pattern`, which Hearth does not touch; one that an absolute path of it leaves is taken
    /// into the VM's folder.
    pub vmm_core: bool,
    /// The guest's memory when its kernel panics, and whenever it is asked for. QEMU only.
    pub guest_memory: bool,
    /// The largest dump that is kept.
    pub max_size: Bytes,
    /// How many dumps of the guest's memory are kept, and how many cores, the newest; 1 to 20.
    pub keep: u32,
}

impl Default for CrashDump {
    fn default() -> Self {
        Self {
            vmm_core: false,
            guest_memory: false,
            max_size: Bytes(4 * GIB),
            keep: 2,
        }
    }
}

impl CrashDump {
    /// Nobody asked for any.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The largest core that the VMM may leave.
    #[must_use]
    pub fn core_bytes(&self) -> Option<u64> {
        self.vmm_core.then_some(self.max_size.0)
    }

    pub(super) fn check(&self, spec: &VmSpec, errors: &mut Vec<FieldError>) {
        if self.guest_memory && spec.driver == DriverChoice::Firecracker {
            errors.push(FieldError::new(
                "crash_dump.guest_memory",
                "Firecracker cannot dump a guest's memory; leave it out or choose the driver qemu",
            ));
        }
        if self.max_size < SIZE_MIN {
            let size = self.max_size;
            let message = format!("is {size}, must be {SIZE_MIN} or more");
            errors.push(FieldError::new("crash_dump.max_size", message));
        }
        if !(1..=KEEP_MAX).contains(&self.keep) {
            let message = format!("is {}, must be 1 to {KEEP_MAX}", self.keep);
            errors.push(FieldError::new("crash_dump.keep", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> VmSpec {
        let mut spec = VmSpec::new("web".parse().unwrap(), "demo:1");
        spec.crash_dump = serde_json::from_value(json).unwrap();
        spec
    }

    #[test]
    fn nothing_is_kept_unless_asked() {
        let plain = spec(serde_json::json!({}));
        assert!(plain.crash_dump.is_default());
        assert!(!plain.crash_dump.vmm_core && !plain.crash_dump.guest_memory);
        let text = serde_json::to_string(&plain).unwrap();
        assert!(!text.contains("crash_dump"), "{text}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let paths = |spec: &VmSpec| -> Vec<String> {
            let errors = spec.check();
            errors.into_iter().map(|error| error.path).collect()
        };
        let mut asked = spec(serde_json::json!({ "guest_memory": true, "max_size": "1GiB" }));
        assert_eq!(paths(&asked), Vec::<String>::new());
        asked.driver = DriverChoice::Firecracker;
        assert_eq!(paths(&asked), ["crash_dump.guest_memory"]);
        let wrong = spec(serde_json::json!({ "max_size": "1KiB", "keep": 0 }));
        assert_eq!(paths(&wrong), ["crash_dump.max_size", "crash_dump.keep"]);
        assert!(serde_json::from_value::<CrashDump>(serde_json::json!({ "core": 1 })).is_err());
    }
}
