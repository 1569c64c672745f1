//! PURE. What facts mean for an installation.

use super::facts::{Facts, Known, Machine};
use super::gateway_api::GatewayApi;
use crate::admin::counted;
use crate::admin::documents::{Check, CheckVerdict};
use crate::control::resources::{GROUP, VERSION};

/// The oldest minor of Kubernetes 1: its CEL knows addresses.
const OLDEST_MINOR: u32 = 31;
/// The oldest kernel, and the oldest that is tested.
const OLDEST_KERNEL: (u32, u32) = (5, 15);
const TESTED_KERNEL: (u32, u32) = (6, 1);
/// What the image is made for.
const ARCHITECTURE: &str = "amd64";
/// The level that a namespace holds its pods to.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Names that are given; of more, the number.
const NAMED: usize = 5;

/// Every check, in the order in which a person would look.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    vec![
        passed("API server", format!("answers, version {}", facts.version.git_version)),
        kubernetes(facts),
        of("rights", &facts.denied, |denied| rights(denied)),
        of("rights to grant", &facts.escalates, |escalates| grants(*escalates)),
        of("nodes", &facts.nodes, |nodes| machines(nodes)),
        of("kernels", &facts.nodes, |nodes| kernels(nodes)),
        of("namespace", &facts.namespace, |labels| {
            let level = labels.as_ref().map(|labels| labels.get(POD_SECURITY).map(String::as_str));
            namespace(&facts.root_namespace, level)
        }),
        of("other agents", &facts.daemon_sets, |sets| others(&facts.root_namespace, sets)),
        of("other controllers", &facts.bound, |bound| controllers(&facts.root_namespace, bound)),
        of("certificate authority", &facts.authority, |is_there| authority(&facts.root_namespace, *is_there)),
        of("kinds", &facts.groups, |groups| kinds(groups.get(GROUP).map(Vec::as_slice))),
        of("Gateway API", &facts.gateway_api, |found| {
            // Who is not installed yet may see nothing yet.
            let is_installed = facts.bound.as_ref().is_ok_and(|bound| bound.contains(&facts.root_namespace));
            gateway(found, is_installed)
        }),
    ]
}

fn check(name: &str, verdict: CheckVerdict, detail: String, advice: &str) -> Check {
    Check { name: name.to_owned(), verdict, detail, advice: Some(advice.to_owned()) }
}

fn passed(name: &str, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: CheckVerdict::Passed, detail: detail.into(), advice: None }
}

/// What is not known is no fault, and nothing to rely on.
fn of<T>(name: &str, known: &Known<T>, judge: impl FnOnce(&T) -> Check) -> Check {
    match known {
        Ok(fact) => judge(fact),
        Err(why) => check(
            name,
            CheckVerdict::Warned,
            format!("not known: {why}"),
            "ask as somebody who may look: cluster-admin may",
        ),
    }
}

/// The first few, and how many more.
fn few(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED {
        text += &format!(" and {} more", names.len() - NAMED);
    }
    text
}

/// The numbers that text begins with, as in `1.35.4` and `6.1.0-18-amd64`.
pub(in crate::controller) fn numbers(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    let number = |part: &str| {
        let end = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().ok()
    };
    Some((number(parts.next()?)?, number(parts.next()?)?))
}

fn kubernetes(facts: &Facts) -> Check {
    const NAME: &str = "Kubernetes";
    let text = &facts.version.git_version;
    match numbers(text) {
        Some(version) if version >= (1, OLDEST_MINOR) => passed(NAME, format!("1.{OLDEST_MINOR} or later")),
        Some(_) => check(
            NAME,
            CheckVerdict::Failed,
            format!("{text} is older than 1.{OLDEST_MINOR}"),
            "upgrade the cluster: the manifests have rules that an older API server cannot read",
        ),
        None => check(
            NAME,
            CheckVerdict::Warned,
            format!("{text:?} is no version"),
            "see that it is 1.31 or later",
        ),
    }
}

