//! What the upstream's coming, its bytes and its end do.

use super::{
    Active, ClientKind, Close, Command, Commands, Court, Ending, Failure, Forwarded, Phase, Relay, Release,
    Summary, Upstream, feed,
};
use crate::http1::{HeadScan, LocalAnswer, ReadRules, Refusal};

const GONE: LocalAnswer<'static> = LocalAnswer {
    status: 503,
    text: "upstream connection ended before an answer",
    reason: "upstream_gone",
    decision: None,
};

impl<P: Forwarded> Relay<P> {
    /// The upstream is there; what is [to be sent](Relay::to_upstream) can be sent. `reused` says whether it
    /// served another exchange before.
    pub fn acquired(&mut self, reused: bool) {
        if let Phase::Exchange(active) = &mut self.phase {
            active.upstream = Upstream::Ready { reused, answered: false };
        }
    }

    /// The upstream could not be had, or failed before it answered.
    pub fn upstream_failed(&mut self, failure: Failure) -> Commands<P> {
        let mut commands = Commands::new();
        let whole = self.to_upstream.is_whole();
        let Phase::Exchange(active) = &mut self.phase else {
            return commands;
        };
        let unanswered = !matches!(active.upstream, Upstream::Ready { answered: true, .. });
        match failure {
            Failure::Untouched(_) if unanswered && whole && !active.retried => {
                active.retried = true;
                commands.push(Command::Reroute(failure));
            }
            Failure::Untouched(answer) | Failure::Lost(answer) => {
                self.fail(answer, Ending::Answered(answer.reason), &mut commands);
            }
        }
        commands
    }

    /// The plan is another one now: the request is sent again, from its start.
    pub fn retry(&mut self) -> Commands<P> {
        let mut commands = Commands::new();
        self.acquire_again(&mut commands);
        commands
    }

    /// No other plan: the client is given `answer`.
    pub fn answer(&mut self, answer: LocalAnswer<'static>) -> Commands<P> {
        let mut commands = Commands::new();
        self.fail(answer, Ending::Answered(answer.reason), &mut commands);
        commands
    }

    /// Takes bytes of the upstream. When they complete a response, the client's next request gets its turn.
    pub fn upstream_bytes(&mut self, fresh: &[u8], court: &mut Court<'_, P>) -> Commands<P> {
        let mut commands = Commands::new();
        let mut held = std::mem::take(&mut self.held_upstream);
        let mut step = Ok(());
        let left = feed(&mut held, fresh, |input| match self.advance_response(input, court.rules) {
            Ok(taken) => taken,
            Err(refusal) => {
                step = Err(refusal);
                input.len()
            }
        });
        self.held_upstream = left.unwrap_or_default();
        match step {
            Ok(()) => self.after_response(court, &mut commands),
            Err(refusal) => self.refuse_response(refusal, &mut commands),
        }
        commands
    }

    /// The upstream will send no more.
    pub fn upstream_ended(&mut self, court: &mut Court<'_, P>) -> Commands<P> {
        let mut commands = Commands::new();
        let opaque = matches!(&self.phase, Phase::Exchange(active) if active.exchange.is_opaque());
        if opaque {
            self.end_opaque_upstream(&mut commands);
        } else if !self.send_again(&mut commands)
            && let Phase::Exchange(active) = &mut self.phase
        {
            match active.exchange.close_response(self.to_client.buffer()) {
                Ok(()) => self.after_response(court, &mut commands),
                Err(_) => self.fail(GONE, Ending::UpstreamGone, &mut commands),
            }
        }
        commands
    }

    /// The upstream's connection failed: what there is of a response is not whole, however it was framed.
    pub fn upstream_broke(&mut self) -> Commands<P> {
        let mut commands = Commands::new();
        if !self.send_again(&mut commands) {
            self.fail(GONE, Ending::UpstreamGone, &mut commands);
        }
        commands
    }

