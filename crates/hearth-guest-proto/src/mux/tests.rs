use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

fn hello() -> Hello {
    Hello {
        protocol: 1,
        nonce: 5,
    }
}

fn ack() -> HelloAck {
    HelloAck {
        protocol: 1,
        nonce: 5,
        vm_id: "vm".into(),
        boot_nonce: "boot".into(),
        agent_version: "1".into(),
    }
}

fn pass(from: &mut Mux, to: &mut Mux) {
    let bytes = from.output().to_vec();
    to.receive(&bytes);
    from.sent(bytes.len());
}

fn events(mux: &mut Mux) -> Vec<MuxEvent> {
    std::iter::from_fn(|| mux.next_event()).collect()
}

fn pair(session: u64) -> (Mux, Mux) {
    let (mut host, mut guest) = (Mux::host(session), Mux::guest());
    connect(&mut host, &mut guest);
    (host, guest)
}

fn connect(host: &mut Mux, guest: &mut Mux) {
    host.hello(&hello(), false).unwrap();
    pass(host, guest);
    assert_eq!(
        events(guest),
        vec![MuxEvent::Hello {
            hello: hello(),
            fresh: true
        }]
    );
    guest.acknowledge(&ack()).unwrap();
    pass(guest, host);
    assert_eq!(events(host), vec![MuxEvent::Established(ack())]);
}

#[test]
fn the_same_hello_again_keeps_the_streams_and_another_ends_them() {
    let (mut host, mut guest) = pair(1);
    let stream = host.open(b"{}").unwrap();
    host.hello(&hello(), true).unwrap();
    pass(&mut host, &mut guest);
    assert!(events(&mut guest).contains(&MuxEvent::Hello {
        hello: hello(),
        fresh: false
    }));
    assert_eq!(guest.credit(stream, 0), WINDOW);

    let mut second = Mux::host(2);
    second.hello(&hello(), false).unwrap();
    host.data(stream, 0, b"late").unwrap();
    pass(&mut second, &mut guest);
    pass(&mut host, &mut guest);
    assert_eq!(
        events(&mut guest),
        vec![MuxEvent::Hello {
            hello: hello(),
            fresh: true
        }]
    );
    assert_eq!(guest.credit(stream, 0), 0);
}

#[test]
fn a_sender_without_credit_sends_nothing_and_one_that_cheats_is_cut_off() {
    let (mut host, mut guest) = pair(1);
    let stream = host.open(b"{}").unwrap();
    let other = host.open(b"{}").unwrap();
    assert_eq!(host.data(stream, 0, &vec![1; WINDOW + 1]).unwrap(), WINDOW);
    assert_eq!(host.data(stream, 0, b"x").unwrap(), 0);
    assert_eq!(
        host.data(other, 0, b"x").unwrap(),
        1,
        "only its own stream stalls"
    );
    pass(&mut host, &mut guest);
    events(&mut guest);

    host.streams.get_mut(&stream).unwrap()[0].credit = 10;
    host.data(stream, 0, b"cheat").unwrap();
    pass(&mut host, &mut guest);
    let told = events(&mut guest);
    assert!(
        matches!(&told[..], [MuxEvent::Reset { error, .. }] if error.code == ErrorCode::Protocol)
    );
    pass(&mut guest, &mut host);
    assert!(matches!(&events(&mut host)[..], [MuxEvent::Reset { .. }]));
}

#[test]
fn credit_beyond_a_window_is_refused() {
    let (mut host, mut guest) = pair(1);
    let stream = host.open(b"{}").unwrap();
    pass(&mut host, &mut guest);
    events(&mut guest);
    guest
        .send(FrameKind::Window, stream, 0, &1_u32.to_le_bytes())
        .unwrap();
    pass(&mut guest, &mut host);
    assert!(matches!(&events(&mut host)[..], [MuxEvent::Reset { .. }]));
}

#[test]
fn too_many_streams_are_refused_by_both_sides() {
    let (mut host, mut guest) = pair(1);
    for _ in 0..MAX_STREAMS {
        host.open(b"{}").unwrap();
    }
    assert_eq!(host.open(b"{}"), Err(MuxError::TooManyStreams));
    pass(&mut host, &mut guest);
    assert_eq!(events(&mut guest).len(), MAX_STREAMS);
    host.streams.clear();
    let extra = host.open(b"{}").unwrap();
    pass(&mut host, &mut guest);
    assert!(events(&mut guest).is_empty());
    pass(&mut guest, &mut host);
    assert!(
        matches!(&events(&mut host)[..], [MuxEvent::Reset { stream, error }]
            if *stream == extra && error.code == ErrorCode::Busy)
    );
}