fn rights(denied: &[String]) -> Check {
    const NAME: &str = "rights";
    if denied.is_empty() {
        return passed(NAME, "may make everything that the manifests make");
    }
    check(
        NAME,
        CheckVerdict::Failed,
        format!("may not {}", few(denied)),
        "install as cluster-admin, or as somebody who may do that",
    )
}

fn grants(escalates: bool) -> Check {
    const NAME: &str = "rights to grant";
    if escalates {
        return passed(NAME, "may give the controller its role");
    }
    check(
        NAME,
        CheckVerdict::Warned,
        "may give the controller only what this caller has itself".to_owned(),
        "install as cluster-admin, or hold every rule of manifests/base/controller.yaml",
    )
}

fn machines(nodes: &[Machine]) -> Check {
    const NAME: &str = "nodes";
    if nodes.is_empty() {
        return check(NAME, CheckVerdict::Warned, "there is none".to_owned(), "add one: agents run on nodes");
    }
    let is_right = |node: &&Machine| node.system == "linux" && node.architecture == ARCHITECTURE;
    let wrong: Vec<String> = nodes
        .iter()
        .filter(|node| !is_right(node))
        .map(|node| format!("{} ({}/{})", node.name, node.system, node.architecture))
        .collect();
    if wrong.is_empty() {
        return passed(NAME, format!("{}, all linux/{ARCHITECTURE}", counted(nodes.len(), "node", "nodes")));
    }
    check(
        NAME,
        CheckVerdict::Warned,
        format!("the image does not run on {}", few(&wrong)),
        "the manifests keep agents off them; their pods cannot be in the mesh",
    )
}

fn kernels(nodes: &[Machine]) -> Check {
    const NAME: &str = "kernels";
    let older = |than: (u32, u32)| -> Vec<String> {
        let is_older = |node: &&Machine| numbers(&node.kernel).is_none_or(|version| version < than);
        let linux = nodes.iter().filter(|node| node.system == "linux");
        linux.filter(is_older).map(|node| format!("{} ({})", node.name, node.kernel)).collect()
    };
    let (too_old, untested) = (older(OLDEST_KERNEL), older(TESTED_KERNEL));
    if !too_old.is_empty() {
        return check(
            NAME,
            CheckVerdict::Failed,
            format!("older than 5.15: {}", few(&too_old)),
            "upgrade those nodes, or keep the DaemonSet off them with a nodeSelector",
        );
    }
    if !untested.is_empty() {
        return check(
            NAME,
            CheckVerdict::Warned,
            format!("older than 6.1, the oldest that is tested: {}", few(&untested)),
            "try it on one of them first",
        );
    }
    // A node does not say to the API server whether it has them.
    passed(
        NAME,
        "6.1 or later; whether they have cgroup 2, BTF and /sys/fs/bpf is said by mesh-node check on the node",
    )
}

/// `level`: of a namespace that is there, its label.
fn namespace(name: &str, level: Option<Option<&str>>) -> Check {
    const NAME: &str = "namespace";
    // Not manifests/foundation as a whole: what it makes besides is in the way of an installation with Helm.
    let advice = format!("kubectl label --overwrite namespace {name} {POD_SECURITY}=privileged");
    match level {
        None => {
            passed(NAME, format!("{name} is not there yet: manifests/foundation/namespace.yaml makes it"))
        }
        Some(None) => check(
            NAME,
            CheckVerdict::Warned,
            format!(
                "{name} says nothing of {POD_SECURITY}: the cluster's default holds, which may refuse agents"
            ),
            &advice,
        ),
        Some(Some("privileged")) => passed(NAME, format!("{name} lets agents run")),
        Some(Some(level)) => check(
            NAME,
            CheckVerdict::Failed,
            format!("{name} is held to {level}, which refuses the agents' pods"),
            &advice,
        ),
    }
}

