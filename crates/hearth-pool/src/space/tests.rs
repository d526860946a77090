use hearth_types::units::{GIB, MIB, TIB};
use proptest::prelude::*;

use super::*;

const BLOCK: u64 = 64 << 10;

fn files(free: u64, allotted: u64) -> Room {
    Room::Files {
        free,
        total: TIB,
        allotted,
    }
}

fn readings(used: u64, size: u64) -> Readings {
    Readings {
        data: Fill { used, size },
        metadata: Fill {
            used: MIB,
            size: 16 * MIB,
        },
        block: BLOCK,
        room: files(500 * GIB, used),
        provisioned: 0,
    }
}

#[test]
fn a_pool_with_enough_is_left_alone() {
    let limits = Limits::default();
    let plenty = readings(GIB, 2 * GIB);
    assert_eq!(plenty.growth(&limits), None);
    assert_eq!(plenty.tight(&limits, false), None);
    plenty.admit(&limits, GIB).unwrap();
}

#[test]
fn at_low_water_it_gets_half_as_much_again_and_its_metadata_follows() {
    let limits = Limits::default();
    let low = readings(1900 * MIB, 2 * GIB);
    let to = low.growth(&limits).unwrap();
    assert_eq!((to.data, to.metadata), (3 * GIB, 16 * MIB));
    let large = readings(195 * GIB, 200 * GIB);
    let to = large.growth(&limits).unwrap();
    assert_eq!(to.data, 300 * GIB);
    // 192 bytes for each block of 64 KiB.
    assert_eq!(to.metadata, 900 * MIB);
}

#[test]
fn metadata_grows_alone_when_it_alone_is_low() {
    let low = Readings {
        metadata: Fill {
            used: 13 * MIB,
            size: 16 * MIB,
        },
        ..readings(GIB, 2 * GIB)
    };
    let to = low.growth(&Limits::default()).unwrap();
    assert_eq!((to.data, to.metadata), (2 * GIB, 32 * MIB));
}

#[test]
fn what_bounds_it_is_said() {
    let low = readings(1900 * MIB, 2 * GIB);
    for (limits, room, most, bound) in [
        (
            Limits {
                most: Some(2 * GIB + 512 * MIB),
                ..Limits::default()
            },
            low.room,
            2 * GIB + 512 * MIB,
            Bound::Config,
        ),
        (
            Limits {
                grow: false,
                ..Limits::default()
            },
            low.room,
            2 * GIB,
            Bound::Off,
        ),
        // 10 GiB of a large file system are kept back.
        (
            Limits::default(),
            files(11 * GIB, 1900 * MIB),
            1900 * MIB + GIB,
            Bound::Host,
        ),
        (
            Limits::default(),
            Room::Device {
                size: 2 * GIB,
                metadata: 16 * MIB,
            },
            2 * GIB,
            Bound::Device,
        ),
    ] {
        let low = Readings { room, ..low };
        assert_eq!(low.most_data(&limits), (most, bound));
        let grown = low.growth(&limits).map(|to| to.data);
        assert_eq!(grown, (most > 2 * GIB).then_some(most));
    }
}

#[test]
fn it_is_not_grown_by_crumbs() {
    let low = Readings {
        room: files(10 * GIB + 150 * MIB + BLOCK, 1900 * MIB),
        ..readings(1900 * MIB, 2 * GIB)
    };
    assert!(low.most_data(&Limits::default()).0 > low.data.size);
    assert_eq!(low.growth(&Limits::default()), None);
}

#[test]
fn before_it_runs_out_vms_pause_and_go_on_with_more_room_than_they_stopped_at() {
    let limits = Limits::default();
    let at = |free: u64| Readings {
        room: files(10 * GIB, 2 * GIB - free),
        ..readings(2 * GIB - free, 2 * GIB)
    };
    // A twentieth of it: 102.4 MiB.
    assert_eq!(at(103 * MIB).tight(&limits, false), None);
    let why = at(102 * MIB).tight(&limits, false).unwrap();
    assert!(why.contains("102 MiB are left"), "{why}");
    assert!(at(150 * MIB).tight(&limits, true).is_some());
    assert_eq!(at(205 * MIB).tight(&limits, true), None);
    // The file cannot get what the pool promises.
    let host = Readings {
        room: files(50 * MIB, GIB),
        ..readings(GIB, 2 * GIB)
    };
    assert_eq!(host.writable(), 50 * MIB);
    assert!(host.data_is_low(), "it is looked at more often");
    assert!(host.tight(&limits, false).is_some());
    // It can grow: nobody has to wait.
    let grows = readings(2 * GIB - MIB, 2 * GIB);
    assert_eq!(grows.tight(&limits, false), None);
}

