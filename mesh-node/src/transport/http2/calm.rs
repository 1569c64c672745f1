//! Frames that cost their sender less than they cost us: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, streams that are reset
//! before they are answered, and heads that name very many fields (RFC 9113 section 10.5).
//!
//! In: the bytes of a caller's connection, both ways. Out: whether the caller goes on as somebody does who wants something.
//! Only frames' headers are looked at, and where fields begin. h2 answers each such frame at once and counts none of them; those that it has a limit
//! for (CONTINUATION, empty DATA, its own resets) are left to it. What is useful pays: requests, responses and data.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use super::fields::Fields;

/// Bytes of a frame's header (RFC 9113 section 4.1).
const HEADER: usize = 9;
/// What a client says before its first frame (RFC 9113 section 3.4).
const PREFACE: u32 = 24;

/// The types of frames (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const CONTINUATION: u8 = 9;
/// The head ends with this frame (RFC 9113 section 6.2).
const END_HEADERS: u8 = 4;
/// GOAWAY to stream 2^31-1: any request may have been acted on, so none is to be sent again unasked.
const GOAWAY: [u8; HEADER + 8] =
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, ENHANCE_YOUR_CALM];
/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u8 = 11;

/// Frames that only manage the connection: a burst, as many each second, and some for what they may be about. Clients of gRPC
/// send a PING and two WINDOW_UPDATEs for a piece of data (BDP estimation); a browser of old had a PRIORITY for each request.
const MANAGING: Allowance = Allowance { burst: 1_000, per_second: 100 };
const FOR_REQUEST: u32 = 8;
const FOR_DATA: u32 = 4;
/// Requests that are taken back unanswered: as many as are answered, and these. Envoy ends a connection that began 500 streams and
/// reset half of them within a second (`overload.premature_reset_total_stream_count`).
const TAKEN_BACK: Allowance = Allowance { burst: 200, per_second: 20 };
/// A head may name so many times the fields that a request may have: until there it is answered (431), as by those who do not
/// know the limit. One byte names a field that was sent before, so beyond it reading costs more than sending.
const FIELDS: u32 = 4;

/// How much of something is free.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    burst: u32,
    per_second: u32,
}

/// What is left of an allowance.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u32,
    allowance: Allowance,
    /// Whole seconds up to here were given.
    given: Instant,
}

/// Where in the stream of frames one direction is.
#[derive(Clone, Copy, Debug)]
struct Position {
    header: [u8; HEADER],
    /// How much of the header is there.
    have: usize,
    /// Bytes that are left before the next header.
    left: u32,
}

/// What a piece of a direction's bytes is.
#[derive(Clone, Copy, Debug)]
enum Piece<'a> {
    /// A frame begins: its type, its flags, the length of its payload.
    Begins(u8, u8, u32),
    /// Bytes of the payload of the frame that began last.
    Payload(&'a [u8]),
}

/// Since when a head comes that is not whole, if one does.
pub(super) type OpenHead = Rc<Cell<Option<Instant>>>;

/// Keeps count of one connection.
#[derive(Debug)]
pub(super) struct Calm {
    came: Position,
    went: Position,
    managing: Budget,
    taken_back: Budget,
    /// Of the head that comes.
    fields: Fields,
    most_fields: u32,
    /// The frame that comes is part of a head.
    is_head: bool,
    /// And its last.
    ends_head: bool,
    open_head: OpenHead,
    /// Interim answers that were handed on and not sent: their heads look like those of answers.
    interims: Rc<Cell<u32>>,
    is_over: bool,
}

/// The caller sends more of what only costs than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the caller sends too many frames that ask for nothing (ENHANCE_YOUR_CALM)")]
pub(super) struct Restless;

impl Calm {
    /// `max_fields`: that a request may have. `interims`: counts those that are handed on to the caller.
    pub(super) fn new(max_fields: usize, interims: Rc<Cell<u32>>, now: Instant) -> Self {
        Self {
            came: Position { left: PREFACE, ..Position::default() },
            went: Position::default(),
            managing: Budget::new(MANAGING, now),
            taken_back: Budget::new(TAKEN_BACK, now),
            fields: Fields::default(),
            most_fields: u32::try_from(max_fields).unwrap_or(u32::MAX).saturating_mul(FIELDS),
            is_head: false,
            ends_head: false,
            open_head: OpenHead::default(),
            interims,
            is_over: false,
        }
    }