fn others(own: &str, sets: &[(String, String)]) -> Check {
    const NAME: &str = "other agents";
    let elsewhere: Vec<String> = sets
        .iter()
        .filter(|(namespace, _)| namespace != own)
        .map(|(namespace, name)| format!("{namespace}/{name}"))
        .collect();
    if !elsewhere.is_empty() {
        return check(
            NAME,
            CheckVerdict::Failed,
            format!("another installation is there: {}", few(&elsewhere)),
            "remove it first, or give its namespace with --root-namespace: a node has one agent",
        );
    }
    if sets.iter().any(|(_, name)| name == "nodemesh-uninstall") {
        return check(
            NAME,
            CheckVerdict::Failed,
            format!("{own}/nodemesh-uninstall takes away what agents make"),
            "kubectl delete -k manifests/uninstall",
        );
    }
    if sets.is_empty() {
        return passed(NAME, "none");
    }
    if sets.iter().all(|(_, name)| name == "nodemesh-hold") {
        return check(
            NAME,
            CheckVerdict::Warned,
            format!("{own}/nodemesh-hold is there without agents: new pods wait for them"),
            &format!(
                "install agents, or kubectl -n {own} delete daemonset nodemesh-hold; manifests/uninstall takes \
                 away what it leaves"
            ),
        );
    }
    passed(NAME, format!("installed already, in {own}: this is an upgrade"))
}

fn controllers(own: &str, bound: &[String]) -> Check {
    const NAME: &str = "other controllers";
    let elsewhere: Vec<String> = bound.iter().filter(|namespace| *namespace != own).cloned().collect();
    if elsewhere.is_empty() {
        return passed(NAME, "none");
    }
    check(
        NAME,
        CheckVerdict::Failed,
        format!("the ClusterRoleBinding nodemesh-controller is that of a mesh in {}", few(&elsewhere)),
        "remove that mesh first; if it is gone: kubectl delete clusterrolebinding nodemesh-controller",
    )
}

fn authority(namespace: &str, is_there: bool) -> Check {
    let detail = if is_there {
        format!("the Secret {namespace}/nodemesh-ca is there, and goes on to sign")
    } else {
        "none yet: the controller makes one".to_owned()
    };
    passed("certificate authority", detail)
}

fn kinds(versions: Option<&[String]>) -> Check {
    const NAME: &str = "kinds";
    match versions {
        None => passed(NAME, "not there yet: an installation makes them"),
        Some(versions) if versions.iter().any(|version| version == VERSION) => {
            passed(NAME, format!("{GROUP}/{VERSION} is there, and is brought up to date"))
        }
        Some(versions) => check(
            NAME,
            CheckVerdict::Failed,
            format!("{GROUP} is there without {VERSION}: {}", few(versions)),
            "this program is older than what is installed, or another one's: install with its version",
        ),
    }
}

