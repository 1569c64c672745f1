//! What was found, in words.

use mesh_common::model::policy::{Action, Mode, MutualTls};
use mesh_common::model::{AuthorizationPolicy, ConnectionFacts, ExternalAuthorizer, Protocol};
use mesh_common::policy::{
    self, AuditFinding, AuditVerdict, Authenticated, Basis, Denial, DenialReason, Explained, Heard, Miss,
    Permit, Requests,
};
use mesh_common::resolve::Destination;
use mesh_common::snapshot::{Effect, Snapshot};

use super::asked::Asked;
use super::documents::{Answer, Called, Caller, Explanation, HeardPolicy, Missed, NearestRule};
use super::parties::{Calling, Target};
use super::{Said, spoken};
use crate::admin::policies;

/// An answer in which nothing is said so far but who asks whom for what.
pub(super) fn blank(snapshot: &Snapshot, calling: &Calling, target: &Target, asked: &Asked) -> Explanation {
    let mut notes = calling.notes.clone();
    notes.extend(asked.notes.iter().cloned());
    if let Some((path, second)) = asked.readings() {
        notes.push(format!(
            "the path {path} can be read as {second} too: what refuses reads it both ways, what allows must allow both"
        ));
    }
    let source_side = match &calling.pod {
        Some(_) if calling.identity.is_some() => "lets it out: policies hold at the called side",
        _ => "no agent of the mesh is on the caller's side",
    };
    Explanation {
        answer: Answer::Allowed,
        reason: String::new(),
        code: None,
        decided_by: None,
        decided_at: None,
        caller: Caller {
            pod: calling.pod.as_ref().map(|pod| pod.name.to_string()),
            identity: calling.identity.as_ref().map(ToString::to_string),
            address: calling.address(target.address).map(|address| address.to_string()).unwrap_or_default(),
        },
        called: Called {
            pod: target.pod.as_ref().map(|pod| pod.name.to_string()),
            address: target.address.to_string(),
            node: target.pod.as_ref().map(|pod| pod.node.to_string()),
            service: target.service.clone(),
            protocol: "undeclared".to_owned(),
        },
        request: asked.line(),
        source_side: source_side.to_owned(),
        mutual_tls: None,
        end_user: None,
        policies: Vec::new(),
        nearest: None,
        findings: Vec::new(),
        notes,
        generation: snapshot.generation(),
    }
}