#[test]
fn a_disconnected_guest_forgets_and_says_what() {
    let (mut host, mut guest) = pair(1);
    let stream = host.open(b"{}").unwrap();
    pass(&mut host, &mut guest);
    events(&mut guest);
    assert_eq!(guest.disconnect(), vec![stream]);
    assert_eq!(guest.pong(b""), Err(MuxError::NoSession));
    connect(&mut Mux::host(9), &mut guest);
}

/// One end with data to send on every stream and channel, and a reader of its own pace.
struct End {
    mux: Mux,
    to_send: BTreeMap<(u32, u8), VecDeque<u8>>,
    unread: BTreeMap<(u32, u8), VecDeque<u8>>,
    got: BTreeMap<(u32, u8), Vec<u8>>,
}

impl End {
    fn new(mux: Mux, to_send: BTreeMap<(u32, u8), VecDeque<u8>>) -> Self {
        Self {
            mux,
            to_send,
            unread: BTreeMap::new(),
            got: BTreeMap::new(),
        }
    }

    fn feed(&mut self, most: usize) {
        for ((stream, channel), data) in &mut self.to_send {
            if self.mux.congested() {
                return;
            }
            let (front, _) = data.as_slices();
            let chunk = front[..front.len().min(most)].to_vec();
            let sent = self.mux.data(*stream, *channel, &chunk).unwrap();
            data.drain(..sent);
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.mux.receive(bytes);
        for event in events(&mut self.mux) {
            match event {
                MuxEvent::Data {
                    stream,
                    channel,
                    data,
                } => {
                    let unread = self.unread.entry((stream, channel)).or_default();
                    unread.extend(data);
                    assert!(unread.len() <= WINDOW, "bounded by the window");
                }
                MuxEvent::Credit { .. } | MuxEvent::Opened { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn read(&mut self, pace: &[usize]) {
        for (index, (key, unread)) in self.unread.iter_mut().enumerate() {
            let count = pace[index % pace.len()].min(unread.len());
            self.got
                .entry(*key)
                .or_default()
                .extend(unread.drain(..count));
            self.mux.grant(key.0, key.1, count);
        }
    }

    fn done(&self) -> bool {
        self.to_send.values().all(VecDeque::is_empty)
            && self.unread.values().all(VecDeque::is_empty)
            && self.mux.output().is_empty()
    }
}

fn move_some(from: &mut End, to: &mut End, most: usize) {
    let count = from.mux.output().len().min(most);
    let bytes = from.mux.output()[..count].to_vec();
    from.mux.sent(count);
    to.take_in(&bytes);
}

fn contents(seed: u64, stream: u32, channel: u8, len: usize) -> VecDeque<u8> {
    let mut state = seed ^ (u64::from(stream) << 8) ^ u64::from(channel);
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(len)
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Both sides send random data on many streams at once, over a wire cut into random
    /// pieces, to readers of random pace: what arrives is what was sent, nothing is mixed,
    /// nothing stalls for ever, memory stays bounded.
    #[test]
    fn both_ways_at_once_with_slow_readers(
        seed in any::<u64>(),
        sizes in prop::collection::vec(0_usize..700_000, 1..6),
        wire in prop::collection::vec(1_usize..90_000, 1..20),
        pace in prop::collection::vec(1_usize..200_000, 1..8),
    ) {
        let (mut host, mut guest) = pair(seed | 1);
        let streams: Vec<u32> = sizes.iter().map(|_| host.open(b"{}").unwrap()).collect();
        pass(&mut host, &mut guest);
        events(&mut guest);
        let plan = |salt: u64| -> BTreeMap<(u32, u8), VecDeque<u8>> {
            streams.iter().zip(&sizes).flat_map(|(stream, size)| {
                [0_u8, 1].map(|channel| ((*stream, channel), contents(seed ^ salt, *stream, channel, *size)))
            }).collect()
        };
        let mut host = End::new(host, plan(1));
        let mut guest = End::new(guest, plan(2));
        let mut wire = wire.into_iter().cycle();
        let mut rounds = 0_u32;
        while !(host.done() && guest.done()) {
            rounds += 1;
            prop_assert!(rounds < 3_000_000, "stalled");
            host.feed(100_000);
            guest.feed(30_000);
            let piece = wire.next().unwrap();
            move_some(&mut host, &mut guest, piece);
            move_some(&mut guest, &mut host, piece);
            prop_assert!(host.mux.output().len() < 2 * OUTPUT_HIGH_WATER + MAX_PAYLOAD);
            host.read(&pace);
            guest.read(&pace);
        }
        for (sent, end) in [(plan(2), &host), (plan(1), &guest)] {
            for (key, data) in sent {
                let got = end.got.get(&key).cloned().unwrap_or_default();
                prop_assert!(data == got, "stream {key:?} differs");
            }
        }
    }
}
