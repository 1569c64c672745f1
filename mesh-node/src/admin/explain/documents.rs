//! What is asked about authorization, and what is answered.

use serde::{Deserialize, Serialize};

/// `POST /v1/explain`: may somebody do something?
///
/// Not printable: it may have a token in it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Question {
    /// `NAMESPACE/POD`, an IP address, or `outside`.
    pub from: Option<String>,
    /// SPIFFE id that the caller proves instead of its pod's.
    pub from_identity: Option<String>,
    /// `NAMESPACE/NAME:PORT` of a pod or a Service.
    pub to: String,
    /// Of a request: its method.
    pub method: Option<String>,
    /// Its path, and query if it has one.
    pub path: Option<String>,
    /// The host that it names.
    pub host: Option<String>,
    /// Its fields.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The end user's token.
    pub token: Option<String>,
    /// Of a connection: the name that its TLS asks for.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// Whether it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
    /// Each request is decided by itself, and none was named.
    DependsOnRequest,
    /// An authorization server is asked, and its word decides.
    DependsOnProvider,
}

/// The answer, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whether it may.
    pub answer: Answer,
    /// Why, for people.
    pub reason: String,
    /// The code of a refusal, as in the access log.
    pub code: Option<String>,
    /// Policy, and rule if one decided, as in `AuthorizationPolicy shop/web rules[0]`.
    pub decided_by: Option<String>,
    /// `source` or `destination`: whose node's agent decides; nothing where none does.
    pub decided_at: Option<String>,
    /// Who calls.
    pub caller: Caller,
    /// Who is called.
    pub called: Called,
    /// What is asked for, if it is a request.
    pub request: Option<String>,
    /// What the caller's side says.
    pub source_side: String,
    /// What is required of callers there, and by which PeerAuthentication.
    pub mutual_tls: Option<String>,
    /// Whom the request's token speaks of, or why nobody looks for one.
    pub end_user: Option<String>,
    /// Every AuthorizationPolicy about the called pod and port.
    pub policies: Vec<HeardPolicy>,
    /// Of a refusal: the rule that comes nearest to allowing it.
    pub nearest: Option<NearestRule>,
    /// What policies that refuse nothing found.
    pub findings: Vec<String>,
    /// What else there is to know.
    pub notes: Vec<String>,
    /// Of what it was decided by.
    pub generation: u64,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Caller {
    /// The pod.
    pub pod: Option<String>,
    /// The identity that it proves; without one it comes in the clear.
    pub identity: Option<String>,
    /// Its address.
    pub address: String,
}

/// Who is called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Called {
    /// The pod.
    pub pod: Option<String>,
    /// Its address and port.
    pub address: String,
    /// Its node.
    pub node: Option<String>,
    /// The Service that was dialled, and its port.
    pub service: Option<String>,
    /// What the port is declared to speak.
    pub protocol: String,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeardPolicy {
    /// Namespace and name.
    pub name: String,
    /// Action, and mode where it is Audit.
    pub action: String,
    /// Which rule matches.
    pub matches: Option<usize>,
    /// Why it counts as one that denies.
    pub fault: Option<String>,
}

/// The rule that comes nearest to allowing something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NearestRule {
    /// As in `AuthorizationPolicy shop/web rules[0]`.
    pub rule: String,
    /// What it says.
    pub says: serde_json::Value,
    /// What does not match; nothing if it all does, and something else refuses.
    pub misses: Vec<Missed>,
}

/// A field that does not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// As in `to[0].operation.paths`.
    pub field: String,
    /// As in `/a is not one of /b*`.
    pub reason: String,
    /// In one way of reading what is asked it does match; what allows must match in all.
    pub in_one_reading: bool,
}

/// `GET /v1/decisions/ID`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Its name.
    pub id: String,
    /// Seconds since the epoch, UTC.
    pub when: u64,
    /// Of what it was decided by.
    pub generation: u64,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// Who called.
    pub caller: Caller,
    /// Who was called.
    pub called: Called,
    /// What was asked for, if it was a request; a long one is shortened.
    pub request: Option<String>,
    /// Whom its token spoke of.
    pub end_user: Option<String>,
    /// Why it was refused, for people.
    pub reason: String,
    /// The code, as in the access log.
    pub code: String,
    /// Policy and rule, if one decided.
    pub decided_by: Option<String>,
    /// What would be said now, where that can be asked; fields and tokens of a request are not kept.
    pub now: Option<Explanation>,
}
