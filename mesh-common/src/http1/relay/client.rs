//! What the client's bytes, its end and its deadlines do.

use super::{
    Active, ClientKind, Close, Command, Commands, Court, Ending, Forwarded, MAX_DISCARD, Phase, Relay,
    Release, Summary, Upstream, Verdict, Waiting, feed,
};
use crate::http1::{
    AskedFor, BodyBytes, BodyFraming, BodyPart, BodyReader, Exchange, HeadScan, LocalAnswer, Offer,
    ReadRules, Refusal, RequestHead, ResponseFor, StripList, write_given_answer, write_local_answer,
};
use crate::model::{DecisionId, Text};

impl<P: Forwarded> Relay<P> {
    /// Takes bytes of the client.
    pub fn client_bytes(&mut self, fresh: &[u8], court: &mut Court<'_, P>) -> Commands<P> {
        let mut commands = Commands::new();
        self.take_client(fresh, court, &mut commands);
        commands
    }

    /// The client will send no more, but may still read.
    pub fn client_ended(&mut self) -> Commands<P> {
        let mut commands = Commands::new();
        self.client_ended = true;
        match &self.parked {
            // It may be whole, and its client only read from now on.
            Some(parked) if parked.is_ready() => return commands,
            Some(_) => {
                self.finish_client(Close::Abort, &mut commands);
                return commands;
            }
            None => {}
        }
        match &mut self.phase {
            Phase::Head(_) | Phase::Discard(_) => {
                if !self.held_client.is_empty() {
                    let asked = AskedFor::of_head(&self.held_client);
                    commands.push(Command::Refused(Refusal::Truncated, asked));
                }
                self.finish_client(Close::Finish, &mut commands);
            }
            Phase::Exchange(active) if active.exchange.is_opaque() => self.end_opaque(&mut commands),
            Phase::Exchange(active) if active.exchange.is_request_done() => active.exchange.end_client(),
            Phase::Exchange(_) => {
                self.finish_exchange(Ending::ClientGone, Release::Abort, &mut commands);
                self.finish_client(Close::Abort, &mut commands);
            }
            Phase::Over => {}
        }
        commands
    }

    /// The client is gone: nothing can be sent to it.
    pub fn client_gone(&mut self) -> Commands<P> {
        let mut commands = Commands::new();
        if matches!(self.phase, Phase::Exchange(_)) {
            self.finish_exchange(Ending::ClientGone, Release::Abort, &mut commands);
        }
        self.finish_client(Close::Abort, &mut commands);
        commands
    }

