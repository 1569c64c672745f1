//! Documents as text for people.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::macros::format_description;

use super::table::Table;
use crate::admin::counted;
use crate::admin::documents::{
    BeingRead, Certificate, Check, CheckVerdict, Connection, DetectedPort, NotCaptured, Policy, Problem,
    Service, ServicePort, Status, UntoldPod, Workload,
};
use crate::controller::versions::Versions;

/// What an empty cell shows.
const NOTHING: &str = "-";

/// `mesh-node status`
pub fn status(status: &Status) -> String {
    let text = standing(status) + &unsettled(status) + &kernel(status);
    if status.being_read.is_some() && status.problems.is_empty() {
        return text + "\nnothing is wrong with what was read\n";
    }
    text + "\n" + &problems(&status.problems, status.problems_left_out)
}

/// What it is, and what it does.
fn standing(status: &Status) -> String {
    let readiness =
        if status.ready { "ready".to_owned() } else { format!("NOT READY: {}", status.unmet.join("; ")) };
    let mut text = String::new();
    for (name, value) in [
        ("node", status.node.clone()),
        (
            "agent",
            format!(
                "{}, process {}, up {}, {}",
                status.version,
                status.process_id,
                span(status.uptime_seconds),
                counted(status.workers, "core", "cores")
            ),
        ),
        ("state", readiness),
        ("knows", knows(status)),
        ("carries", carries(status)),
        ("identities", format!("{} of {} usable", status.certificates_usable, status.certificates)),
    ] {
        text += &format!("{:<12}{value}\n", format!("{name}:"));
    }
    text
}

/// Pods whose connections it refuses for what it does not know or have, and what it still reads.
fn unsettled(status: &Status) -> String {
    let mut text = String::new();
    if !status.in_doubt.is_empty() {
        let pods = status.in_doubt.join(", ");
        text +=
            &format!("{:<12}where these pods are, so their connections are refused: {pods}\n", "in doubt:");
    }
    text += &untold(&status.untold);
    if let Some(being_read) = &status.being_read {
        text += &format!("{:<12}{}\n", "reading:", reading(being_read));
    }
    text + &uncaptured(status) + &detected(status)
}

/// Pods that nobody has said anything of; the first waits longest.
fn untold(pods: &[UntoldPod]) -> String {
    let Some(first) = pods.first() else { return String::new() };
    let name = |pod: &UntoldPod| pod.pod.clone().unwrap_or_else(|| format!("uid {}", pod.uid));
    let names: Vec<String> = pods.iter().map(name).collect();
    format!(
        "{:<12}connections of {} for up to {}, until a controller says who they are: {}\n",
        "held:",
        counted(pods.len(), "pod", "pods"),
        span(first.seconds),
        names.join(", ")
    )
}

/// What ports turned out to speak that declare nothing.
fn detected(status: &Status) -> String {
    let line = |port: &DetectedPort| {
        let spoke: Vec<String> = port
            .connections
            .iter()
            .map(|(spoken, count)| {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                format!("{spoken} ({})", counted(count, "connection", "connections"))
            })
            .collect();
        let (service, number) = (&port.service, port.port);
        format!("{:<12}{service}:{number}, which declares nothing, spoke {}\n", "detected:", spoke.join(", "))
    };
    status.detected.iter().map(line).collect()
}

/// What the kernel has, after an empty line.
fn kernel(status: &Status) -> String {
    if status.kernel.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["KERNEL", "FOUND", "DETAIL"]);
    for found in &status.kernel {
        table.row([found.name.clone(), yes(found.present), found.detail.clone()]);
    }
    format!("\n{}", table.draw(""))
}

fn reading(BeingRead { files, seconds }: &BeingRead) -> String {
    let files = files.join(", ");
    format!("{files}, for {}; what they said before is in force until then", span(*seconds))
}

/// Pods that are not captured for other reasons than a doubt.
fn uncaptured(status: &Status) -> String {
    let others = status.not_captured.iter().filter(|refused| !status.in_doubt.contains(&refused.pod));
    let line = |refused: &NotCaptured| {
        format!(
            "{:<12}connections of {}, which is not captured: {}\n",
            "refused:", refused.pod, refused.reason
        )
    };
    others.map(line).collect()
}

fn knows(status: &Status) -> String {
    let asked = status.answered.map(|count| {
        format!(", of what is not its own only what it asked: {}", counted(count, "address", "addresses"))
    });
    format!(
        "{}, {}, {} (generation {}){}",
        counted(status.workloads, "pod", "pods"),
        counted(status.services, "service", "services"),
        counted(status.policies, "policy", "policies"),
        status.generation,
        asked.unwrap_or_default()
    )
}

