//! What the agent can prove of itself, as checks that say what was found and what to do.

use std::path::Path;

use super::not_captured::{Cause, Refused, Synced};
use super::pods::Pods;
use crate::admin::documents::{Check, CheckVerdict};
use crate::capture::{TrialError, UntoldPod};
use crate::telemetry::chain::Chain;

/// Pods that a check names.
const MAX_NAMED: usize = 5;

/// What a trial of capture showed: nothing, or what is wrong.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    outbound: Result<(), String>,
    inbound: Result<(), String>,
}

impl Proof {
    /// Tries it out.
    pub(super) async fn find(pods: &mut Pods, cgroup_root: &Path) -> Self {
        match pods.try_capture(cgroup_root).await {
            Ok((outbound, inbound)) => Self { outbound: said(outbound), inbound: said(inbound) },
            Err(error) => {
                let wrong = said(Err(error));
                Self { outbound: wrong.clone(), inbound: wrong }
            }
        }
    }

    /// Whether both ways are captured.
    pub(super) fn holds(&self) -> bool {
        self.outbound.is_ok() && self.inbound.is_ok()
    }

    /// What is wrong, for readiness.
    pub(super) fn unmet(&self) -> Vec<String> {
        let wrong = [("out of", &self.outbound), ("into", &self.inbound)].into_iter();
        let tell = |(way, result): (_, &Result<(), String>)| {
            let error = result.as_ref().err()?;
            Some(format!("a trial connection {way} a pod is not captured: {error}"))
        };
        wrong.filter_map(tell).collect()
    }

    /// The same, as checks.
    pub(super) fn checks(&self, cgroup_root: &Path) -> [Check; 2] {
        let root = cgroup_root.display();
        let out = check(
            "capture: out of pods",
            &self.outbound,
            "a connect in the pods' cgroup came to the agent, with the address that was dialled",
            format!(
                "see that --cgroup-root {root} is the cgroup that holds the pods, and that no other program on it \
                 refuses connects: bpftool cgroup tree {root}"
            ),
        );
        let into = check(
            "capture: into pods",
            &self.inbound,
            "a connection to a captured address came to the agent, with the address that was dialled",
            "see the agent's log for refusals of the kernel, and mesh-node status for what this kernel offers"
                .to_owned(),
        );
        [out, into]
    }
}

/// Whether every kernel program stands.
pub(super) fn programs(detached: &[&'static str]) -> Check {
    let result = match detached {
        [] => Ok(()),
        names => Err(format!("{} not attached: {}", names.len(), names.join(", "))),
    };
    let advice = "something removed them below --pin-dir, or the cgroup is gone; the log says why they cannot be \
                  attached again";
    check("capture: kernel programs", &result, "every program is attached", advice.to_owned())
}

/// Whether every enrolled pod of the node is captured. Those that keep themselves from it are a warning.
pub(super) fn pods(captured: usize, synced: &Synced) -> Check {
    let result = match synced.of(Cause::Agent).count() {
        0 => Ok(()),
        count => {
            let named = named(synced.of(Cause::Agent));
            Err(format!(
                "{count} pods are not captured, or not let go, and their connections are refused: {named}"
            ))
        }
    };
    let advice = "mend what is said of the first; each is tried again every second";
    let check =
        check("capture: pods", &result, &format!("{captured} enrolled pods are captured"), advice.to_owned());
    if synced.refused.is_empty() || result.is_err() {
        return check;
    }
    let (detail, named) = (&check.detail, named(synced.refused.iter()));
    Check {
        verdict: CheckVerdict::Warned,
        detail: format!(
            "{detail}; these keep themselves from it, and their connections are refused: {named}"
        ),
        advice: Some("tell those whose pods they are; mesh-node status names all of them".to_owned()),
        ..check
    }
}

/// Whether somebody has said of every pod that runs here who it is. A warning: nothing of this agent keeps it from being.
pub(super) fn untold(pods: &[UntoldPod]) -> Check {
    let name = |pod: &UntoldPod| match &pod.name {
        Some(name) => name.clone(),
        None => format!("uid {}", pod.uid.0),
    };
    let named: Vec<String> = pods.iter().take(MAX_NAMED).map(name).collect();
    let (verdict, detail, advice) = match pods.len() {
        0 => (CheckVerdict::Passed, "the agent was told of every pod that it sees run".to_owned(), None),
        count => (
            CheckVerdict::Warned,
            format!("nobody has said who {count} pods are, and their connections are refused: {}", named.join(", ")),
            Some(
                "see what mesh-node status says of the controller: who a pod is it alone can say; each is let in as soon as \
                 it does"
                    .to_owned(),
            ),
        ),
    };
    Check { name: "capture: pods that nobody told of".to_owned(), verdict, detail, advice }
}

/// The first of some pods, with their reasons.
fn named<'a>(refused: impl Iterator<Item = &'a Refused>) -> String {
    let named = |refused: &Refused| format!("{} ({})", refused.pod, refused.reason);
    refused.take(MAX_NAMED).map(named).collect::<Vec<_>>().join(", ")
}

