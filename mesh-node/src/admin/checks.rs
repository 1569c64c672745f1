//! Checks of what an agent stands on: each says what was found, and what to do about it.

use super::documents::{BeingRead, Certificate, Check, CheckVerdict, Problem, Status};
use crate::control::translate::Effect;

/// Returns the checks that follow from status and certificates.
pub fn checks(status: &Status, certificates: &[Certificate]) -> Vec<Check> {
    let mut checks = vec![readiness(status), configuration(status), identities(certificates)];
    checks.extend(status.kernel.iter().map(|found| Check {
        name: format!("kernel: {}", found.name),
        verdict: if found.present { CheckVerdict::Passed } else { CheckVerdict::Warned },
        detail: found.detail.clone(),
        advice: None,
    }));
    checks
}

fn readiness(status: &Status) -> Check {
    let (verdict, detail, advice) = if status.ready {
        let detail = format!(
            "{} on node {}, generation {}",
            counted(status.enrolled, "enrolled pod", "enrolled pods"),
            status.node,
            status.generation
        );
        (CheckVerdict::Passed, detail, None)
    } else {
        let advice = "look at the agent's log around its start".to_owned();
        (CheckVerdict::Failed, status.unmet.join("; "), Some(advice))
    };
    Check { name: "ready".to_owned(), verdict, detail, advice }
}

fn configuration(status: &Status) -> Check {
    let (verdict, detail, advice) = match (status.problems.as_slice(), &status.being_read) {
        ([], None) => (CheckVerdict::Passed, "every object is in force as written".to_owned(), None),
        ([], Some(BeingRead { files, seconds })) => {
            let detail = format!("{} changed and is being read for {seconds} s", files.join(", "));
            let advice = "what was said there before is in force until then: ask again".to_owned();
            (CheckVerdict::Warned, detail, Some(advice))
        }
        ([first, ..], _) => {
            let count = status.problems.len() + status.problems_left_out;
            let detail = format!(
                "{} to look at, as {} in {}: {}",
                counted(count, "problem", "problems"),
                if first.field.is_empty() { "one" } else { &first.field },
                first.file,
                first.reason
            );
            let advice = match status.problems_left_out {
                0 => "mesh-node status lists all of them".to_owned(),
                _ => format!("mesh-node status lists the first {}", status.problems.len()),
            };
            (severity(&status.problems), detail, Some(advice))
        }
    };
    Check { name: "configuration".to_owned(), verdict, detail, advice }
}

/// What nobody knows may be a policy: that is no matter of one object.
fn severity(problems: &[Problem]) -> CheckVerdict {
    let is_unread = |problem: &Problem| problem.effect == Effect::Unread.code();
    if problems.iter().any(is_unread) { CheckVerdict::Failed } else { CheckVerdict::Warned }
}

/// `1 pod`, `2 pods`.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// What is said of identities without a certificate. What one tenant has taken away is no failure of the node.
fn without_certificate(unusable: &[&Certificate], count: usize) -> Option<(CheckVerdict, String, String)> {
    let of_the_node = unusable.iter().find(|certificate| !certificate.refused);
    let certificate = of_the_node.or_else(|| unusable.first())?;
    let error = certificate.last_error.as_deref().unwrap_or("none was issued yet");
    let detail = format!(
        "{} of {count} identities have no valid certificate, as {}: {error}",
        unusable.len(),
        certificate.identity
    );
    let (verdict, advice) = match of_the_node {
        None => (CheckVerdict::Warned, "tell those whose pods they are; mesh-node status names these"),
        Some(_) => (
            CheckVerdict::Failed,
            "see that the controller can be reached, or the trust folder be read and written, and that the clock is right",
        ),
    };
    Some((verdict, detail, advice.to_owned()))
}

fn identities(certificates: &[Certificate]) -> Check {
    let unusable: Vec<&Certificate> = certificates.iter().filter(|certificate| !certificate.usable).collect();
    let failing = certificates.iter().find(|certificate| certificate.failures > 0);
    let (verdict, detail, advice) = match (without_certificate(&unusable, certificates.len()), failing) {
        (Some((verdict, detail, advice)), _) => (verdict, detail, Some(advice)),
        (None, Some(certificate)) => {
            let error = certificate.last_error.as_deref().unwrap_or("no reason was given");
            let detail = format!("renewal of {} fails: {error}", certificate.identity);
            (CheckVerdict::Warned, detail, Some("its certificate serves until it expires".to_owned()))
        }
        (None, None) => {
            let count = counted(
                certificates.len(),
                "identity has a valid certificate",
                "identities have valid certificates",
            );
            (CheckVerdict::Passed, count, None)
        }
    };
    Check { name: "identity".to_owned(), verdict, detail, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(usable: bool, failures: u32) -> Certificate {
        Certificate {
            identity: "spiffe://cluster.local/ns/a/sa/b".to_owned(),
            serial: None,
            not_before: None,
            not_after: None,
            usable,
            failures,
            last_error: (failures > 0).then(|| "disk is full".to_owned()),
            refused: false,
        }
    }

    #[test]
    fn an_identity_without_certificate_fails() {
        let check = identities(&[certificate(true, 0), certificate(false, 2)]);
        assert_eq!(check.verdict, CheckVerdict::Failed);
        assert!(check.detail.contains("1 of 2"), "{}", check.detail);
        assert!(check.detail.contains("disk is full"), "{}", check.detail);
    }

    #[test]
    fn identities_that_are_refused_alone_are_no_failure_of_the_node() {
        let refused = Certificate { refused: true, ..certificate(false, 2) };
        assert_eq!(identities(&[certificate(true, 0), refused.clone()]).verdict, CheckVerdict::Warned);
        assert_eq!(identities(&[certificate(false, 2), refused]).verdict, CheckVerdict::Failed);
    }

    #[test]
    fn a_failing_renewal_warns() {
        assert_eq!(identities(&[certificate(true, 1)]).verdict, CheckVerdict::Warned);
    }
}