    /// The deadline for what is being [waited for](Relay::waiting) has passed.
    pub fn timed_out(&mut self) -> Commands<P> {
        const SLOW: LocalAnswer<'static> =
            LocalAnswer { status: 408, text: "request timed out", reason: "request_timeout", decision: None };
        const LATE: LocalAnswer<'static> = LocalAnswer {
            status: 504,
            text: "upstream request timeout",
            reason: "response_timeout",
            decision: None,
        };
        let mut commands = Commands::new();
        match self.waiting() {
            Waiting::Nothing => {}
            Waiting::Request => self.finish_client(Close::Finish, &mut commands),
            Waiting::Response if self.parked.is_some() => {
                self.unsaid = Some(Box::new((LATE, ResponseFor::UNKNOWN)));
                commands.push(Command::Unanswered);
                self.finish_client(Close::Linger, &mut commands);
            }
            Waiting::Body if self.parked.is_some() => self.refuse_slow(&mut commands),
            Waiting::Head => self.refuse_slow(&mut commands),
            // What is dropped was answered already.
            Waiting::Body if matches!(self.phase, Phase::Discard(_)) => {
                self.finish_client(Close::Linger, &mut commands);
            }
            Waiting::Body | Waiting::Response | Waiting::Opaque => {
                let answer = if self.waiting() == Waiting::Response { LATE } else { SLOW };
                self.fail(answer, Ending::TimedOut, &mut commands);
            }
        }
        commands
    }

    /// Takes no request after the present one; an idle client is closed at once.
    pub fn drain(&mut self) -> Commands<P> {
        let mut commands = Commands::new();
        self.last = true;
        if let Phase::Exchange(active) = &mut self.phase {
            active.exchange.end_client();
        }
        if self.waiting() == Waiting::Request {
            self.finish_client(Close::Finish, &mut commands);
        }
        commands
    }

    /// The exchange that is under way is no longer permitted.
    pub fn cut(&mut self, answer: LocalAnswer<'static>) -> Commands<P> {
        let mut commands = Commands::new();
        if matches!(self.phase, Phase::Exchange(_)) {
            self.fail(answer, Ending::Cut, &mut commands);
        }
        commands
    }

    /// Answers a client whose request [waited in vain](Command::Unanswered).
    pub fn answer_unanswered(&mut self, answer: LocalAnswer<'static>) {
        if let Some(unsaid) = &mut self.unsaid {
            unsaid.0 = answer;
        }
        self.answer_refused(None);
    }

    /// Answers a client whose message was [refused](Command::Refused), or whose [exchange](Command::Finished) ended with an
    /// answer of ours: what the refusal is called, if it is one, is known now. Nothing is said where nobody is to be answered.
    pub fn answer_refused(&mut self, decision: Option<DecisionId>) {
        if let Some(unsaid) = self.unsaid.take() {
            let (answer, to) = *unsaid;
            let decision = answer.decision.or(decision);
            write_local_answer(LocalAnswer { decision, ..answer }, to, self.to_client.buffer());
        }
    }

    pub(super) fn take_client(&mut self, fresh: &[u8], court: &mut Court<'_, P>, commands: &mut Commands<P>) {
        self.owed = false;
        let mut held = std::mem::take(&mut self.held_client);
        let left = feed(&mut held, fresh, |input| self.advance_client(input, court, commands));
        self.held_client = left.unwrap_or_default();
        self.ask_about_parked(commands);
        if let Phase::Exchange(active) = &mut self.phase
            && active.upstream == Upstream::Wanted
        {
            active.upstream = Upstream::Acquiring;
            let place = commands.len() - usize::from(active.finished_upstream);
            commands.insert(place, Command::Acquire { fresh: false });
        }
    }

    /// Takes as much of `input` as can be taken now.
    fn advance_client(
        &mut self,
        input: &[u8],
        court: &mut Court<'_, P>,
        commands: &mut Commands<P>,
    ) -> usize {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            let step = match &mut self.phase {
                Phase::Head(_) if self.parked.is_some() => {
                    self.look_at_parked(rest, court.rules).map(|()| (0, false))
                }
                Phase::Head(_) if rest.is_empty() => Ok((0, false)),
                Phase::Head(_) => self.take_head(rest, court),
                Phase::Exchange(_) => self.take_body(rest, court.rules, commands),
                Phase::Discard(reader) => {
                    let step = discard(reader, rest, court.rules, &mut self.client_body);
                    if let Ok((_, true)) = step {
                        self.phase = Phase::Head(HeadScan::default());
                    }
                    step
                }
                Phase::Over => return input.len(),
            };
            match step {
                Ok((more, again)) => {
                    taken += more;
                    if !again {
                        return taken;
                    }
                }
                Err(refusal) => {
                    self.refuse(refusal, rest, commands);
                    return input.len();
                }
            }
            if let Phase::Over = self.phase {
                self.finish_client(Close::Linger, commands);
            }
        }
    }

    /// Takes a head; returns its length and whether there is more to do with what follows.
    fn take_head(&mut self, rest: &[u8], court: &mut Court<'_, P>) -> Result<(usize, bool), Refusal> {
        let Phase::Head(scan) = &mut self.phase else {
            return Ok((0, true));
        };
        let Some(head) = RequestHead::read(rest, scan, court.rules)? else {
            return Ok((0, false));
        };
        self.expects_http2 = false;
        match (court.judge)(&head) {
            Verdict::Forward(plan) => self.begin(&head, (plan, Vec::new()), court),
            Verdict::ForwardEdited(plan, edits) => {
                self.begin(&head.edited(&edits), (plan, edits.removed.clone()), court);
            }
            Verdict::Answer(answer) => {
                self.answer_instead(&head, |to, out| write_local_answer(answer, to, out));
            }
            Verdict::Given(answer) => {
                self.answer_instead(&head, |to, out| write_given_answer(&answer, to, out));
            }
            Verdict::Wait(body) => {
                self.park(&head, body);
                return Ok((0, true));
            }
        }
        Ok((head.length, true))
    }

    fn begin(&mut self, head: &RequestHead<'_>, (plan, removed): (P, Vec<Text>), court: &Court<'_, P>) {
        self.heads += 1;
        self.to_upstream.start_keeping();
        let keep_client = !self.last && self.kind == ClientKind::Connection;
        // A stream's response is for a daemon, which knows that there is one.
        let keep_client = keep_client || self.kind == ClientKind::Exchange;
        let up = self.to_upstream.buffer();
        let exchange = Exchange::start(head, court.dialled, &plan.added(), keep_client, up);
        self.phase = Phase::Exchange(Active {
            exchange,
            plan,
            removed,
            upstream: Upstream::Wanted,
            idempotent: is_idempotent(head.method),
            retried: false,
            finished_upstream: false,
            finished_client: false,
        });
    }

    /// Answers a request that does not go on. A body of known, small size is dropped; anything else ends the
    /// connection.
    fn answer_instead(
        &mut self,
        head: &RequestHead<'_>,
        write: impl FnOnce(ResponseFor, &mut Vec<u8>) -> bool,
    ) {
        self.heads += 1;
        let small = match head.framing {
            BodyFraming::None => true,
            BodyFraming::Length(length) => length <= MAX_DISCARD && !head.expects_continue,
            BodyFraming::Chunked | BodyFraming::UntilClose => false,
        };
        let keep_alive = head.keep_alive && small && head.offer == Offer::None;
        let keep_alive = keep_alive && !self.last && self.kind == ClientKind::Connection;
        let to = ResponseFor { version: head.version, keep_alive, head: head.method == b"HEAD" };
        write(to, self.to_client.buffer());
        self.phase = match head.framing {
            _ if !keep_alive => Phase::Over,
            BodyFraming::None => Phase::Head(HeadScan::default()),
            framing => Phase::Discard(BodyReader::new(framing)),
        };
    }

    /// Takes what follows a head that went on; stops at the request's end.
    fn take_body(
        &mut self,
        rest: &[u8],
        rules: &ReadRules<'_>,
        commands: &mut Commands<P>,
    ) -> Result<(usize, bool), Refusal> {
        let Phase::Exchange(active) = &mut self.phase else {
            return Ok((0, true));
        };
        let before = active.exchange.bytes().request;
        let rules = ReadRules { strip: StripList { also: &active.removed, ..rules.strip }, ..*rules };
        let taken = active.exchange.take_request(rest, &rules, self.to_upstream.buffer())?;
        self.client_body += active.exchange.bytes().request - before;
        if active.exchange.is_request_done() && !active.exchange.may_become_opaque() {
            active.finish_upstream(commands);
        }
        Ok((taken, false))
    }

    /// The client sent something that cannot be understood.
    fn refuse(&mut self, refusal: Refusal, sent: &[u8], commands: &mut Commands<P>) {
        let answer =
            LocalAnswer { status: refusal.status(), text: "", reason: refusal.reason(), decision: None };
        if matches!(self.phase, Phase::Exchange(_)) {
            self.fail(answer, Ending::BadRequest(refusal), commands);
            return;
        }
        let mut asked = AskedFor::default();
        if matches!(self.phase, Phase::Head(_)) {
            asked = AskedFor::of_head(sent);
            if !(self.expects_http2 && refusal == Refusal::StartLine) {
                self.unsaid = Some(Box::new((answer, ResponseFor::UNKNOWN)));
            }
        }
        commands.push(Command::Refused(refusal, asked));
        self.finish_client(Close::Linger, commands);
    }

    /// Ends the exchange with an answer of the daemon's own, if the client was not given another one yet.
    pub(super) fn fail(&mut self, answer: LocalAnswer<'static>, ending: Ending, commands: &mut Commands<P>) {
        let Phase::Exchange(active) = &mut self.phase else {
            return;
        };
        if active.exchange.status() != 0 {
            self.finish_exchange(ending, Release::Abort, commands);
            self.finish_client(Close::Abort, commands);
            return;
        }
        let mut to = active.exchange.client();
        to.keep_alive &= !self.last && !self.client_ended && self.kind == ClientKind::Connection;
        let complete = active.exchange.is_request_done();
        self.unsaid = Some(Box::new((answer, to)));
        let mut bytes = active.exchange.bytes();
        bytes.response += answer.body_bytes(to.head);
        self.end_exchange(Summary { status: answer.status, bytes, ending }, Release::Abort, commands);
        match (to.keep_alive, complete) {
            (true, _) => {
                self.phase = Phase::Head(HeadScan::default());
                self.owed = !self.held_client.is_empty();
            }
            (false, true) => self.finish_client(Close::Finish, commands),
            (false, false) => self.finish_client(Close::Linger, commands),
        }
    }

    /// The client did not send in time what has to be there before its request is decided.
    fn refuse_slow(&mut self, commands: &mut Commands<P>) {
        let refusal = Refusal::Slow;
        let answer =
            LocalAnswer { status: refusal.status(), text: "", reason: refusal.reason(), decision: None };
        self.unsaid = Some(Box::new((answer, ResponseFor::UNKNOWN)));
        commands.push(Command::Refused(refusal, AskedFor::of_head(&self.held_client)));
        self.finish_client(Close::Linger, commands);
    }

    pub(super) fn finish_exchange(&mut self, ending: Ending, release: Release, commands: &mut Commands<P>) {
        let (status, bytes) = match &self.phase {
            Phase::Exchange(active) => (active.exchange.status(), active.exchange.bytes()),
            _ => (0, BodyBytes::default()),
        };
        self.end_exchange(Summary { status, bytes, ending }, release, commands);
    }

    pub(super) fn end_exchange(&mut self, summary: Summary, release: Release, commands: &mut Commands<P>) {
        if let Phase::Exchange(active) = std::mem::replace(&mut self.phase, Phase::Over) {
            if active.upstream != Upstream::Wanted {
                commands.push(Command::Release(release));
            }
            commands.push(Command::Finished(active.plan, summary));
        }
        self.to_upstream.clear();
        self.held_upstream = Vec::new();
    }

    pub(super) fn finish_client(&mut self, close: Close, commands: &mut Commands<P>) {
        self.phase = Phase::Over;
        self.parked = None;
        self.held_client = Vec::new();
        if close == Close::Abort {
            self.unsaid = None;
            self.to_client.clear();
        }
        commands.push(Command::CloseClient(close));
    }

    /// After 101 the client ended: the upstream learns it, and if it had ended too, all is over.
    fn end_opaque(&mut self, commands: &mut Commands<P>) {
        let Phase::Exchange(active) = &mut self.phase else {
            return;
        };
        active.finish_upstream(commands);
        if active.upstream == Upstream::Ended {
            self.finish_exchange(Ending::Complete, Release::Close, commands);
            self.finish_client(Close::Finish, commands);
        }
    }
}

impl<P> Active<P> {
    /// Whether the rest of the request is all that there is to wait for. Once the response has begun, what is still open is
    /// a stream of both sides, each at the pace that suits it.
    pub(super) fn is_uploading(&self) -> bool {
        !self.exchange.is_request_done() && self.exchange.status() == 0
    }

    /// Says once that nothing more goes up.
    pub(super) fn finish_upstream(&mut self, commands: &mut Commands<P>) {
        if !self.finished_upstream {
            self.finished_upstream = true;
            commands.push(Command::FinishUpstream);
        }
    }
}

/// Drops a body and counts its bytes; returns how much of the input it took and whether that was its end.
fn discard(
    reader: &mut BodyReader,
    rest: &[u8],
    rules: &ReadRules<'_>,
    count: &mut u64,
) -> Result<(usize, bool), Refusal> {
    let mut taken = 0;
    loop {
        let step = reader.read(&rest[taken..], rules)?;
        taken += step.consumed;
        match step.part {
            BodyPart::Bytes(bytes) => *count += bytes.len() as u64,
            BodyPart::Pending => return Ok((taken, false)),
            BodyPart::End(_) => return Ok((taken, true)),
        }
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE" | b"TRACE")
}
