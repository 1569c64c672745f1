//! External authorization: what CUSTOM policies match is asked of the authorization server that they name.
//!
//! In: a request that policy denies for want of asking. Out: a question that the carriage holds it up for, and with the answer
//! a second decision: what the server lets pass is still up to DENY and ALLOW. A request is asked about once. Whatever the
//! server does (slow, gone, not understood), its request is answered within the timeout, and holds up no other.

mod channel;
mod check;
mod word;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mesh_common::http1::{GivenAnswer, LocalAnswer};
use mesh_common::model::{
    ConnectionFacts, ExternalAuthorizer, RequestCopy, RequestFacts, Workload, WorkloadUid,
};
use mesh_common::policy::{self, Denial, DenialReason, ExternalDenial};
use mesh_common::resolve::Destination;
use mesh_common::snapshot::Snapshot;
use tokio::sync::oneshot;

use self::channel::Clients;
use self::check::Asked;
pub(super) use self::word::{Allowance, Word};
use super::record::Subject;
use super::request::{Reported, RequestSide, given_id};
use super::response::Rejection;
use super::{Core, Proxy};
use crate::telemetry::labels::{RecordedProtocol, ResponseFlags};
use crate::transport::CloseReason;
use crate::transport::http1::{AskedBody, Question, QuestionId};
use crate::transport::tasks;

/// Most questions of one core that have no answer: more wait for nothing.
const MOST_OPEN: usize = 4096;

/// What the caller of a request is told that may wait no longer for who was asked about it; over HTTP/2 it is told of its own
/// deadline.
const LATE: LocalAnswer<'static> =
    LocalAnswer { status: 504, text: "external authorization failed", reason: "", decision: None };

/// The questions of one core.
#[derive(Default)]
pub(super) struct Questions {
    next: Cell<u64>,
    open: RefCell<HashMap<QuestionId, Open>>,
    clients: Clients,
}

struct Open {
    about: Rc<About>,
    stage: Stage,
}

enum Stage {
    /// Nobody was told to ask so far.
    Prepared,
    /// Dropped, nobody waits any more.
    Asking(#[expect(dead_code, reason = "its end is what says something")] oneshot::Sender<()>),
    /// There is an answer.
    Answered(Word),
}

/// What is asked, of whom.
struct About {
    authorizer: Arc<ExternalAuthorizer>,
    asked: Asked,
    facts: ConnectionFacts,
    destination: Destination,
    caller: Option<Arc<Workload>>,
    request: RequestCopy,
    protocol: RecordedProtocol,
    since: Instant,
    /// What policy says of it as long as nobody has answered.
    denial: Denial,
}

/// What was said of a request to one pod.
#[derive(Clone, Debug)]
pub(super) struct Said(Rc<Saying>);

#[derive(Debug)]
struct Saying {
    authorizer: Arc<ExternalAuthorizer>,
    called: WorkloadUid,
    word: Word,
}

/// Why a request has no plan.
pub(super) enum Unplanned {
    /// It is answered in our words.
    Rejected(Rejection),
    /// The server has refused it, in its own.
    Refused(Rejection, Box<GivenAnswer>),
    /// It is asked about first.
    Ask(Question),
}

impl About {
    /// Shows who called whom, and the request.
    fn show<T>(&self, report: impl FnOnce(Subject<'_>, &RequestFacts<'_>) -> T) -> T {
        let Self { facts, destination, caller, .. } = self;
        let subject = Subject { facts, destination, caller: caller.as_ref() };
        self.request.show(|request| report(subject, request))
    }

    /// Why it is refused whose request may not wait any longer, whatever time its authorization server has.
    fn too_late(&self) -> Rejection {
        let reason = DenialReason::External(ExternalDenial::TimedOut);
        Rejection::Unanswered(Denial { reason, ..self.denial.clone() }, LATE.status)
    }

