//! Power cuts between any two steps of making, snapshotting and deleting.

use std::collections::{BTreeMap, BTreeSet};

use hearth_pool::thin::Wanted;
use hearth_types::thin::{ThinKind, ThinState};
use hearth_types::units::MIB;
use proptest::prelude::*;

use super::world::World;

#[derive(Debug, Clone)]
enum Order {
    Make(u8),
    Snapshot { of: u8, as_: u8 },
    Remove(u8),
    Restart,
    Compare,
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        3 => (0..4u8).prop_map(Order::Make),
        3 => (0..4u8, 4..8u8).prop_map(|(of, as_)| Order::Snapshot { of, as_ }),
        2 => (0..8u8).prop_map(Order::Remove),
        1 => Just(Order::Restart),
        1 => Just(Order::Compare),
    ]
}

fn wanted(name: u8, origin: Option<u32>) -> Wanted {
    Wanted {
        name: format!("v{name}"),
        kind: ThinKind::Data,
        bytes: MIB,
        origin,
    }
}

/// Carries an order out. True if it was done, as far as its giver is told.
async fn follow(world: &mut World, order: &Order) -> bool {
    match order {
        Order::Make(name) => match world.thins.make(&wanted(*name, None)).await {
            Ok(made) => world.thins.filled(made).await.is_ok(),
            Err(_) => false,
        },
        Order::Snapshot { of, as_ } => {
            let Ok(Some(origin)) = world.thins.find(&format!("v{of}")).await else {
                return false;
            };
            if world.thins.activate(&origin).await.is_err() {
                return false;
            }
            world
                .thins
                .make(&wanted(*as_, Some(origin.id)))
                .await
                .is_ok()
        }
        Order::Remove(name) => {
            let name = format!("v{name}");
            world.thins.remove(|it| it.name == name).await.is_ok()
        }
        Order::Restart => {
            world.restart();
            true
        }
        Order::Compare => world.thins.compare().await.is_ok(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn no_id_is_used_twice_and_nothing_differs_unnamed(
        life in prop::collection::vec((order(), prop::option::of((0..14u32, any::<bool>()))), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(life))?;
    }
}

async fn live(life: Vec<(Order, Option<(u32, bool)>)>) -> Result<(), TestCaseError> {
    let mut world = World::up().await;
    // Whose an id was: it is never anybody else's while the pool may have it.
    let mut owners: BTreeMap<u32, String> = BTreeMap::new();
    let mut there: BTreeSet<String> = BTreeSet::new();
    for (order, cut) in life {
        if let Some((call, after)) = cut {
            world.ground.cut_at(call, after);
        }
        let done = follow(&mut world, &order).await;
        match (&order, done) {
            (Order::Make(name) | Order::Snapshot { as_: name, .. }, true) => {
                there.insert(format!("v{name}"));
            }
            (Order::Remove(name), _) => {
                there.remove(&format!("v{name}"));
            }
            _ => {}
        }
        if cut.is_some() {
            world.reboot();
            world.thins.up().await.unwrap();
            let found = world.thins.compare().await.unwrap();
            // A cut loses nothing, and makes nothing that nobody knows.
            prop_assert!(
                found.iter().all(|it| it.repaired && it.kind == "unsettled"),
                "{found:?}"
            );
            let again = world.thins.compare().await.unwrap();
            prop_assert!(again.is_empty(), "{again:?}");
        }
        let ledger = world.thins.devices().await.unwrap();
        for device in &ledger {
            let owner = owners
                .entry(device.id)
                .or_insert_with(|| device.name.clone());
            prop_assert_eq!(&*owner, &device.name, "id {} is another one's", device.id);
        }
        let named: BTreeSet<String> = ledger
            .iter()
            .filter(|it| matches!(it.state, ThinState::Ready | ThinState::Filling))
            .map(|it| it.name.clone())
            .collect();
        // What was told to be done is there.
        prop_assert!(there.is_subset(&named), "{:?} of {:?}", there, named);
    }
    let ids: Vec<u32> = world
        .thins
        .devices()
        .await
        .unwrap()
        .iter()
        .map(|it| it.id)
        .collect();
    prop_assert_eq!(world.ground.thin_ids(), ids);
    Ok(())
}
