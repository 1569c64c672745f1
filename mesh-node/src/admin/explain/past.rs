//! A refusal that was: its facts, and what would be said now.

use std::time::SystemTime;

use mesh_common::model::{ConnectionFacts, Direction};

use super::asked::Asked;
use super::documents::{Called, Caller, Decision, Explanation};
use super::parties::{self, Target};
use super::{Knowledge, answer, words};
use crate::proxy::Refused;

/// Says what is kept of a refusal, and what would be said now where that can be asked.
pub fn decision(knowledge: Knowledge<'_>, refused: &Refused) -> Decision {
    let Refused { id, when, generation, facts, protocol, service, request, reason, cause, .. } = refused;
    let when = when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let is_inbound = facts.direction == Direction::Inbound;
    Decision {
        id: id.to_string(),
        when,
        generation: *generation,
        direction: if is_inbound { "inbound" } else { "outbound" }.to_owned(),
        caller: Caller {
            pod: caller_name(refused),
            identity: facts.peer.verified().map(ToString::to_string),
            address: facts.client_ip().to_string(),
        },
        called: Called {
            pod: is_inbound.then(|| facts.local.name.to_string()),
            address: facts.original_dst.to_string(),
            node: is_inbound.then(|| facts.local.node.to_string()),
            service: service.as_ref().map(ToString::to_string),
            protocol: crate::admin::dump::protocol(*protocol).to_owned(),
        },
        request: request.as_ref().map(|request| {
            format!("{} {}{}", request.method, request.host, request.path).escape_debug().to_string()
        }),
        end_user: request.as_ref().and_then(|request| request.end_user.as_ref()).map(ToString::to_string),
        reason: cause.to_string(),
        code: (*reason).to_owned(),
        decided_by: cause.denial().and_then(words::decided_by),
        // What policy had no part in it may allow, then as now.
        now: (is_inbound && cause.is_of_policy()).then(|| now(knowledge, refused, facts)).flatten(),
    }
}

fn caller_name(refused: &Refused) -> Option<String> {
    match refused.facts.direction {
        Direction::Outbound => Some(refused.facts.local.name.to_string()),
        Direction::Inbound => refused.caller.as_ref().map(ToString::to_string),
    }
}

/// What would be said of the same now; of a shortened request or one to a pod that is gone nothing.
fn now(knowledge: Knowledge<'_>, refused: &Refused, facts: &ConnectionFacts) -> Option<Explanation> {
    let pod = knowledge.snapshot.workload(&facts.local.uid)?;
    let asked = match &refused.request {
        None => Asked::connection(facts.server_name.clone()),
        Some(request) if request.is_shortened() => return None,
        Some(request) => Asked::plain(&request.method, &request.path, &request.host),
    };
    let caller = facts.client_ip().to_string();
    let identity = facts.peer.verified().map(ToString::to_string);
    let calling = parties::caller(knowledge.snapshot, Some(&caller), identity.as_deref()).ok()?;
    let target = Target {
        pod: Some(pod.clone()),
        address: facts.original_dst,
        dialled: facts.claimed_dst.unwrap_or(facts.original_dst),
        service: None,
        host: String::new(),
    };
    let calling = parties::Calling { identity: facts.peer.verified().cloned(), ..calling };
    Some(answer(knowledge, &calling, &target, asked))
}
