//! Laws of the whole module: two sessions joined by records, driven in any order.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::credit::{INITIAL_WINDOW, MAX_WINDOW};
use super::frame::{Frame, MAX_PAYLOAD, MAX_RECORD, StreamId, frames};
use super::open::{Open, StreamKind, StreamToken};
use super::outbox::Outbox;
use super::reason::{GoAwayReason, ResetReason};
use super::session::{Event, Limits, Role, Session, Violation};

/// One end: a session, what it holds back for its application, and records on their way to it.
struct End {
    session: Session<u32>,
    outbox: Outbox,
    arriving: VecDeque<Vec<u8>>,
    held: HashMap<u32, VecDeque<u8>>,
    delivered: HashMap<u32, Vec<u8>>,
    finished: Vec<u32>,
}

impl End {
    fn new(role: Role, limits: Limits) -> Self {
        Self {
            session: Session::new(role, limits),
            outbox: Outbox::default(),
            arriving: VecDeque::new(),
            held: HashMap::new(),
            delivered: HashMap::new(),
            finished: Vec::new(),
        }
    }

    fn open(&mut self) -> StreamId {
        let id = self.session.open(0).unwrap();
        self.session.rename(id, id.0);
        self.outbox.push(&Frame::Open(id, facts()));
        id
    }

    fn send(&mut self, id: StreamId, bytes: &[u8], through_room: bool) -> usize {
        let length = bytes.len().min(self.session.sendable(id) as usize);
        if length == 0 {
            return 0;
        }
        if through_room {
            let mut left = &bytes[..length];
            for room in self.outbox.room(length) {
                let (now, later) = left.split_at(left.len().min(room.len()));
                room[..now.len()].copy_from_slice(now);
                left = later;
            }
            self.outbox.commit(id, length);
        } else {
            self.outbox.push_data(id, &bytes[..length]);
        }
        self.session.sent(id, length);
        length
    }

    fn finish(&mut self, id: StreamId) {
        if self.session.finish(id) {
            self.outbox.push(&Frame::Fin(id));
        }
    }

    fn flush(&mut self, peer: &mut Self) {
        for record in self.outbox.records() {
            assert!(record.len() <= MAX_RECORD);
            peer.arriving.push_back(record.to_vec());
        }
        self.outbox.clear();
    }

    fn receive_one_record(&mut self) -> Result<bool, Violation> {
        let Some(record) = self.arriving.pop_front() else { return Ok(false) };
        for frame in frames(&record) {
            let frame = frame.map_err(Violation::Frame)?;
            match self.session.receive(frame)? {
                Event::Opened(id, open) => {
                    assert_eq!(open, facts());
                    self.session.accept(id, id.0);
                }
                Event::Data(_, name, bytes) => self.held.entry(name).or_default().extend(bytes),
                Event::Finished(_, name) => self.finished.push(name),
                Event::AnswerPing(token) => self.outbox.push(&Frame::Pong(token)),
                _ => {}
            }
        }
        Ok(true)
    }

    /// The application takes up to `most` bytes of a stream.
    fn take(&mut self, name: u32, most: usize) -> usize {
        let Some(held) = self.held.get_mut(&name) else { return 0 };
        let length = held.len().min(most);
        self.delivered.entry(name).or_default().extend(held.drain(..length));
        if let Some(credit) = self.session.consumed(StreamId(name), length) {
            let stream = StreamId(name);
            self.outbox.push(&Frame::Credit {
                stream,
                acknowledged: credit.acknowledged,
                window: credit.window,
            });
        }
        length
    }

    fn holds(&self) -> u64 {
        self.held.values().map(|held| held.len() as u64).sum()
    }
}

fn facts() -> Open {
    Open {
        token: StreamToken([7; 16]),
        kind: StreamKind::Opaque,
        dialled: "[fd00::1]:80".parse().unwrap(),
        source_port: 1,
    }
}

fn pattern(seed: u32, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) as u8).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Send { stream: usize, from_server: bool, length: usize, through_room: bool },
    Flush { from_server: bool },
    Receive { by_server: bool },
    Take { stream: usize, by_server: bool, most: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, any::<bool>(), prop_oneof![1..200usize, 1..100_000usize], any::<bool>())
            .prop_map(|(stream, from_server, length, through_room)| Step::Send { stream, from_server, length, through_room }),
        2 => any::<bool>().prop_map(|from_server| Step::Flush { from_server }),
        4 => any::<bool>().prop_map(|by_server| Step::Receive { by_server }),
        3 => (0..4usize, any::<bool>(), 1..80_000usize)
            .prop_map(|(stream, by_server, most)| Step::Take { stream, by_server, most }),
    ]
}