    /// Takes what the caller sent.
    ///
    /// # Errors
    /// [`Restless`], from then on.
    pub(super) fn came(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Restless> {
        let Self { came, managing, taken_back, fields, is_head, ends_head, .. } = self;
        let (most_fields, mut is_over, mut begins) = (self.most_fields, self.is_over, false);
        came.pass(bytes, |piece| {
            let is_allowed = match piece {
                Piece::Payload(bytes) => !*is_head || fields.take(bytes) <= most_fields,
                Piece::Begins(kind, flags, length) => {
                    *is_head = matches!(kind, HEADERS | CONTINUATION);
                    *ends_head = flags & END_HEADERS != 0;
                    begins |= kind == HEADERS;
                    match kind {
                        HEADERS => {
                            fields.begin(flags, length);
                            managing.earn(FOR_REQUEST)
                        }
                        CONTINUATION => {
                            fields.go_on(length);
                            true
                        }
                        DATA => true,
                        RESET => managing.spend(&now) && taken_back.spend(&now),
                        _ => managing.spend(&now),
                    }
                }
            };
            is_over |= !is_allowed;
        });
        self.is_over = is_over;
        self.look_at_head(begins, now);
        if is_over { Err(Restless) } else { Ok(()) }
    }

    /// Says whether a head is open, of those of which one `begins` in what came. The clock is read only where one is.
    fn look_at_head(&self, begins: bool, now: impl Fn() -> Instant) {
        let is_open = self.is_head && (self.came.left > 0 || !self.ends_head);
        let since = self.open_head.get().filter(|_| is_open && !begins);
        self.open_head.set(since.or_else(|| is_open.then(now)));
    }

    /// Since when a head comes that is not whole, whenever it is asked.
    pub(super) fn open_head(&self) -> OpenHead {
        self.open_head.clone()
    }

    /// Takes what was sent to the caller.
    pub(super) fn went(&mut self, bytes: &[u8]) {
        let Self { went, managing, taken_back, interims, .. } = self;
        went.pass(bytes, |piece| match piece {
            // Before the answer an application may say as much as it likes of what its caller takes back. (Those of a stream that
            // was taken back meanwhile are never sent: another answer is taken for one then, of which bursts are made.)
            Piece::Begins(HEADERS, ..) if interims.get() > 0 => interims.set(interims.get() - 1),
            Piece::Begins(HEADERS, ..) => {
                taken_back.earn(1);
            }
            Piece::Begins(DATA, ..) => {
                managing.earn(FOR_DATA);
            }
            Piece::Begins(..) | Piece::Payload(_) => {}
        });
    }

    /// What the caller is told, if a frame may be sent now.
    pub(super) fn farewell(&self) -> Option<&'static [u8]> {
        self.went.is_between_frames().then_some(&GOAWAY)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Budget {
    fn new(allowance: Allowance, now: Instant) -> Self {
        Self { left: allowance.burst, allowance, given: now }
    }

    /// More of it, up to the burst. Always allowed.
    fn earn(&mut self, count: u32) -> bool {
        self.left = (self.left + count).min(self.allowance.burst);
        true
    }

    /// Whether there is one more. The clock is read only where nothing is left.
    fn spend(&mut self, now: &impl Fn() -> Instant) -> bool {
        if self.left == 0 {
            let seconds = now().saturating_duration_since(self.given).as_secs();
            self.given += std::time::Duration::from_secs(seconds);
            self.earn(u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(self.allowance.per_second));
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

impl Default for Position {
    fn default() -> Self {
        Self { header: [0; HEADER], have: 0, left: 0 }
    }
}

impl Position {
    /// Goes on by `bytes`, whose pieces `each` is shown.
    fn pass<'a>(&mut self, mut bytes: &'a [u8], mut each: impl FnMut(Piece<'a>)) {
        loop {
            let (payload, rest) = bytes.split_at(bytes.len().min(self.left as usize));
            self.left -= payload.len() as u32;
            if !payload.is_empty() {
                each(Piece::Payload(payload));
            }
            if rest.is_empty() {
                return;
            }
            let (header, rest) = rest.split_at(rest.len().min(HEADER - self.have));
            self.header[self.have..self.have + header.len()].copy_from_slice(header);
            self.have += header.len();
            bytes = rest;
            if self.have == HEADER {
                let [a, b, c, kind, flags, ..] = self.header;
                self.left = u32::from_be_bytes([0, a, b, c]);
                self.have = 0;
                each(Piece::Begins(kind, flags, self.left));
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    fn begun(now: Instant) -> Calm {
        let mut calm = Calm::new(100, Rc::default(), now);
        calm.came(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", || now).unwrap();
        calm
    }

    /// How many of these frames are allowed at once.
    fn allowed(calm: &mut Calm, bytes: &[u8], now: Instant) -> u32 {
        (0..10_000).take_while(|_| calm.came(bytes, || now).is_ok()).count().try_into().unwrap()
    }

    #[test]
    fn what_only_manages_is_allowed_in_bursts_and_each_second() {
        let now = Instant::now();
        let ping = frame(PING, &[0; 8]);
        assert_eq!(allowed(&mut begun(now), &ping, now), MANAGING.burst);
        let mut calm = begun(now);
        for _ in 0..MANAGING.burst {
            calm.came(&ping, || now).unwrap();
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(allowed(&mut calm, &ping, later), 2 * MANAGING.per_second);
    }

    #[test]
    fn who_asks_and_is_answered_may_manage_as_much_as_it_likes() {
        let now = Instant::now();
        let mut calm = begun(now);
        let asked =
            [frame(HEADERS, b"a request"), frame(PING, &[0; 8]).repeat(FOR_REQUEST as usize)].concat();
        assert_eq!(allowed(&mut calm, &asked, now), 10_000);
        let updates = frame(8, &[0; 4]).repeat(FOR_DATA as usize);
        for _ in 0..10_000 {
            calm.went(&frame(DATA, b"a piece"));
            calm.came(&updates, || now).unwrap();
        }
    }

    #[test]
    fn requests_are_taken_back_as_often_as_they_are_answered_and_a_burst_besides() {
        let now = Instant::now();
        let mut calm = begun(now);
        let taken_back = [frame(HEADERS, b"a request"), frame(RESET, &[0; 4])].concat();
        for _ in 0..10_000 {
            calm.came(&taken_back, || now).unwrap();
            calm.went(&frame(HEADERS, b"a response"));
        }
        assert_eq!(allowed(&mut calm, &taken_back, now), TAKEN_BACK.burst);
        assert_eq!(calm.came(b"", || now), Err(Restless), "and from then on nothing is");
    }

    #[test]
    fn interim_answers_are_none() {
        let now = Instant::now();
        let interims = Rc::<Cell<u32>>::default();
        let mut calm = Calm::new(100, interims.clone(), now);
        calm.came(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", || now).unwrap();
        let taken_back = [frame(HEADERS, b"a request"), frame(RESET, &[0; 4])].concat();
        // The answer of another request comes between them.
        for _ in 1..TAKEN_BACK.burst {
            calm.came(&taken_back.repeat(2), || now).unwrap();
            interims.set(2);
            calm.went(&frame(HEADERS, b"an interim or an answer").repeat(3));
        }
        assert_eq!(allowed(&mut calm, &taken_back, now), 1);
    }

    #[test]
    fn frames_are_counted_in_whatever_pieces_they_come() {
        let now = Instant::now();
        let two = [frame(DATA, &[6; 300]), frame(PING, &[0; 8])].concat();
        for size in [1, 2, 9, 10, 100, two.len()] {
            let mut calm = begun(now);
            for piece in two.repeat(50).chunks(size) {
                calm.came(piece, || now).unwrap();
            }
            assert_eq!(calm.managing.left, MANAGING.burst - 50, "in pieces of {size}");
        }
    }

    #[test]
    fn a_head_of_too_many_fields_is_not_read_to_its_end() {
        let now = Instant::now();
        let head = |fields: usize| frame(HEADERS, &vec![0x82; fields]);
        begun(now).came(&head(400), || now).unwrap();
        assert_eq!(begun(now).came(&head(401), || now), Err(Restless));
        let mut calm = begun(now);
        calm.came(&[head(200), frame(CONTINUATION, &[0x82; 200])].concat(), || now).unwrap();
        assert_eq!(calm.came(&frame(CONTINUATION, &[0x82]), || now), Err(Restless));
        begun(now).came(&[frame(DATA, &[0x82; 1000]), head(400), head(400)].concat(), || now).unwrap();
    }

    #[test]
    fn nothing_is_said_in_the_middle_of_a_frame() {
        let mut calm = begun(Instant::now());
        assert!(calm.farewell().is_some());
        let data = frame(DATA, b"a piece");
        calm.went(&data[..12]);
        assert_eq!(calm.farewell(), None);
        calm.went(&data[12..]);
        assert!(calm.farewell().is_some());
    }

    #[test]
    fn a_head_is_open_from_its_first_frame_to_the_end_of_its_last() {
        let start = Instant::now();
        let mut calm = begun(start);
        let open = calm.open_head();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut say = |bytes: &[u8], seconds| {
            calm.came(bytes, || at(seconds)).unwrap();
            open.get()
        };
        let first = [0, 0, 2, HEADERS, 0, 0, 0, 0, 1, 0x82];
        assert_eq!(say(&first, 1), Some(at(1)));
        assert_eq!(say(&[0x86], 2), Some(at(1)), "it goes on in another frame");
        let last = [0, 0, 2, CONTINUATION, END_HEADERS, 0, 0, 0, 1, 0x84];
        assert_eq!(say(&last, 3), Some(at(1)));
        assert_eq!(say(&[0x84], 4), None);
        // Whole, and the beginning of another; then the rest of that, and of one more.
        let whole = [0, 0, 1, HEADERS, END_HEADERS, 0, 0, 0, 3, 0x82];
        assert_eq!(say(&[&whole[..], &first].concat(), 5), Some(at(5)));
        assert_eq!(say(&[&[0x86], &last[..], &[0x84], &first].concat(), 6), Some(at(6)));
        assert_eq!(say(&[&[0x86], &last[..], &[0x84], &whole].concat(), 7), None);
    }
}
