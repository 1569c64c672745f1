//! May somebody do something, and why: asked of a snapshot, with the functions of the data path.
//!
//! In: a [`Question`] and what is known. Out: an [`Explanation`], the same whether an agent was asked or a folder.
//! Never: a decision of its own, nor a token or a credential in what it says.

mod asked;
pub mod documents;
mod parties;
mod past;
mod words;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::model::{
    ConnectionFacts, Direction, Enrolment, PeerIdentity, Protocol, RequestFacts, ServerName, Workload,
};
use mesh_common::policy::{self, Authenticated, Denial, Explained};
use mesh_common::resolve::{self, Destination};
use mesh_common::snapshot::Snapshot;
use mesh_common::token::TokenCache;

use self::asked::Asked;
use self::documents::{Answer, Explanation, Question};
use self::parties::{Calling, Target};

pub use self::past::decision;

/// What it is answered with.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// What is known.
    pub snapshot: &'a Snapshot,
    /// Where only of this node's pods it is known which policies are about them.
    pub only_node: Option<&'a str>,
    /// Seconds since the epoch: tokens hold for a time.
    pub now: u64,
}

/// Answers a question.
///
/// # Errors
/// Text that names the part of the question which nothing is known of, with what is.
pub fn explain(knowledge: Knowledge<'_>, question: &Question) -> Result<Explanation, String> {
    let Knowledge { snapshot, only_node, .. } = knowledge;
    let calling = parties::caller(snapshot, question.from.as_deref(), question.from_identity.as_deref())?;
    let targets = parties::called(snapshot, &question.to, &calling)?;
    if let Some(node) = only_node {
        targets.iter().try_for_each(|target| is_told_here(target, node))?;
    }
    let mut answers = Vec::with_capacity(targets.len());
    for target in &targets {
        let asked = Asked::of(snapshot, question, &calling, target)?;
        answers.push(answer(knowledge, &calling, target, asked));
    }
    let notes = among_endpoints(&answers);
    // Whoever dials a Service may come to any of its endpoints: the worst counts.
    let worst = |explanation: &Explanation| match explanation.answer {
        Answer::Refused => 0,
        Answer::DependsOnRequest | Answer::DependsOnProvider => 1,
        Answer::Allowed => 2,
    };
    let mut first = answers.into_iter().min_by_key(worst).ok_or("nobody is called")?;
    first.notes.extend(notes);
    Ok(first)
}

/// A pod whose policies this agent is told: those of its own node.
fn is_told_here(target: &Target, node: &str) -> Result<(), String> {
    match &target.pod {
        Some(pod) if *pod.node != *node => Err(format!(
            "{} is on node {}, and the agent of {node} is told only which policies are about its own pods: ask the \
             agent of {}",
            pod.name, pod.node, pod.node
        )),
        _ => Ok(()),
    }
}

fn among_endpoints(answers: &[Explanation]) -> Option<String> {
    let refused: Vec<&Explanation> =
        answers.iter().filter(|explanation| explanation.answer == Answer::Refused).collect();
    let is_mixed = !refused.is_empty() && refused.len() < answers.len();
    let name = |explanation: &&Explanation| {
        explanation.called.pod.clone().unwrap_or_else(|| explanation.called.address.clone())
    };
    is_mixed.then(|| {
        let names: Vec<String> = refused.iter().map(name).collect();
        format!(
            "{} of {} endpoints of the Service refuse: {}",
            refused.len(),
            answers.len(),
            names.join(", ")
        )
    })
}

/// What the data path says.
enum Said<'a> {
    /// No agent decides.
    Nobody(String),
    /// The caller's side refuses.
    AtSource(Denial),
    /// The called side refuses before rules are asked.
    Before(Denial),
    /// The rules say.
    Rules(Box<Explained<'a>>),
}

fn answer(knowledge: Knowledge<'_>, calling: &Calling, target: &Target, asked: Asked) -> Explanation {
    let snapshot = knowledge.snapshot;
    let mut explanation = words::blank(snapshot, calling, target, &asked);
    if let Some(refusal) = asked.malformed() {
        return words::malformed(explanation, refusal);
    }
    let outbound = outbound_facts(calling, target);
    let destination = outbound.as_ref().map(|facts| resolve::destination(snapshot, facts));
    if let Some((facts, destination)) = outbound.as_ref().zip(destination.as_ref())
        && let Err(denial) = policy::authorize_connection(snapshot, facts, destination)
    {
        words::say(&mut explanation, snapshot, Said::AtSource(denial));
        return explanation;
    }
    if let Some(reason) = undecided(target) {
        words::say(&mut explanation, snapshot, Said::Nobody(reason));
        return explanation;
    }
    let Some(facts) = inbound_facts(calling, target, &asked) else {
        words::say(
            &mut explanation,
            snapshot,
            Said::Nobody("the caller has no address of this family".into()),
        );
        return explanation;
    };
    judge(knowledge, &facts, &asked, &mut explanation);
    explanation
}