#[test]
fn metadata_that_runs_out_is_as_bad() {
    let limits = Limits::default();
    let full = Readings {
        metadata: Fill {
            used: 960,
            size: 1000,
        },
        room: files(0, GIB),
        ..readings(MIB, 2 * GIB)
    };
    let why = full.tight(&limits, false).unwrap();
    // Its file cannot get more either, which comes first.
    assert!(why.contains("left") || why.contains("metadata"), "{why}");
    let device = Readings {
        room: Room::Device {
            size: 2 * GIB,
            metadata: 1000,
        },
        ..full
    };
    let why = device.tight(&limits, false).unwrap();
    assert!(why.contains("96 % of the pool's metadata"), "{why}");
}

#[test]
fn nothing_new_near_the_end() {
    let limits = Limits::default();
    let device = |data: u64, metadata: u64, provisioned: u64| Readings {
        data: Fill {
            used: data,
            size: 100 * GIB,
        },
        metadata: Fill {
            used: metadata,
            size: 100 * MIB,
        },
        room: Room::Device {
            size: 100 * GIB,
            metadata: 100 * MIB,
        },
        block: BLOCK,
        provisioned,
    };
    device(95 * GIB, 80 * MIB, 0).admit(&limits, 1).unwrap();
    let data = device(96 * GIB, 0, 0).admit(&limits, 1).unwrap_err();
    let said = data.to_string();
    assert!(
        matches!(data, PoolError::Tight { what: "data", .. })
            && said.contains("96 %")
            && said.contains("95 %"),
        "{said}"
    );
    let metadata = device(0, 81 * MIB, 0).admit(&limits, 1).unwrap_err();
    assert!(
        matches!(
            metadata,
            PoolError::Tight {
                what: "metadata",
                ..
            }
        ),
        "{metadata}"
    );
    // Ten times the data is the most.
    device(0, 0, 990 * GIB).admit(&limits, 10 * GIB).unwrap();
    let over = device(0, 0, 990 * GIB).admit(&limits, 10 * GIB + 1);
    assert!(
        matches!(over, Err(PoolError::Overcommitted { times: 10, .. })),
        "{over:?}"
    );
    let any = Limits {
        overcommit: 0,
        ..limits
    };
    device(0, 0, u64::MAX).admit(&any, u64::MAX).unwrap();
    assert_eq!(device(0, 0, 250 * GIB).overcommit(&limits), 250);
}

fn any_readings() -> impl Strategy<Value = Readings> {
    let room = prop_oneof![
        (0..4 * TIB, 0..4 * TIB, 0..4 * TIB).prop_map(|(free, total, allotted)| Room::Files {
            free: free.min(total),
            total,
            allotted
        }),
        (0..4 * TIB, 0..20 * GIB).prop_map(|(size, metadata)| Room::Device { size, metadata }),
    ];
    (
        (1..1_u64 << 25, 0..=1000_u64),
        (1..1_u64 << 22, 0..=1000_u64),
        room,
        0..u64::MAX,
    )
        .prop_map(
            |((data, used), (metadata, full), room, provisioned)| Readings {
                data: Fill {
                    used: data * used / 1000 * BLOCK,
                    size: data * BLOCK,
                },
                metadata: Fill {
                    used: metadata * full / 1000 * 4096,
                    size: metadata * 4096,
                },
                block: BLOCK,
                room,
                provisioned,
            },
        )
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (any::<bool>(), prop::option::of(0..8 * TIB), 0..20_u32).prop_map(|(grow, most, overcommit)| {
        Limits {
            grow,
            most,
            overcommit,
            ..Limits::default()
        }
    })
}

proptest! {
    #[test]
    fn it_grows_within_bounds_and_never_shrinks(readings in any_readings(), limits in any_limits()) {
        let (most, _) = readings.most_data(&limits);
        prop_assert!(most >= readings.data.size);
        if let Some(to) = readings.growth(&limits) {
            prop_assert!(to.data >= readings.data.size && to.metadata >= readings.metadata.size);
            prop_assert!(to.data > readings.data.size || to.metadata > readings.metadata.size);
            prop_assert!(to.data <= most && to.data % BLOCK == 0 && to.metadata % 4096 == 0);
            prop_assert!(to.metadata <= readings.most_metadata(&limits).0);
            prop_assert!(limits.grow);
        }
    }

    #[test]
    fn who_waits_does_not_go_on_into_the_same_trouble(readings in any_readings(), limits in any_limits()) {
        // What stops VMs also keeps them stopped: no flapping between the two marks.
        if readings.tight(&limits, false).is_some() {
            prop_assert!(readings.tight(&limits, true).is_some());
            prop_assert!(readings.admit(&limits, 1).is_err());
        }
    }
}