/// Whether every core answers.
pub(super) fn cores(count: usize, stuck: &[String]) -> Check {
    let result = if stuck.is_empty() { Ok(()) } else { Err(stuck.join("; ")) };
    let advice = "restart the agent, and report this with its log".to_owned();
    check("cores", &result, &format!("{count} cores answer"), advice)
}

/// A check that could not be made.
pub(super) fn stopping() -> Check {
    let result = Err("the agent is stopping".to_owned());
    check("capture", &result, "", "wait for the next agent".to_owned())
}

fn check(name: &str, result: &Result<(), String>, found: &str, advice: String) -> Check {
    let (verdict, detail, advice) = match result {
        Ok(()) => (CheckVerdict::Passed, found.to_owned(), None),
        Err(error) => (CheckVerdict::Failed, error.clone(), Some(advice)),
    };
    Check { name: name.to_owned(), verdict, detail, advice }
}

fn said(result: Result<(), TrialError>) -> Result<(), String> {
    result.map_err(|error| Chain(&error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_unmet_and_says_what_to_do() {
        let proof = Proof { outbound: Err("refused".to_owned()), inbound: Ok(()) };
        assert!(!proof.holds());
        assert_eq!(proof.unmet(), ["a trial connection out of a pod is not captured: refused"]);
        let [out, into] = proof.checks(Path::new("/sys/fs/cgroup/kubepods"));
        assert_eq!((out.verdict, into.verdict), (CheckVerdict::Failed, CheckVerdict::Passed));
        assert!(out.advice.unwrap().contains("--cgroup-root /sys/fs/cgroup/kubepods"));
        assert_eq!(into.advice, None);
    }

    #[test]
    fn programs_and_pods_are_named_or_counted() {
        assert_eq!(programs(&["connect4", "sock_ops"]).detail, "2 not attached: connect4, sock_ops");
        let mut synced = Synced::default();
        assert_eq!(pods(3, &synced).detail, "3 enrolled pods are captured");
        let refused =
            |pod: &str, cause| Refused { pod: pod.to_owned(), cause, reason: "no account".to_owned() };
        synced.refused = vec![refused("shop/two-places", Cause::Doubt), refused("shop/late", Cause::Pod)];
        let check = pods(3, &synced);
        assert_eq!(check.verdict, CheckVerdict::Warned);
        let named = "refused: shop/two-places (no account), shop/late (no account)";
        assert!(check.detail.ends_with(named), "{}", check.detail);
        synced.refused.push(refused("shop/full", Cause::Agent));
        let check = pods(3, &synced);
        assert_eq!(check.verdict, CheckVerdict::Failed);
        assert!(check.detail.ends_with("refused: shop/full (no account)"), "{}", check.detail);
    }
}