fn carries(status: &Status) -> String {
    let outside = match status.connections_outside {
        0 => String::new(),
        1 => ", and 1 from before capture that goes on outside the mesh until it ends".to_owned(),
        count => format!(", and {count} from before capture that go on outside the mesh until they end"),
    };
    let enrolled = counted(status.enrolled, "enrolled pod", "enrolled pods");
    format!("{enrolled}, {}{outside}", counted(status.connections, "open connection", "open connections"))
}

fn problems(problems: &[Problem], left_out: usize) -> String {
    if problems.is_empty() {
        return "every object is in force as written\n".to_owned();
    }
    let mut text = format!("{} to look at:\n", counted(problems.len() + left_out, "problem", "problems"));
    for Problem { file, line, document, object, field, reason, effect } in problems {
        let line = if *line == 0 { String::new() } else { format!(":{line}") };
        let document = if *document == 0 { String::new() } else { format!(" (document {document})") };
        let object = object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
        let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
        text += &format!("  {file}{line}{document}: {object}{field}{reason} ({effect})\n");
    }
    if left_out > 0 {
        text += &format!("  ... and {left_out} more that are not listed\n");
    }
    text
}

/// `mesh-node check`
pub fn checks(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            CheckVerdict::Passed => "ok  ",
            CheckVerdict::Warned => "warn",
            CheckVerdict::Failed => "FAIL",
        };
        text += &format!("{verdict}  {}: {}\n", check.name, check.detail);
        if let Some(advice) = &check.advice {
            text += &format!("      -> {advice}\n");
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    text + &format!(
        "{} ok, {} to look at, {} failed\n",
        count(CheckVerdict::Passed),
        count(CheckVerdict::Warned),
        count(CheckVerdict::Failed)
    )
}

/// `mesh-node version`
pub fn versions(versions: &Versions) -> String {
    let mut text = format!("{:<13}{}\n", "client:", versions.client);
    for (name, instances) in [("controllers:", &versions.controllers), ("agents:", &versions.agents)] {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for instance in instances {
            *counts.entry(instance.version.as_deref().unwrap_or("not known")).or_default() += 1;
        }
        let counts: Vec<String> = counts
            .iter()
            .map(|(version, count)| format!("{version} ({})", counted(*count, "pod", "pods")))
            .collect();
        let said = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
        text += &format!("{name:<13}{said}\n");
    }
    for warning in &versions.warnings {
        text += &format!("warning: {warning}\n");
    }
    text
}

/// `mesh-node dump workloads`
pub fn workloads(workloads: &[Workload]) -> String {
    let mut table =
        Table::new(&["NAMESPACE", "POD", "NODE", "ADDRESSES", "MESH", "MTLS", "READY", "IDENTITY"]);
    for pod in workloads {
        let state = if pod.terminating { "terminating".to_owned() } else { yes(pod.ready) };
        table.row([
            pod.namespace.clone(),
            pod.name.clone(),
            or_nothing(&pod.node),
            or_nothing(&pod.addresses.join(",")),
            in_mesh(pod),
            mutual_tls(pod),
            state,
            pod.identity.clone(),
        ]);
    }
    table.draw("no pods")
}

/// One on its node's network is not enrolled, whatever its labels say.
fn in_mesh(pod: &Workload) -> String {
    if pod.host_network { "no, host network".to_owned() } else { yes(pod.enrolled) }
}

/// Nothing for a pod outside the mesh: nobody asks its callers.
fn mutual_tls(pod: &Workload) -> String {
    if !pod.enrolled {
        return NOTHING.to_owned();
    }
    let ports = pod.mutual_tls_ports.iter().map(|(port, mode)| format!(",{port}={mode}"));
    pod.mutual_tls.clone() + &ports.collect::<String>()
}

/// `mesh-node dump services`
pub fn services(services: &[Service]) -> String {
    let mut table = Table::new(&[
        "NAMESPACE",
        "SERVICE",
        "CLUSTER-IP",
        "PORT",
        "NAME",
        "PROTOCOL",
        "ENDPOINT",
        "STATE",
        "POD",
    ]);
    for service in services {
        for port in &service.ports {
            let mut row = |endpoint: [&str; 3]| table.row(service_row(service, port, endpoint));
            for endpoint in &port.endpoints {
                let pod = endpoint.pod.as_deref().or(endpoint.workload.as_deref()).unwrap_or("");
                row([&endpoint.address, &endpoint.state, pod]);
            }
            if port.endpoints.is_empty() {
                row(["", "no endpoints", ""]);
            }
        }
    }
    table.draw("no services")
}

