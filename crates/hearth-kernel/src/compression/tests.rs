use proptest::prelude::*;

use super::*;
use crate::testkit::{ALL, compress};

const WHAT: &str = "test";

#[test]
fn each_compression_is_detected_and_expanded() {
    let data: Vec<u8> = (0..20_000_000u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .take(9 << 20)
        .collect();
    for compression in ALL {
        let packed = compress(compression, &data);
        assert_eq!(
            Compression::detect(&packed, WHAT).unwrap(),
            Some(compression)
        );
        let limit = data.len() as u64;
        assert!(
            expand(compression, &packed, limit, WHAT).unwrap() == data,
            "{compression:?}"
        );
        assert!(
            matches!(
                expand(compression, &packed, limit - 1, WHAT),
                Err(FormatError::TooBig { .. })
            ),
            "{compression:?}"
        );
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let zeros = vec![0; 64 << 20];
    for compression in ALL {
        let bomb = compress(compression, &zeros);
        let error = expand(compression, &bomb, 1 << 20, WHAT).unwrap_err();
        assert!(matches!(error, FormatError::TooBig { limit, .. } if limit == 1 << 20));
    }
}

#[test]
fn other_compressions_are_refused_by_name() {
    for (bytes, name) in [
        (&b"BZh91AY"[..], "bzip2"),
        (&[0x5d, 0, 0, 0x80][..], "lzma"),
        (&[0x89, b'L', b'Z', b'O', 0][..], "lzo"),
    ] {
        let error = Compression::detect(bytes, WHAT).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(Compression::detect(b"plain", WHAT).unwrap(), None);
    assert_eq!(Compression::detect(b"", WHAT).unwrap(), None);
}

#[test]
fn cut_off_data_is_an_error() {
    let data: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    for compression in ALL {
        let packed = compress(compression, &data);
        let cut = &packed[..packed.len() / 2];
        assert!(
            expand(compression, cut, 1 << 30, WHAT).is_err(),
            "{compression:?}"
        );
    }
}

proptest! {
    #[test]
    fn damage_never_panics_and_never_passes_the_limit(
        which in 0..ALL.len(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let data: Vec<u8> = (0..5_000u32).flat_map(u32::to_le_bytes).collect();
        let mut packed = compress(ALL[which], &data);
        let at = at.index(packed.len());
        packed[at] = value;
        packed.truncate(cut.index(packed.len() + 1));
        let limit = 100_000;
        if let Ok(out) = expand(ALL[which], &packed, limit, WHAT) {
            prop_assert!(out.len() as u64 <= limit);
        }
    }
}