fn gateway(found: &GatewayApi, is_installed: bool) -> Check {
    const NAME: &str = "Gateway API";
    if found.kinds.is_empty() {
        return passed(NAME, "not there; only routes would need it");
    }
    if is_installed && !found.hidden.is_empty() {
        return check(
            NAME,
            CheckVerdict::Warned,
            format!("the controller may not watch {}", found.hidden.join(", ")),
            "kubectl apply -k manifests/base gives it the right to; everything else goes on without",
        );
    }
    let kinds = found.kinds.join(", ");
    passed(
        NAME,
        format!("there: {kinds}; routes are looked at, and this version applies none of their rules"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(system: &str, architecture: &str, kernel: &str) -> Machine {
        Machine {
            name: "a".to_owned(),
            system: system.to_owned(),
            architecture: architecture.to_owned(),
            kernel: kernel.to_owned(),
        }
    }

    #[test]
    fn a_version_is_read_from_what_kernels_and_clusters_call_themselves() {
        for (text, version) in [
            ("v1.35.4", (1, 35)),
            ("v1.31+", (1, 31)),
            ("6.1.0-18-amd64", (6, 1)),
            ("5.15-generic", (5, 15)),
            ("0.1.0", (0, 1)),
        ] {
            assert_eq!(numbers(text), Some(version), "{text}");
        }
        assert_eq!(numbers("unknown"), None);
    }

    #[test]
    fn kernels_are_as_old_as_the_oldest() {
        for (kernel, verdict) in [
            ("6.18.5", CheckVerdict::Passed),
            ("5.15.0-91-generic", CheckVerdict::Warned),
            ("5.10.0", CheckVerdict::Failed),
            ("?", CheckVerdict::Failed),
        ] {
            let nodes = [machine("linux", "amd64", "6.1.0"), machine("linux", "amd64", kernel)];
            assert_eq!(kernels(&nodes).verdict, verdict, "{kernel}");
        }
        assert_eq!(kernels(&[machine("windows", "amd64", "10.0")]).verdict, CheckVerdict::Passed);
    }

    #[test]
    fn a_node_that_the_image_does_not_run_on_is_named() {
        let found = machines(&[machine("linux", "amd64", ""), machine("linux", "arm64", "")]);
        assert_eq!(found.verdict, CheckVerdict::Warned);
        assert!(found.detail.contains("a (linux/arm64)"), "{}", found.detail);
        assert_eq!(machines(&[]).verdict, CheckVerdict::Warned);
    }

    #[test]
    fn only_another_installation_is_in_the_way() {
        let set = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        for (sets, verdict) in [
            (vec![], CheckVerdict::Passed),
            (vec![set("mesh", "nodemesh-agent")], CheckVerdict::Passed),
            (vec![set("old", "nodemesh-agent")], CheckVerdict::Failed),
            (vec![set("mesh", "nodemesh-uninstall")], CheckVerdict::Failed),
            (vec![set("mesh", "nodemesh-agent"), set("mesh", "nodemesh-hold")], CheckVerdict::Passed),
            (vec![set("mesh", "nodemesh-hold")], CheckVerdict::Warned),
            (vec![set("old", "nodemesh-hold")], CheckVerdict::Failed),
        ] {
            assert_eq!(others("mesh", &sets).verdict, verdict, "{sets:?}");
        }
    }

    #[test]
    fn a_namespace_is_labelled_and_nothing_else_made() {
        for level in [None, Some("restricted")] {
            let found = namespace("mesh", Some(level));
            let wanted =
                "kubectl label --overwrite namespace mesh pod-security.kubernetes.io/enforce=privileged";
            assert_eq!(found.advice.as_deref(), Some(wanted), "{found:?}");
        }
    }

    #[test]
    fn kinds_that_the_controller_may_not_see_are_named() {
        let found =
            GatewayApi { kinds: vec!["HTTPRoute v1".to_owned()], hidden: vec!["HTTPRoute".to_owned()] };
        assert_eq!(gateway(&found, false).verdict, CheckVerdict::Passed);
        let warned = gateway(&found, true);
        assert_eq!(warned.verdict, CheckVerdict::Warned);
        assert!(warned.detail.contains("HTTPRoute") && warned.advice.is_some(), "{warned:?}");
        assert_eq!(gateway(&GatewayApi::default(), true).verdict, CheckVerdict::Passed);
    }

    #[test]
    fn what_is_not_as_it_should_be_says_what_to_do() {
        for found in [
            rights(&["create roles".to_owned()]),
            namespace("mesh", Some(Some("restricted"))),
            controllers("mesh", &["old".to_owned()]),
            kinds(Some(&["v1".to_owned()])),
        ] {
            assert_eq!(found.verdict, CheckVerdict::Failed, "{found:?}");
            assert!(found.advice.is_some(), "{found:?}");
        }
        let unknown: Known<bool> = Err("forbidden".to_owned());
        assert_eq!(of("x", &unknown, |_| unreachable!()).verdict, CheckVerdict::Warned);
    }
}
