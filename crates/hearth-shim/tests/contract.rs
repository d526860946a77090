//! The drivers' contract, with the real shim: against stand-in processes and real QEMU, as
//! detached processes and, where systemd is the init, in units.

mod common;

use common::Vms;
use hearth_vmm::contract;

macro_rules! promises {
    ($($promise:ident => $with_standin:ident, $with_qemu:ident;)*) => {
        $(
            #[tokio::test]
            async fn $with_standin() {
                contract::$promise(&Vms::standin()).await;
            }

            #[tokio::test]
            async fn $with_qemu() {
                if let Some(vms) = Vms::qemu() {
                    contract::$promise(&vms).await;
                }
            }
        )*

        mod units {
            use super::*;

            $(
                #[tokio::test]
                async fn $with_standin() {
                    if let Some(vms) = Vms::standin().in_units() {
                        contract::$promise(&vms).await;
                    }
                }

                #[tokio::test]
                async fn $with_qemu() {
                    if let Some(vms) = Vms::qemu().and_then(Vms::in_units) {
                        contract::$promise(&vms).await;
                    }
                }
            )*
        }
    };
}

promises! {
    runs_after_launch => standin_runs_after_launch, qemu_runs_after_launch;
    one_vmm_per_vm => standin_one_vmm_per_vm, qemu_one_vmm_per_vm;
    pause_and_resume_are_idempotent => standin_pause_and_resume, qemu_pause_and_resume;
    devices_are_counted => standin_devices_are_counted, qemu_devices_are_counted;
    quit_ends_and_leaves_a_record => standin_quit, qemu_quit;
    kill_needs_proof => standin_kill_needs_proof, qemu_kill_needs_proof;
    death_is_noticed => standin_death_is_noticed, qemu_death_is_noticed;
    failed_launches_leave_nothing => standin_failed_launches, qemu_failed_launches;
    consoles_are_served => standin_consoles, qemu_consoles;
    guests_report => standin_guests_report, qemu_guests_report;
}