    /// A connection out of the pool that ends before it said anything was about to be closed anyway: the request
    /// is sent once more, on a fresh one.
    fn send_again(&mut self, commands: &mut Commands<P>) -> bool {
        let whole = self.to_upstream.is_whole();
        match &mut self.phase {
            Phase::Exchange(active) if active.is_stale() && whole => active.retried = true,
            _ => return false,
        }
        commands.push(Command::Release(Release::Abort));
        self.acquire_again(commands);
        true
    }

    fn advance_response(&mut self, input: &[u8], rules: &ReadRules<'_>) -> Result<usize, Refusal> {
        let Phase::Exchange(active) = &mut self.phase else {
            return Ok(input.len());
        };
        if let Upstream::Ready { answered, .. } = &mut active.upstream
            && !*answered
            && !input.is_empty()
        {
            *answered = true;
            self.to_upstream.stop_keeping();
        }
        let edits = active.plan.response_edits();
        active.exchange.take_response(input, rules, edits, self.to_client.buffer())
    }

    fn refuse_response(&mut self, refusal: Refusal, commands: &mut Commands<P>) {
        let answer = LocalAnswer {
            status: 502,
            text: "upstream response is malformed",
            reason: refusal.reason(),
            decision: None,
        };
        self.fail(answer, Ending::BadResponse(refusal), commands);
    }

    /// Moves on when a response is complete, or when a protocol has changed.
    fn after_response(&mut self, court: &mut Court<'_, P>, commands: &mut Commands<P>) {
        let Phase::Exchange(active) = &mut self.phase else {
            return;
        };
        if active.exchange.is_opaque() {
            if self.client_ended {
                active.finish_upstream(commands);
            }
            self.take_client(&[], court, commands);
            return;
        }
        if active.exchange.is_request_done() && !active.exchange.may_become_opaque() {
            active.finish_upstream(commands);
        }
        if !active.exchange.is_response_done() {
            return;
        }
        // An answer that came before the request was sent whole is early, even if the client has said all.
        let complete = active.exchange.is_request_done() && self.to_upstream.is_empty();
        let stays = active.exchange.upstream_stays() && self.held_upstream.is_empty();
        let release = match (complete, stays) {
            (true, true) => Release::Reuse,
            (true, false) => Release::Close,
            (false, _) => Release::Abort,
        };
        let stays = active.exchange.client_stays() && self.kind == ClientKind::Connection;
        let is_last = active.exchange.is_last() && self.held_client.is_empty();
        let ending = if complete { Ending::Complete } else { Ending::Early };
        let summary = Summary { status: active.exchange.status(), bytes: active.exchange.bytes(), ending };
        self.end_exchange(summary, release, commands);
        if stays {
            self.phase = Phase::Head(HeadScan::default());
            self.take_client(&[], court, commands);
        } else {
            self.finish_client(
                match (complete, is_last) {
                    (true, true) => Close::Done,
                    (true, false) => Close::Finish,
                    (false, _) => Close::Linger,
                },
                commands,
            );
        }
    }

    fn end_opaque_upstream(&mut self, commands: &mut Commands<P>) {
        let Phase::Exchange(active) = &mut self.phase else {
            return;
        };
        active.upstream = Upstream::Ended;
        if self.client_ended {
            self.finish_exchange(Ending::Complete, Release::Close, commands);
            self.finish_client(Close::Finish, commands);
        } else if !active.finished_client {
            active.finished_client = true;
            commands.push(Command::FinishClient);
        }
    }

    fn acquire_again(&mut self, commands: &mut Commands<P>) {
        let Phase::Exchange(active) = &mut self.phase else {
            return;
        };
        active.upstream = Upstream::Acquiring;
        self.to_upstream.rewind();
        self.held_upstream = Vec::new();
        commands.push(Command::Acquire { fresh: true });
        if active.finished_upstream {
            commands.push(Command::FinishUpstream);
        }
    }
}

impl<P> Active<P> {
    fn is_stale(&self) -> bool {
        let unanswered = matches!(self.upstream, Upstream::Ready { reused: true, answered: false });
        unanswered && self.idempotent && !self.retried
    }
}
