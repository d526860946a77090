use proptest::prelude::*;

use super::*;

fn frame(session: u64, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    assert!(encode(&mut out, FrameKind::Data, (session, 3, 1), payload));
    out
}

fn drain(decoder: &mut Decoder) -> Vec<Bytes> {
    std::iter::from_fn(|| decoder.next_frame())
        .map(|frame| frame.payload)
        .collect()
}

#[test]
fn a_payload_beyond_the_limit_is_refused() {
    let mut out = BytesMut::new();
    let ok = encode(
        &mut out,
        FrameKind::Data,
        (1, 1, 0),
        &vec![0; MAX_PAYLOAD + 1],
    );
    assert!(!ok);
    assert!(out.is_empty());
}

#[test]
fn frames_of_another_session_are_garbage() {
    let mut decoder = Decoder::new(Accept::Session(7));
    decoder.push(&frame(8, b"old"));
    decoder.push(&frame(7, b"new"));
    assert_eq!(drain(&mut decoder), vec![Bytes::from_static(b"new")]);
    assert_eq!(decoder.skipped(), 35);
}

#[test]
fn padding_ends_the_wait_for_a_cut_payload() {
    let mut decoder = Decoder::new(Accept::Session(7));
    let long = frame(7, &vec![9; MAX_PAYLOAD]);
    decoder.push(&long[..100]);
    decoder.push(&frame(7, b"after"));
    assert!(decoder.next_frame().is_none());
    decoder.push(&flush_padding());
    assert_eq!(drain(&mut decoder), vec![Bytes::from_static(b"after")]);
}

#[test]
fn a_flipped_bit_anywhere_loses_that_frame_alone() {
    let good = frame(7, b"payload");
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut decoder = Decoder::new(Accept::Session(7));
        decoder.push(&bad);
        decoder.push(&good);
        decoder.push(&flush_padding());
        assert_eq!(
            drain(&mut decoder),
            vec![Bytes::from_static(b"payload")],
            "bit {bit}"
        );
    }
}

/// Headers in a row, each of which says that the 64 KiB after it are its payload.
fn overlapping(count: usize) -> Vec<u8> {
    let mut whole = frame(7, &vec![9; MAX_PAYLOAD]);
    whole.truncate(HEADER_LEN);
    whole.repeat(count)
}

#[test]
fn payloads_are_not_summed_up_in_vain_for_ever() {
    let mut decoder = Decoder::new(Accept::Session(7));
    // 2,048 of them lie in one payload: summed up all, they would be 128 MiB.
    decoder.push(&overlapping(2 * MAX_PAYLOAD / HEADER_LEN));
    assert_eq!(drain(&mut decoder), Vec::<Bytes>::new());
    assert!(decoder.is_hopeless());
    let most = usize::try_from(WASTE_MAX).unwrap() / MAX_PAYLOAD + 1;
    assert!(decoder.skipped() <= (most * HEADER_LEN) as u64);
    // A guest has nobody else: it goes on looking.
    let mut guest = Decoder::new(Accept::SessionOrHello(7));
    guest.push(&overlapping(MAX_PAYLOAD / HEADER_LEN + 100));
    guest.push(&frame(7, b"after"));
    guest.push(&flush_padding());
    assert_eq!(drain(&mut guest), vec![Bytes::from_static(b"after")]);
    assert!(!guest.is_hopeless());
}

#[test]
fn who_says_as_much_as_it_babbles_is_heard() {
    let noise = vec![0xF5; MAX_PAYLOAD];
    let good = frame(7, &vec![9; MAX_PAYLOAD]);
    let mut decoder = Decoder::new(Accept::Session(7));
    for _ in 0..200 {
        decoder.push(&noise);
        decoder.push(&good);
        assert_eq!(drain(&mut decoder).len(), 1);
    }
    assert!(!decoder.is_hopeless());
    for _ in 0..65 {
        decoder.push(&noise);
        assert_eq!(drain(&mut decoder).len(), 0);
    }
    assert!(decoder.is_hopeless());
}

proptest! {
    /// However the bytes are cut into reads, and whatever noise lies between frames:
    /// all frames arrive, in order, and little is kept.
    #[test]
    fn chunking_and_garbage_do_not_matter(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
        noise in prop::collection::vec(prop::collection::vec(
            prop_oneof![any::<u8>(), Just(0xF5), Just(b'H'), Just(0xA1), Just(0x9C)], 0..40), 20),
        chunks in prop::collection::vec(1_usize..500, 1..50),
    ) {
        let mut wire = BytesMut::new();
        for (payload, noise) in payloads.iter().zip(&noise) {
            wire.extend_from_slice(noise);
            wire.extend_from_slice(&frame(7, payload));
        }
        let mut decoder = Decoder::new(Accept::Session(7));
        let mut got = Vec::new();
        let mut sizes = chunks.iter().copied().cycle();
        while !wire.is_empty() {
            let size = sizes.next().unwrap_or(1).min(wire.len());
            decoder.push(&wire.split_to(size));
            got.extend(drain(&mut decoder));
            prop_assert!(decoder.pending() < HEADER_LEN + MAX_PAYLOAD);
        }
        decoder.push(&flush_padding());
        got.extend(drain(&mut decoder));
        prop_assert_eq!(got, payloads.into_iter().map(Bytes::from).collect::<Vec<_>>());
    }

    /// A cut in the middle of a frame costs that frame and no other.
    #[test]
    fn a_cut_costs_one_frame(cut in 1_usize..331, payload in prop::collection::vec(any::<u8>(), 300)) {
        let whole = frame(7, &payload);
        let mut decoder = Decoder::new(Accept::Session(7));
        decoder.push(&whole[..cut]);
        decoder.push(&frame(7, b"one"));
        decoder.push(&frame(7, b"two"));
        decoder.push(&flush_padding());
        let got = drain(&mut decoder);
        prop_assert_eq!(got, vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    }
}