/// A request that nobody decides about: it is answered with 400.
pub(super) fn malformed(mut explanation: Explanation, (code, error): (&'static str, String)) -> Explanation {
    explanation.answer = Answer::Refused;
    explanation.reason = format!("answered with 400 before policy is asked: {error}");
    explanation.code = Some(code.to_owned());
    explanation
}

/// What is asked of callers there, whatever they ask for.
pub(super) fn requirements(
    explanation: &mut Explanation,
    snapshot: &Snapshot,
    facts: &ConnectionFacts,
    destination: &Destination,
) {
    explanation.called.protocol = spoken(destination).to_owned();
    let port = destination.address.port();
    explanation.mutual_tls = policy::mutual_tls_at(snapshot, &facts.local, port).map(|(mode, by)| {
        let mode = match mode {
            MutualTls::Strict => "STRICT",
            MutualTls::Permissive => "PERMISSIVE",
        };
        match by {
            Some(by) => format!("{mode}, by PeerAuthentication {}", by.name),
            None => format!("{mode}, for no PeerAuthentication says anything"),
        }
    });
    let asking = snapshot.request_authentications(&facts.local.uid, destination.address).unwrap_or_default();
    let names: Vec<String> = asking.iter().map(|policy| policy.name.to_string()).collect();
    explanation.end_user = Some(match (names.is_empty(), explanation.request.is_some()) {
        (true, _) => "no RequestAuthentication is about it".to_owned(),
        (false, false) => {
            format!("each request's token is looked at, by RequestAuthentication {}", names.join(", "))
        }
        (false, true) => format!("no token, of those that RequestAuthentication {} takes", names.join(", ")),
    });
    if explanation.request.is_some() && matches!(destination.protocol, Protocol::Tcp | Protocol::Tls) {
        explanation.notes.push(format!(
            "the port is declared {}: its bytes are not read as HTTP, and nothing that was said of the request counts",
            spoken(destination)
        ));
    }
}

/// Whom the token speaks of, where it holds.
pub(super) fn end_user(explanation: &mut Explanation, authenticated: Option<&Authenticated>) {
    if let Some(user) = authenticated.and_then(|found| found.end_user.as_ref()) {
        let principal = user.claims.principal().map_or("nobody by name", |principal| &**principal);
        explanation.end_user = Some(format!("{principal}, by a token that holds"));
    }
}

/// Puts in what the data path says.
pub(super) fn say(explanation: &mut Explanation, snapshot: &Snapshot, said: Said<'_>) {
    match said {
        Said::Nobody(reason) => explanation.reason = reason,
        Said::AtSource(denial) => {
            explanation.source_side = format!("refuses: {}", denial.reason);
            refused(explanation, &denial, "source");
        }
        Said::Before(denial) => {
            if denial.policy.is_some() && matches!(denial.reason, DenialReason::InvalidToken(_)) {
                explanation.end_user = Some(format!("its token does not hold: {}", denial.reason));
            }
            note_fault(explanation, snapshot, &denial);
            refused(explanation, &denial, "destination");
        }
        Said::Rules(explained) => {
            explanation.policies = explained.heard.iter().map(heard).collect();
            faults(explanation, &explained);
            match &explained.verdict {
                Ok(permit) => permitted(explanation, permit),
                Err(denial) => {
                    refused(explanation, denial, "destination");
                    nearest(explanation, &explained, denial);
                }
            }
            doubts(explanation, &explained);
        }
    }
}

/// An authorization server is asked before the rules: what follows of what it says.
pub(super) fn asks(explanation: &mut Explanation, asker: &str, authorizer: &ExternalAuthorizer) {
    let ExternalAuthorizer { name, service, port, fail_open, .. } = authorizer;
    let silent = if *fail_open { "as if it allowed" } else { "refused" };
    explanation.notes.push(format!(
        "{asker} asks the authorization server {name} ({service}:{port}) first: if it denies, the request is refused; \
         if it says nothing in time, {silent}"
    ));
    if explanation.answer == Answer::Allowed {
        explanation.answer = Answer::DependsOnProvider;
        explanation.reason =
            format!("the authorization server {name} is asked; if it allows: {}", explanation.reason);
    }
}

fn permitted(explanation: &mut Explanation, permit: &Permit<'_>) {
    explanation.decided_at = Some("destination".to_owned());
    let depends = explanation.request.is_none() && permit.requests() == Requests::NeedDecision;
    explanation.answer = if depends { Answer::DependsOnRequest } else { Answer::Allowed };
    explanation.reason = match permit.basis() {
        _ if depends => {
            "each request is decided by itself: say which, with --method, --path, --header".to_owned()
        }
        Basis::Rule(by) => {
            let decided = rule_name(by.policy, Some(by.rule));
            let reason = format!("{decided} allows it");
            explanation.decided_by = Some(decided);
            reason
        }
        Basis::Outbound | Basis::NoPolicy | Basis::EachRequest => {
            "no ALLOW policy is about it, and nothing denies it".to_owned()
        }
    };
    explanation.findings = permit.findings().iter().map(finding).collect();
}

fn refused(explanation: &mut Explanation, denial: &Denial, at: &str) {
    explanation.answer = Answer::Refused;
    explanation.reason = denial.to_string();
    explanation.code = Some(denial.reason.code().to_owned());
    explanation.decided_at = Some(at.to_owned());
    explanation.decided_by = decided_by(denial);
}

/// Policy and rule of a denial.
pub(super) fn decided_by(denial: &Denial) -> Option<String> {
    let policy = denial.policy.as_ref()?;
    let rule = denial.rule.map(|rule| format!(" rules[{rule}]")).unwrap_or_default();
    Some(format!("{policy}{rule}"))
}

fn finding(finding: &AuditFinding<'_>) -> String {
    let name = rule_name(finding.policy, finding.rule);
    match finding.verdict {
        AuditVerdict::Audited => format!("{name} matches, and only reports that"),
        AuditVerdict::WouldDeny(reason) => format!("{name} would refuse it, if it were in force: {reason}"),
    }
}

/// The rule that comes nearest to allowing it; of a DENY too, which may be all that is in the way.
fn nearest(explanation: &mut Explanation, explained: &Explained<'_>, denial: &Denial) {
    if denial.reason.is_of_connection() {
        return;
    }
    let has_allow = explained.heard.iter().any(|heard| heard.effect == Effect::Allow);
    if !has_allow {
        let note = "no ALLOW policy is about it: but for what refuses it would be allowed";
        return explanation.notes.push(note.to_owned());
    }
    let Some((policy, nearest)) = explained.nearest_allow() else {
        let note = "no ALLOW policy about it has a rule that could match";
        return explanation.notes.push(note.to_owned());
    };
    explanation.nearest = Some(NearestRule {
        rule: rule_name(policy, Some(nearest.rule)),
        says: policies::rule(&policy.rules[nearest.rule]),
        misses: nearest.misses.iter().map(missed).collect(),
    });
}

fn missed(miss: &Miss) -> Missed {
    Missed { field: miss.field.clone(), reason: miss.reason.clone(), in_one_reading: miss.is_doubtful }
}

fn heard(heard: &Heard<'_>) -> HeardPolicy {
    let action = match &heard.policy.action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Audit => "AUDIT",
        Action::Custom(_) => "CUSTOM",
    };
    let action = match heard.policy.mode {
        Mode::Enforce => action.to_owned(),
        Mode::Audit => format!("{action}, mode Audit"),
    };
    let matches = heard.nearest.as_ref().filter(|nearest| nearest.misses.is_empty());
    HeardPolicy {
        name: heard.policy.name.to_string(),
        action,
        matches: matches.map(|nearest| nearest.rule),
        fault: heard.policy.fault.as_deref().map(policies::fault),
    }
}

