//! Requests about which somebody is asked: the conductor asks, and the engine goes on when there is an answer.

use super::{AskedBody, QuestionId, Unwaited};
use crate::transport::tunnel::{Conductor, Connection, Engine, Key, Kind};

impl<C: Conductor> Engine<C> {
    /// Has the conductor ask about the request that waits.
    pub(super) fn http_ask(&mut self, key: Key) {
        let handle = self.handle();
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else { return };
        let Some(question) = http.question else { return };
        let (bytes, is_whole) = http.relay.gathered();
        let done = move || {
            // Where the engine is gone, so is the client.
            let _ = handle.send(move |engine: &mut Self| engine.http_answered(key, question));
        };
        self.conductor.ask(question, AskedBody { bytes, is_whole }, Box::new(done));
    }

    /// Nobody waits for the answer any more.
    pub(super) fn http_not_asked(&mut self, key: Key, why: Unwaited) {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else { return };
        if let Some(question) = http.question.take() {
            self.conductor.not_asked(question, why);
        }
    }

    /// The answer did not come in time, and the client is told so.
    pub(super) fn http_unanswered(&mut self, key: Key) {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else { return };
        let answer = http.question.take().and_then(|question| self.conductor.unanswered(question));
        match answer {
            Some(answer) => http.relay.answer_unanswered(answer),
            None => http.relay.answer_refused(None),
        }
    }

    /// There is an answer.
    fn http_answered(&mut self, key: Key, question: QuestionId) {
        let commands = self.http_step(key, |http, bench| {
            let waits = http.question == Some(question);
            waits.then(|| http.ask(bench, |relay, court| relay.resume(court)))
        });
        if let Some(commands) = commands {
            self.http_obey(key, commands);
            self.http_turn(key);
        }
    }
}