fn service_row(service: &Service, port: &ServicePort, endpoint: [&str; 3]) -> [String; 9] {
    let [address, state, pod] = endpoint.map(or_nothing);
    let addresses = match &service.cluster_ips[..] {
        [] => "headless".to_owned(),
        addresses => addresses.join(","),
    };
    [
        service.namespace.clone(),
        service.name.clone(),
        addresses,
        port.port.to_string(),
        or_nothing(&port.name),
        port.protocol.clone(),
        address,
        state,
        pod,
    ]
}

/// `mesh-node dump policies`
pub fn policies(policies: &[Policy]) -> String {
    let mut table =
        Table::new(&["KIND", "NAMESPACE", "NAME", "ACTION", "MODE", "RULES", "ABOUT", "PODS", "FAULT"]);
    for policy in policies {
        table.row([
            policy.kind.clone(),
            policy.namespace.clone(),
            policy.name.clone(),
            policy.action.clone(),
            policy.mode.clone(),
            policy.rules.len().to_string(),
            policy.scope.clone(),
            policy.pods.to_string(),
            policy.fault.clone().unwrap_or_else(|| NOTHING.to_owned()),
        ]);
    }
    table.draw("no policies")
}

/// `mesh-node dump certificates`
pub fn certificates(certificates: &[Certificate]) -> String {
    let mut table = Table::new(&["IDENTITY", "USABLE", "VALID FROM", "VALID UNTIL", "SERIAL", "LAST ERROR"]);
    for certificate in certificates {
        table.row([
            certificate.identity.clone(),
            yes(certificate.usable),
            moment(certificate.not_before),
            moment(certificate.not_after),
            certificate.serial.clone().unwrap_or_else(|| NOTHING.to_owned()),
            certificate.last_error.clone().unwrap_or_else(|| NOTHING.to_owned()),
        ]);
    }
    table.draw("no certificates: no pod of this node is enrolled")
}

/// `mesh-node dump connections`
pub fn connections(connections: &[Connection]) -> String {
    let mut table = Table::new(&[
        "CORE",
        "DIRECTION",
        "PROTOCOL",
        "FROM",
        "POD",
        "TO",
        "POD",
        "SERVICE",
        "AGE",
        "POLICY",
    ]);
    for connection in connections {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| NOTHING.to_owned());
        table.row([
            connection.core.to_string(),
            connection.direction.clone(),
            connection.protocol.clone(),
            connection.source.clone(),
            text(&connection.source_workload),
            connection.destination.clone(),
            text(&connection.destination_workload),
            text(&connection.service),
            span(connection.age_seconds),
            text(&connection.policy),
        ]);
    }
    table.draw("no open connections")
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn or_nothing(text: &str) -> String {
    if text.is_empty() { NOTHING } else { text }.to_owned()
}

fn span(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

fn moment(seconds: Option<u64>) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    seconds
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok())
        .and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| NOTHING.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_in_utc() {
        assert_eq!(moment(Some(1_767_225_600)), "2026-01-01 00:00:00Z");
    }

    #[test]
    fn a_problem_says_where_it_stands() {
        let problem = Problem {
            file: "web.yaml".to_owned(),
            line: 8,
            document: 2,
            object: Some("Pod shop/web".to_owned()),
            field: "spec.nodeName".to_owned(),
            reason: "is no text".to_owned(),
            effect: "not in force".to_owned(),
        };
        let line = "  web.yaml:8 (document 2): Pod shop/web: spec.nodeName: is no text (not in force)\n";
        let alone = problems(std::slice::from_ref(&problem), 0);
        assert_eq!(alone, format!("1 problem to look at:\n{line}"));
        let first = problems(&[problem], 3);
        assert_eq!(first, format!("4 problems to look at:\n{line}  ... and 3 more that are not listed\n"));
    }

    #[test]
    fn a_failed_check_says_what_to_do() {
        let check = Check {
            name: "ready".to_owned(),
            verdict: CheckVerdict::Failed,
            detail: "no listener".to_owned(),
            advice: Some("restart it".to_owned()),
        };
        let text = checks(&[check]);
        assert_eq!(text, "FAIL  ready: no listener\n      -> restart it\n0 ok, 0 to look at, 1 failed\n");
    }
}