    /// Of a request that nobody answered so far.
    fn reported(&self) -> Reported {
        Reported::unanswered(self.protocol, self.since.elapsed())
    }
}

impl Said {
    /// What it lets a request to this pod pass with.
    fn allowance(&self, called: &WorkloadUid) -> Option<&Allowance> {
        match &self.0.word {
            Word::Allowed(allowance) if self.0.called == *called => Some(allowance),
            _ => None,
        }
    }
}

/// Shows a request to a pod as the authorization server lets it pass, if one did.
pub(super) fn with_word<T>(
    said: Option<&Said>,
    called: &WorkloadUid,
    request: &RequestFacts<'_>,
    judge: impl FnOnce(&RequestFacts<'_>) -> T,
) -> T {
    match said.and_then(|said| Some((said, said.allowance(called)?))) {
        Some((said, allowance)) => allowance.show(&said.0.authorizer.name, request, judge),
        None => judge(request),
    }
}

/// With what a request to a pod passes.
pub(super) fn allowance<'s>(said: Option<&'s Said>, called: &WorkloadUid) -> Option<&'s Allowance> {
    said.and_then(|said| said.allowance(called))
}

impl Core {
    /// What becomes of a request that was rejected: it may be one to be asked about. `said` is what was said of it.
    pub(super) fn unplanned(
        &self,
        snapshot: &Snapshot,
        subject: Subject<'_>,
        request: &RequestFacts<'_>,
        rejection: Rejection,
        said: Option<&Said>,
    ) -> Unplanned {
        let Rejection::Denied(denial) = rejection else { return Unplanned::Rejected(rejection) };
        let denied = |reason| Denial { reason: DenialReason::External(reason), ..denial.clone() };
        let authorizer = match policy::authorizer(snapshot, denial.clone()) {
            Ok(authorizer) => authorizer,
            Err(denial) => return Unplanned::Rejected(Rejection::Denied(denial)),
        };
        let called = &subject.facts.local.uid;
        let spoken =
            said.filter(|said| said.0.called == *called && said.0.authorizer.name == authorizer.name);
        match spoken.map(|said| &said.0.word) {
            Some(Word::Refused(given)) => {
                let rejection = Rejection::Denied(denied(ExternalDenial::Refused));
                Unplanned::Refused(rejection, given.clone())
            }
            Some(Word::Failed(fault)) => {
                let status = match fault {
                    ExternalDenial::BodyTooLarge => 413,
                    _ => authorizer.status_on_error,
                };
                Unplanned::Rejected(Rejection::Unanswered(denied(*fault), status))
            }
            Some(Word::Allowed(_)) => {
                Unplanned::Rejected(Rejection::Denied(denied(ExternalDenial::NotAsked)))
            }
            None => match self.prepare(subject, authorizer, (request, denial.clone())) {
                Some(question) => Unplanned::Ask(question),
                None => {
                    let denial = denied(ExternalDenial::Overloaded);
                    Unplanned::Rejected(Rejection::Unanswered(denial, authorizer.status_on_error))
                }
            },
        }
    }