/// Runs the steps, then lets everything arrive, and returns what was sent and what was delivered.
fn run(steps: &[Step], lengths: [usize; 4]) {
    let (mut client, mut server) = (End::new(Role::Client, small()), End::new(Role::Server, small()));
    let streams: Vec<StreamId> = (0..4).map(|_| client.open()).collect();
    client.flush(&mut server);
    server.receive_one_record().unwrap();
    let (up, down): (Vec<_>, Vec<_>) = (0..4)
        .map(|index| {
            (pattern(index, lengths[index as usize]), pattern(index + 50, lengths[3 - index as usize]))
        })
        .unzip();
    let (mut up_sent, mut down_sent) = ([0; 4], [0; 4]);
    let mut apply = |step: &Step, client: &mut End, server: &mut End| match *step {
        Step::Send { stream, from_server, length, through_room } => {
            let (end, data, sent) = if from_server {
                (server, &down[stream], &mut down_sent[stream])
            } else {
                (client, &up[stream], &mut up_sent[stream])
            };
            let until = data.len().min(*sent + length);
            *sent += end.send(streams[stream], &data[*sent..until], through_room);
            if *sent == data.len() {
                end.finish(streams[stream]);
            }
        }
        Step::Flush { from_server: true } => server.flush(client),
        Step::Flush { from_server: false } => client.flush(server),
        Step::Receive { by_server } => {
            let end = if by_server { server } else { client };
            end.receive_one_record().unwrap();
            // What a peer makes us hold is what the windows allow, at any moment.
            assert_eq!(end.holds(), end.session.unconsumed());
            assert!(end.holds() <= 4 * u64::from(INITIAL_WINDOW) + small().grown);
        }
        Step::Take { stream, by_server, most } => {
            let end = if by_server { server } else { client };
            end.take(streams[stream].0, most);
        }
    };
    for step in steps {
        apply(step, &mut client, &mut server);
    }
    for _ in 0..200 {
        for stream in 0..4 {
            for from_server in [true, false] {
                apply(
                    &Step::Send { stream, from_server, length: 70_000, through_room: true },
                    &mut client,
                    &mut server,
                );
                apply(&Step::Flush { from_server }, &mut client, &mut server);
                for _ in 0..8 {
                    apply(&Step::Receive { by_server: !from_server }, &mut client, &mut server);
                }
                apply(
                    &Step::Take { stream, by_server: !from_server, most: usize::MAX },
                    &mut client,
                    &mut server,
                );
            }
        }
    }
    for (index, stream) in streams.iter().enumerate() {
        let none = Vec::new();
        assert_eq!(server.delivered.get(&stream.0).unwrap_or(&none), &up[index], "to the server");
        assert_eq!(client.delivered.get(&stream.0).unwrap_or(&none), &down[index], "to the client");
    }
    assert_eq!(server.finished.len(), 4);
    assert_eq!(client.finished.len(), 4);
    assert!(client.session.is_empty() && server.session.is_empty());
}

fn small() -> Limits {
    Limits { streams: 8, window: 1 << 20, grown: 300_000, early_resets: 3 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_turns_delivers_the_same_bytes(
        steps in proptest::collection::vec(step(), 0..150),
        lengths in [0..400_000usize, 0..3_000usize, 0..100_000usize, 0..20usize],
    ) {
        run(&steps, lengths);
    }

    #[test]
    fn no_record_makes_a_session_hold_more_than_its_windows(
        record in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut session = Session::<u32>::new(Role::Server, small());
        let mut held = 0;
        for frame in frames(&record) {
            let Ok(Ok(event)) = frame.map(|frame| session.receive(frame)) else { break };
            match event {
                Event::Opened(id, _) => session.accept(id, id.0),
                Event::Data(_, _, bytes) => held += bytes.len(),
                _ => {}
            }
        }
        prop_assert!(session.len() <= small().streams);
        prop_assert!(held as u64 <= session.len() as u64 * u64::from(MAX_WINDOW));
    }

    #[test]
    fn what_is_written_reads_back(
        stream in 1..=u32::MAX, number in any::<u64>(), window in any::<u32>(), code in any::<u16>(),
        token in any::<[u8; 16]>(), address in any::<[u8; 16]>(), v4 in any::<bool>(), port in any::<u16>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..MAX_PAYLOAD),
    ) {
        let stream = StreamId(stream);
        let address = if v4 {
            std::net::IpAddr::from([address[0], address[1], address[2], address[3]])
        } else {
            std::net::IpAddr::from(address).to_canonical()
        };
        let open = Open {
            token: StreamToken(token),
            kind: if v4 { StreamKind::Opaque } else { StreamKind::Http1 },
            dialled: (address, port).into(),
            source_port: port,
        };
        for frame in [
            Frame::Open(stream, open),
            Frame::Data(stream, &bytes),
            Frame::Fin(stream),
            Frame::Reset(stream, ResetReason::from_code(code)),
            Frame::Credit { stream, acknowledged: number, window },
            Frame::Ping(number),
            Frame::Pong(number),
            Frame::GoAway { last: window, reason: GoAwayReason::from_code(code) },
        ] {
            let mut written = Vec::new();
            frame.write(&mut written);
            prop_assert_eq!(frames(&written).collect::<Vec<_>>(), [Ok(frame)]);
        }
    }
}

