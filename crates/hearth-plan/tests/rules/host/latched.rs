//! Whatever happens to the VMs, the breaker of the host keeps its word.

use super::*;

/// What happens between two passes.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Fails(u8, usize),
    Runs(u8),
    Ends(u8, bool),
    Made,
    Removed(u8),
    Hand(bool),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (1_u8..=10, 0_usize..6).prop_map(|(n, cause)| Deed::Fails(n, cause)),
        2 => (1_u8..=10).prop_map(Deed::Runs),
        2 => (1_u8..=10, any::<bool>()).prop_map(|(n, crashed)| Deed::Ends(n, crashed)),
        1 => Just(Deed::Made),
        1 => (1_u8..=10).prop_map(Deed::Removed),
        1 => any::<bool>().prop_map(Deed::Hand),
    ]
}

fn position(world: &World, n: u8) -> Option<u8> {
    let found = world.vms.iter().position(|vm| vm.id == vm_id(n))?;
    u8::try_from(found + 1).ok()
}

fn happens(world: &mut World, deed: Deed, now: i64) {
    let alive = |world: &World, n: u8| world.vms[usize::from(n) - 1].status.vmm.is_some();
    match deed {
        Deed::Fails(n, cause) => {
            if let Some(n) = position(world, n).filter(|n| !alive(world, *n)) {
                fails(world, n, Cause::SHARED[cause], now);
            }
        }
        Deed::Runs(n) => {
            if let Some(n) = position(world, n).filter(|n| !alive(world, *n)) {
                runs(world, n, now);
            }
        }
        Deed::Ends(n, crashed) => {
            let class = if crashed {
                EndClass::VmmCrashed
            } else {
                EndClass::Clean
            };
            if let Some(n) = position(world, n).filter(|n| alive(world, *n)) {
                ends(world, n, class, now);
            }
        }
        Deed::Made => {
            let free = |n: &u8| world.vms.iter().all(|vm| vm.id != vm_id(*n));
            let n = (100..=u8::MAX).find(free).unwrap();
            let mut vm = host_of(1).vms.remove(0);
            vm.id = vm_id(n);
            vm.spec.name = format!("new-{n}").parse().unwrap();
            dirs(world).push(dir(vm.id));
            world.vms.push(vm);
        }
        Deed::Removed(n) => {
            if let Some(n) = position(world, n).filter(|n| !alive(world, *n)) {
                world.vms.remove(usize::from(n) - 1);
            }
        }
        Deed::Hand(maintenance) => {
            let stance = &mut world.policy.stance;
            stance.by_breaker = false;
            stance.mode = if maintenance {
                Mode::Maintenance
            } else {
                Mode::Normal
            };
        }
    }
}

/// As the daemon does: the breaker asks for its mode unless a person set one.
fn mode_follows(world: &mut World, open: bool) {
    let stance = &mut world.policy.stance;
    if stance.mode == Mode::Maintenance && !stance.by_breaker {
        return;
    }
    stance.by_breaker = open;
    stance.mode = if open {
        Mode::Maintenance
    } else {
        Mode::Normal
    };
}

proptest! {
    /// Whatever happens: while it is open at most one VM is started automatically, it neither
    /// closes nor changes by what is made or removed before its cool-down is over, and
    /// when nothing fails any more it is closed within its longest wait, in the mode that it asked for.
    #[test]
    fn it_is_latched_restrains_and_never_locks_itself_up(
        deeds in prop::collection::vec((deed(), 0_i64..40), 0..60),
    ) {
        let mut world = host_of(10);
        world.policy.breaker.failures = 0;
        let mut now = 0;
        let mut until = None;
        for (deed, later) in deeds {
            now += later;
            happens(&mut world, deed, now);
            let plan = pass(&mut world, now);
            let open = plan.host_breaker.as_ref();
            let ran = matches!(deed, Deed::Runs(_) | Deed::Ends(..)) || world.vms.iter().any(|vm| vm.status.vmm.is_some());
            if let Some(until) = until && !ran && at(now) < until {
                prop_assert!(open.is_some(), "closed before {until} by {deed:?}");
            }
            if let Some(open) = open {
                prop_assert!(starts(&plan).len() <= 1);
                let longest = world.policy.host_breaker.cooldown_max;
                prop_assert!(open.until <= at(now) + longest);
            }
            until = open.map(|open| open.until);
            let open = open.is_some();
            mode_follows(&mut world, open);
        }
        if world.policy.stance.mode == Mode::Maintenance && !world.policy.stance.by_breaker {
            return Ok(());
        }
        // All is well from here on: each VM that is started runs.
        let end = now + 900 + 300 + 60;
        while now < end {
            let plan = pass(&mut world, now);
            let open = plan.host_breaker.is_some();
            mode_follows(&mut world, open);
            for vm in starts(&plan) {
                let n = world.vms.iter().position(|known| known.id == vm).unwrap();
                runs(&mut world, u8::try_from(n + 1).unwrap(), now);
            }
            now += 5;
        }
        let plan = pass(&mut world, now);
        prop_assert_eq!(plan.host_breaker, None);
        let all = world.vms.iter().all(|vm| vm.status.vmm.is_some());
        prop_assert!(all, "all that wait have come back");
    }
}