/// What the called side says of a connection or request.
fn judge(knowledge: Knowledge<'_>, facts: &ConnectionFacts, asked: &Asked, explanation: &mut Explanation) {
    let snapshot = knowledge.snapshot;
    let destination = resolve::destination(snapshot, facts);
    words::requirements(explanation, snapshot, facts, &destination);
    let Some(destination) = asked.is_request().then(|| destination.clone().with_detected(Protocol::Http1))
    else {
        let explained = policy::explain(snapshot, facts, &destination, None);
        return words::say(explanation, snapshot, Said::Rules(Box::new(explained)));
    };
    // In the data path's order: the connection, the token, the request.
    if let Some(denial) = policy::authorize_connection(snapshot, facts, &destination).err()
        && denial.reason.is_of_connection()
    {
        return words::say(explanation, snapshot, Said::Before(denial));
    }
    asked.show(|request| {
        let mut cache = TokenCache::default();
        let now = knowledge.now;
        let asked = policy::tokens_asked(snapshot, facts, &destination);
        let authenticated = asked.map(|asked| asked.authenticate(request, now, &mut cache)).transpose();
        let authenticated: Option<Authenticated> = match authenticated {
            Ok(authenticated) => authenticated,
            Err(denial) => return words::say(explanation, snapshot, Said::Before(denial)),
        };
        words::end_user(explanation, authenticated.as_ref());
        let mut say =
            |request: &RequestFacts<'_>| rules(explanation, snapshot, (facts, &destination), request);
        match &authenticated {
            None => say(request),
            Some(authenticated) => authenticated.show(request, say),
        }
    });
}

/// What the rules say of a request; where an authorization server is to be asked, what they say once it lets it pass.
fn rules(
    explanation: &mut Explanation,
    snapshot: &Snapshot,
    (facts, destination): (&ConnectionFacts, &Destination),
    request: &RequestFacts<'_>,
) {
    let mut explained = policy::explain(snapshot, facts, destination, Some(request));
    let Err(denial) = &explained.verdict else {
        return words::say(explanation, snapshot, Said::Rules(Box::new(explained)));
    };
    match policy::authorizer(snapshot, denial.clone()) {
        Err(denial) => {
            explained.verdict = Err(denial);
            words::say(explanation, snapshot, Said::Rules(Box::new(explained)));
        }
        Ok(authorizer) => {
            let asker = words::decided_by(denial).unwrap_or_default();
            let passed = RequestFacts { allowed_by: Some(&authorizer.name), ..*request };
            let then = policy::explain(snapshot, facts, destination, Some(&passed));
            words::say(explanation, snapshot, Said::Rules(Box::new(then)));
            words::asks(explanation, &asker, authorizer);
        }
    }
}

/// Why nobody decides there, if nobody does.
fn undecided(target: &Target) -> Option<String> {
    let Some(pod) = &target.pod else {
        return Some(format!("{} is no pod of the mesh: no policy is asked", target.address));
    };
    if pod.enrolment == Enrolment::Disabled {
        return Some(format!("{} is not enrolled: no policy is asked", pod.name));
    }
    (!pod.takes_mesh_traffic_on(target.address.port())).then(|| {
        let port = target.address.port();
        format!("port {port} of {} is excluded from the mesh by its annotation: no policy is asked", pod.name)
    })
}

/// What the caller's agent knows, where it has one.
fn outbound_facts(calling: &Calling, target: &Target) -> Option<ConnectionFacts> {
    let local = calling.pod.as_ref().filter(|pod| pod.enrolment == Enrolment::Enabled)?;
    let address = calling.address(target.dialled)?;
    Some(ConnectionFacts {
        direction: Direction::Outbound,
        client: SocketAddr::new(address, 0),
        original_dst: target.dialled,
        peer: PeerIdentity::Verified(local.identity.clone()),
        local: Arc::clone(local),
        certificate: None,
        claimed_dst: None,
        server_name: ServerName::Absent,
    })
}

fn inbound_facts(calling: &Calling, target: &Target, asked: &Asked) -> Option<ConnectionFacts> {
    let local: &Arc<Workload> = target.pod.as_ref()?;
    Some(ConnectionFacts {
        direction: Direction::Inbound,
        client: SocketAddr::new(calling.address(target.address)?, 0),
        original_dst: target.address,
        local: Arc::clone(local),
        peer: calling.identity.clone().map_or(PeerIdentity::None, PeerIdentity::Verified),
        certificate: None,
        claimed_dst: Some(target.dialled),
        server_name: asked.server_name.clone(),
    })
}

/// What a port is declared to speak, in the access log's words.
fn spoken(destination: &Destination) -> &'static str {
    super::dump::protocol(destination.protocol)
}
