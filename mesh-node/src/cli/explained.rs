//! What policy says and why, as text for people.

use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::admin::explain::documents::{
    Answer, Called, Caller, Decision, Explanation, HeardPolicy, NearestRule,
};

/// The width of the names.
const NAMES: usize = 13;

/// `mesh-node authz explain --from ... --to ...`
pub fn explanation(explanation: &Explanation) -> String {
    let answer = match explanation.answer {
        Answer::Allowed => "ALLOWED",
        Answer::Refused => "REFUSED",
        Answer::DependsOnRequest | Answer::DependsOnProvider => "DEPENDS",
    };
    let mut text = format!("{answer}: {}\n\n", explanation.reason);
    line(&mut text, "from", &caller(&explanation.caller));
    line(&mut text, "to", &called(&explanation.called));
    optional(&mut text, "request", explanation.request.as_deref());
    optional(&mut text, "decided at", explanation.decided_at.as_deref().map(side));
    line(&mut text, "caller side", &explanation.source_side);
    optional(&mut text, "mutual TLS", explanation.mutual_tls.as_deref());
    optional(&mut text, "end user", explanation.end_user.as_deref());
    policies(&mut text, &explanation.policies);
    if let Some(nearest) = &explanation.nearest {
        text += &nearest_rule(nearest);
    }
    listed(&mut text, "policies that refuse nothing say:", &explanation.findings);
    listed(&mut text, "to note:", &explanation.notes);
    text
}

/// `mesh-node authz explain ID`
pub fn decision(decision: &Decision) -> String {
    let when = i64::try_from(decision.when).ok();
    let when = when.and_then(|when| OffsetDateTime::from_unix_timestamp(when).ok()?.format(&Rfc3339).ok());
    let mut text = format!("REFUSED: {}\n\n", decision.reason);
    line(&mut text, "id", &decision.id);
    line(&mut text, "when", &when.unwrap_or_default());
    line(&mut text, "from", &caller(&decision.caller));
    line(&mut text, "to", &called(&decision.called));
    optional(&mut text, "request", decision.request.as_deref());
    optional(&mut text, "end user", decision.end_user.as_deref());
    line(&mut text, "direction", &decision.direction);
    optional(&mut text, "decided by", decision.decided_by.as_deref());
    line(&mut text, "reason", &decision.code);
    match &decision.now {
        None => text + "\nwhat policy would say of the same now can be asked with --from and --to\n",
        Some(now) => {
            let asked = match decision.request {
                Some(_) => {
                    "asked again now, without the fields and the token of the request, which are not kept:"
                }
                None => "asked again now:",
            };
            let is_same = now.generation == decision.generation;
            let since = if is_same { "" } else { "\n(what is known has changed since)" };
            format!("{text}\n{asked}{since}\n\n{}", indented(&explanation(now)))
        }
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let name = format!("{name}:");
    push(text, format_args!("{name:<NAMES$}{value}\n"));
}

fn optional(text: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        line(text, name, value);
    }
}

fn caller(caller: &Caller) -> String {
    let who = caller.pod.as_deref().unwrap_or("a stranger");
    let identity = match &caller.identity {
        Some(identity) => format!("as {identity}"),
        None => "in the clear, without an identity".to_owned(),
    };
    format!("{who}, {}, {identity}", caller.address)
}

fn called(called: &Called) -> String {
    let mut text = match &called.pod {
        Some(pod) => format!("{pod}, {}", called.address),
        None => called.address.clone(),
    };
    if let Some(service) = &called.service {
        push(&mut text, format_args!(", by Service {service}"));
    }
    if let Some(node) = &called.node {
        push(&mut text, format_args!(", on node {node}"));
    }
    push(&mut text, format_args!(", {}", called.protocol));
    text
}

fn side(side: &str) -> &str {
    match side {
        "source" => "the caller's node",
        _ => "the called pod's node",
    }
}

fn policies(text: &mut String, policies: &[HeardPolicy]) {
    if policies.is_empty() {
        return;
    }
    text.push_str("\npolicies about it:\n");
    for policy in policies {
        let said = match (&policy.fault, policy.matches) {
            (Some(_), _) => "is not understood".to_owned(),
            (None, Some(rule)) => format!("rules[{rule}] matches"),
            (None, None) => "no rule matches".to_owned(),
        };
        push(text, format_args!("  {} ({}): {said}\n", policy.name, policy.action));
    }
}

fn nearest_rule(nearest: &NearestRule) -> String {
    let NearestRule { rule, says, misses } = nearest;
    if misses.is_empty() {
        return format!("\n{rule} allows it, and does not count against what refuses:\n  {says}\n");
    }
    let mut text = format!("\nnearest to allowing it is {rule}:\n  {says}\nit misses:\n");
    for miss in misses {
        let reading =
            if miss.in_one_reading { " (in one reading it matches; what allows must in all)" } else { "" };
        push(&mut text, format_args!("  {}: {}{reading}\n", miss.field, miss.reason));
    }
    text
}

fn listed(text: &mut String, head: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    push(text, format_args!("\n{head}\n"));
    lines.iter().for_each(|line| push(text, format_args!("  {line}\n")));
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string cannot fail");
}
