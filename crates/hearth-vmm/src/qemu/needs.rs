//! What QEMU takes of the host beside its guest's memory: the unit's limits are made of it.

use hearth_types::units::Bytes;

use super::args::{Accelerator, CODE_BUFFER_MIB};
use crate::LaunchSpec;
use crate::launch::Needs;

/// QEMU itself: 35 MiB of it was counted at the peak of a boot with two devices under KVM
/// (QEMU 7.2, `memory.peak`), the same again for requests in flight and the shim, and the
/// rest so that the page cache of its disks is not thrown away at each turn.
const OVERHEAD_BASE: Bytes = Bytes::mib(128);
/// Of a vCPU under KVM: 1 MiB was counted; KubeVirt, which counted on busier guests, allows
/// as much as this.
const OVERHEAD_VCPU: Bytes = Bytes::mib(8);
/// Of an emulated vCPU: its software TLB grows with what the guest touches.
const OVERHEAD_EMULATED_VCPU: Bytes = Bytes::mib(64);
/// Page tables: 8 bytes for each 4 KiB of guest memory in the process and as much in KVM.
/// 2.1 MiB per GiB was counted, with huge pages in KVM.
const OVERHEAD_MEMORY_SHARE: u64 = 256;
/// Threads beside the vCPUs: the main loop, RCU, and 64 that read and write disks.
const THREADS: u32 = 128;

/// What QEMU needs of the host.
pub(super) fn needs(spec: &LaunchSpec, accelerator: &Accelerator) -> Needs {
    let kvm = matches!(accelerator, Accelerator::Kvm { .. });
    Needs {
        devices: if kvm { vec!["/dev/kvm"] } else { Vec::new() },
        makes_code: !kvm,
        overhead: overhead(spec.vcpus, spec.memory, kvm),
        threads: THREADS,
    }
}

fn overhead(vcpus: u32, memory: Bytes, kvm: bool) -> Bytes {
    let (vcpu, code) = if kvm {
        (OVERHEAD_VCPU, Bytes(0))
    } else {
        (OVERHEAD_EMULATED_VCPU, Bytes::mib(CODE_BUFFER_MIB))
    };
    let vcpus = u64::from(vcpus) * vcpu.0;
    Bytes(OVERHEAD_BASE.0 + code.0 + vcpus + memory.0 / OVERHEAD_MEMORY_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_grows_with_the_vm() {
        for (vcpus, memory, kvm, expected) in [
            (1, 256, true, 128 + 8 + 1),
            (4, 16 << 10, true, 128 + 32 + 64),
            (2, 512, false, 128 + 256 + 128 + 2),
        ] {
            assert_eq!(
                overhead(vcpus, Bytes::mib(memory), kvm),
                Bytes::mib(expected)
            );
        }
    }
}