/// A server session that has accepted stream 1.
fn serving() -> Session<u32> {
    let mut session = Session::new(Role::Server, small());
    assert_eq!(session.receive(Frame::Open(StreamId(1), facts())), Ok(Event::Opened(StreamId(1), facts())));
    session.accept(StreamId(1), 1);
    session
}

#[test]
fn data_beyond_the_window_is_a_violation() {
    let mut session = serving();
    let bytes = [0; 16_376];
    for _ in 0..4 {
        session.receive(Frame::Data(StreamId(1), &bytes)).unwrap();
    }
    session.receive(Frame::Data(StreamId(1), &bytes[..32])).unwrap();
    let more = session.receive(Frame::Data(StreamId(1), &bytes[..1]));
    assert_eq!(more, Err(Violation::CreditExceeded { stream: 1 }));
}

#[test]
fn a_stream_whose_bytes_wait_still_counts_after_both_fins() {
    let mut session = serving();
    session.receive(Frame::Data(StreamId(1), b"waits")).unwrap();
    session.receive(Frame::Fin(StreamId(1))).unwrap();
    assert!(session.finish(StreamId(1)));
    assert_eq!(session.len(), 1);
    assert_eq!(session.consumed(StreamId(1), 5), None);
    assert!(session.is_empty());
}

#[test]
fn a_stream_number_is_never_used_twice() {
    let mut session = serving();
    let again = session.receive(Frame::Open(StreamId(1), facts()));
    assert_eq!(again, Err(Violation::StreamReused { stream: 1, last: 1 }));
}

#[test]
fn a_stream_that_was_never_opened_is_a_violation_and_one_that_is_over_is_not() {
    let mut session = serving();
    assert!(session.reset(StreamId(1)));
    assert_eq!(session.receive(Frame::Data(StreamId(1), b"late")), Ok(Event::None));
    let never = session.receive(Frame::Fin(StreamId(2)));
    assert_eq!(never, Err(Violation::NeverOpened { stream: 2, last: 1 }));
}

#[test]
fn streams_over_the_limit_are_refused_and_the_tunnel_goes_on() {
    let mut session = serving();
    for stream in 2..=8 {
        session.receive(Frame::Open(StreamId(stream), facts())).unwrap();
        session.accept(StreamId(stream), stream);
    }
    let refused = session.receive(Frame::Open(StreamId(9), facts()));
    assert_eq!(refused, Ok(Event::Refuse(StreamId(9), ResetReason::Overloaded, None)));
    assert_eq!(session.len(), 8);
}

#[test]
fn after_goaway_new_streams_are_refused_and_open_ones_go_on() {
    let mut session = serving();
    assert_eq!(session.go_away(), 1);
    let refused = session.receive(Frame::Open(StreamId(2), facts()));
    assert_eq!(refused, Ok(Event::Refuse(StreamId(2), ResetReason::Draining, None)));
    assert_eq!(session.receive(Frame::Data(StreamId(2), b"was under way")), Ok(Event::None));
    assert_eq!(session.receive(Frame::Data(StreamId(1), b"x")), Ok(Event::Data(StreamId(1), 1, b"x")));
}

#[test]
fn many_streams_reset_before_an_answer_are_a_violation() {
    let mut session = serving();
    let mut ended = None;
    for stream in 2..20 {
        let id = StreamId(stream);
        session.receive(Frame::Open(id, facts())).unwrap();
        session.accept(id, stream);
        if let Err(violation) = session.receive(Frame::Reset(id, ResetReason::Cancelled)) {
            ended = Some(violation);
            break;
        }
    }
    assert_eq!(ended, Some(Violation::EarlyResets { count: 4 }));
}

#[test]
fn a_server_does_not_open_streams() {
    let mut session = Session::<u32>::new(Role::Client, small());
    let opened = session.receive(Frame::Open(StreamId(1), facts()));
    assert_eq!(opened, Err(Violation::OpenedByServer { stream: 1 }));
}

#[test]
fn small_frames_go_first_but_never_before_their_own_stream() {
    let mut outbox = Outbox::default();
    outbox.push_data(StreamId(1), &[1; 40_000]);
    outbox.push_data(StreamId(2), b"small");
    outbox.push(&Frame::Fin(StreamId(1)));
    outbox.push(&Frame::Fin(StreamId(2)));
    let order: Vec<(u32, bool)> = outbox
        .records()
        .flat_map(|record| frames(record).map(|frame| frame.unwrap()).collect::<Vec<_>>())
        .map(|frame| (frame.stream(), matches!(frame, Frame::Fin(_))))
        .collect();
    assert_eq!(order, [(2, false), (2, true), (1, false), (1, false), (1, false), (1, true)]);
}
