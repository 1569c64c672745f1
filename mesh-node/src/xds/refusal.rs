//! What an agent says of resources that it does not understand: the `error_detail` of its answer.
//!
//! The rest of the response is applied all the same. `message` is for people, `details` holds one [`Refusals`].

use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use prost::Message;

use super::resource::FieldError;

/// Type URL of [`Refusals`].
const TYPE_URL: &str = "type.googleapis.com/nodemesh.v1alpha1.Refusals";

/// Most resources that one answer names; what counts is that there are any.
const MAX_NAMED: usize = 100;

/// Most bytes of a field or reason that are kept.
const MAX_TEXT: usize = 1024;

/// `INVALID_ARGUMENT` of `google.rpc.Code`.
const INVALID_ARGUMENT: i32 = 3;

/// Resources of one response that were not understood.
#[derive(Clone, PartialEq, Message)]
pub struct Refusals {
    /// At most 100.
    #[prost(message, repeated, tag = "1")]
    pub refusals: Vec<Refusal>,
}

/// A resource that was not understood.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refusal {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Path of the field; empty for the resource as a whole.
    #[prost(string, tag = "2")]
    pub field: String,
    /// What is wrong with it.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// It is a policy, and denies what it might have denied.
    #[prost(bool, tag = "4")]
    pub denies: bool,
}

impl Refusal {
    /// Of the resource of this name.
    pub fn new(name: &str, error: FieldError, denies: bool) -> Self {
        Self { name: name.to_owned(), field: cut(error.field), reason: cut(error.reason), denies }
    }
}

/// The `error_detail` that says so; `None` if there is nothing to say.
pub fn error_detail(kind: super::ResourceType, refusals: Vec<Refusal>) -> Option<Status> {
    let first = refusals.first()?;
    let count = refusals.len();
    let message = format!("{kind} {}: {}: {} ({count} in all)", first.name, first.field, first.reason);
    let value = Refusals { refusals: refusals.into_iter().take(MAX_NAMED).collect() }.encode_to_vec();
    let details = vec![Any { type_url: TYPE_URL.to_owned(), value }];
    Some(Status { code: INVALID_ARGUMENT, message, details })
}

/// The resources that an `error_detail` names, and what it says as a whole, for one that names none.
pub fn refusals(detail: Status) -> (Vec<Refusal>, String) {
    let ours = detail.details.iter().filter(|any| any.type_url == TYPE_URL);
    let named = ours.filter_map(|any| Refusals::decode(&*any.value).ok()).flat_map(|list| list.refusals);
    let bounded = |refusal: Refusal| Refusal {
        name: cut(refusal.name),
        field: cut(refusal.field),
        reason: cut(refusal.reason),
        denies: refusal.denies,
    };
    (named.take(MAX_NAMED).map(bounded).collect(), cut(detail.message))
}

/// Shortens text of the other side, which goes into logs and status conditions.
fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