    fn prepare(
        &self,
        subject: Subject<'_>,
        authorizer: &Arc<ExternalAuthorizer>,
        (request, denial): (&RequestFacts<'_>, Denial),
    ) -> Option<Question> {
        let mut open = self.questions.open.borrow_mut();
        if open.len() >= MOST_OPEN {
            return None;
        }
        let Subject { facts, destination, caller } = subject;
        let id = QuestionId(self.questions.next.replace(self.questions.next.get() + 1));
        let about = About {
            authorizer: Arc::clone(authorizer),
            asked: Asked::of(facts, destination.protocol, request),
            facts: facts.clone(),
            destination: destination.clone(),
            caller: caller.cloned(),
            request: RequestCopy::of(request),
            protocol: super::record::recorded(destination.protocol),
            since: Instant::now(),
            denial,
        };
        open.insert(id, Open { about: Rc::new(about), stage: Stage::Prepared });
        Some(Question { id, body: authorizer.body.map(|body| body.max_bytes as usize) })
    }

    /// The answer to a question; nothing waits for it any more.
    pub(super) fn take_answer(&self, question: QuestionId) -> Option<Said> {
        let Open { about, stage } = self.questions.open.borrow_mut().remove(&question)?;
        let Stage::Answered(word) = stage else { return None };
        let (authorizer, called) = (Arc::clone(&about.authorizer), about.facts.local.uid.clone());
        Some(Said(Rc::new(Saying { authorizer, called, word })))
    }

    /// Nobody asks about a request any more that is reported already.
    pub(super) fn drop_question(&self, question: QuestionId) {
        self.questions.open.borrow_mut().remove(&question);
    }

    /// The caller of a request that waited is gone.
    pub(super) fn forget_question(&self, question: QuestionId) {
        let Some(about) = self.take_question(question) else { return };
        let side = about.show(|subject, request| self.side_of(subject, None, request, given_id(request)));
        let (flags, reason) = (ResponseFlags::DownstreamDisconnect, CloseReason::ClientReset.reason());
        side.ended(&Reported { flags, reason, ..about.reported() });
    }

    /// A request that waited is asked about no more: how what it waits for is reported, before it is known how it ends.
    pub(super) fn asked_side(&self, question: QuestionId) -> Option<RequestSide> {
        let about = self.take_question(question)?;
        Some(about.show(|subject, request| self.side_of(subject, None, request, given_id(request))))
    }

    /// The same of a request that may wait no longer: it is refused for that.
    pub(super) fn late_side(&self, question: QuestionId) -> Option<RequestSide> {
        let about = self.take_question(question)?;
        Some(about.show(|subject, request| self.reject_request(subject, &about.too_late(), request)))
    }

    /// What the caller of a request over HTTP/1.1 is told that may wait no longer; it is reported.
    pub(super) fn question_was_late(&self, question: QuestionId) -> Option<LocalAnswer<'static>> {
        let about = self.take_question(question)?;
        let rejection = about.too_late();
        let side = about.show(|subject, request| self.reject_request(subject, &rejection, request));
        let answer = LocalAnswer { reason: rejection.reason(), decision: side.decision(), ..LATE };
        let (flags, reason) = (ResponseFlags::UpstreamTimeout, answer.reason);
        let response_bytes = LATE.text.len() as u64;
        side.ended(&Reported { code: LATE.status, flags, reason, response_bytes, ..about.reported() });
        Some(answer)
    }

    fn take_question(&self, question: QuestionId) -> Option<Rc<About>> {
        self.questions.open.borrow_mut().remove(&question).map(|open| open.about)
    }

    /// Connections to authorization servers on behalf of a pod that is not captured any more.
    pub(super) fn forget_asking_for(&self, called: &WorkloadUid) {
        self.questions.clients.forget(called);
    }
}

impl Proxy {
    /// Asks, beside the engine; `done` says that there is an answer.
    pub(super) fn ask_beside(&self, question: QuestionId, body: AskedBody, done: Box<dyn FnOnce()>) {
        let asking = self.asking(question, body);
        tasks::spawn(Box::pin(async move {
            asking.await;
            done();
        }));
    }

    /// Asks; the answer is kept with the question. Ends early if nobody waits for it.
    pub(super) fn asking(&self, question: QuestionId, body: AskedBody) -> impl Future<Output = ()> + 'static {
        let (sender, mut nobody_waits) = oneshot::channel();
        let about = self.questions.open.borrow_mut().get_mut(&question).map(|open| {
            open.stage = Stage::Asking(sender);
            Rc::clone(&open.about)
        });
        let proxy = self.clone();
        async move {
            let Some(about) = about else { return };
            let word = tokio::select! {
                word = proxy.word(&about, body) => word,
                _ = &mut nobody_waits => return,
            };
            if let Some(open) = proxy.questions.open.borrow_mut().get_mut(&question) {
                open.stage = Stage::Answered(word);
            }
        }
    }

    async fn word(&self, about: &About, body: AskedBody) -> Word {
        let authorizer = &about.authorizer;
        let is_shown = |included: mesh_common::model::IncludedBody| included.allow_partial || body.is_whole;
        if !authorizer.body.is_none_or(is_shown) {
            return Word::Failed(ExternalDenial::BodyTooLarge);
        }
        let asked = tokio::time::timeout(authorizer.timeout, self.converse(about, &body)).await;
        let word = match asked {
            Ok(Ok(word)) => word,
            Ok(Err(fault)) => Word::Failed(fault),
            Err(_) => Word::Failed(ExternalDenial::TimedOut),
        };
        match word {
            Word::Failed(fault) if fault.is_failure() && authorizer.fail_open => {
                Word::Allowed(Box::default())
            }
            word => word,
        }
    }
}