fn faults(explanation: &mut Explanation, explained: &Explained<'_>) {
    for heard in &explained.heard {
        if let Some(fault) = heard.policy.fault.as_deref() {
            let name = &heard.policy.name;
            let fault = policies::fault(fault);
            explanation.notes.push(format!("AuthorizationPolicy {name} is not understood: {fault}"));
        }
    }
}

/// What a RequestAuthentication says that is not understood.
fn note_fault(explanation: &mut Explanation, snapshot: &Snapshot, denial: &Denial) {
    let Some(name) = denial.policy.as_ref().filter(|_| denial.reason == DenialReason::PolicyFault) else {
        return;
    };
    let policy = snapshot.all_request_authentications().find(|policy| policy.name == name.name);
    if let Some(fault) = policy.and_then(|policy| policy.fault.as_deref()) {
        explanation.notes.push(format!("{name} is not understood: {}", policies::fault(fault)));
    }
}

/// Rules that match in one of the readings of what is asked, and not in all.
fn doubts(explanation: &mut Explanation, explained: &Explained<'_>) {
    for heard in &explained.heard {
        let Some(nearest) = heard.nearest.as_ref().filter(|nearest| nearest.is_doubtful) else { continue };
        let name = rule_name(heard.policy, Some(nearest.rule));
        let counts = match heard.effect {
            Effect::Allow | Effect::WouldAllow => "it allows only what it matches in all of them",
            _ => "that is enough for it",
        };
        explanation
            .notes
            .push(format!("{name} matches in one reading of what is asked and not in all: {counts}"));
    }
}

fn rule_name(policy: &AuthorizationPolicy, rule: Option<usize>) -> String {
    let rule = rule.map(|rule| format!(" rules[{rule}]")).unwrap_or_default();
    format!("AuthorizationPolicy {}{rule}", policy.name)
}
