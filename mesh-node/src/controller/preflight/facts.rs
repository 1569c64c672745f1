//! What there is: questions to an API server. An answer that does not come is a fact too.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Error, ResourceExt as _};

use super::gateway_api::GatewayApi;
use crate::controller::CONTROLLER;
use crate::controller::authority_secret::SECRET;
use crate::telemetry::chain::Chain;

/// Nodes and DaemonSets in one answer.
const PAGE: u32 = 500;
/// What the mesh's DaemonSets are called, in whichever namespace.
const AGENTS: &str = "app.kubernetes.io/name in (nodemesh-agent, nodemesh-hold, nodemesh-uninstall)";

/// Group and resource of everything that the manifests make.
pub(super) const MADE: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];
/// What `kubectl apply` does to each.
const VERBS: [&str; 3] = ["get", "create", "patch"];
/// Who may grant what they do not have themselves.
const ESCALATES: (&str, &str) = ("rbac.authorization.k8s.io", "clusterroles");

/// An answer, or why there is none.
pub(super) type Known<T> = Result<T, String>;

/// What was found.
pub(super) struct Facts {
    pub(super) root_namespace: String,
    pub(super) version: Info,
    /// Verbs and resources that this caller may not.
    pub(super) denied: Known<Vec<String>>,
    /// Whether this caller may grant what it may not itself.
    pub(super) escalates: Known<bool>,
    pub(super) nodes: Known<Vec<Machine>>,
    /// The labels of the root namespace, if it is there.
    pub(super) namespace: Known<Option<BTreeMap<String, String>>>,
    /// Namespaces and names of agents, of holds, and of what removes both.
    pub(super) daemon_sets: Known<Vec<(String, String)>>,
    /// The namespaces of the controllers that have the cluster's rights.
    pub(super) bound: Known<Vec<String>>,
    /// Whether the mesh's key is there.
    pub(super) authority: Known<bool>,
    /// Versions of each API group.
    pub(super) groups: Known<BTreeMap<String, Vec<String>>>,
    pub(super) gateway_api: Known<GatewayApi>,
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) system: String,
    pub(super) architecture: String,
    pub(super) kernel: String,
}

impl Facts {
    /// Asks everything.
    pub(super) async fn gather(client: &Client, root_namespace: &str, version: Info) -> Self {
        let (denied, escalates, nodes, namespace, daemon_sets, bound, authority, groups, gateway_api) = tokio::join!(
            denied(client, root_namespace),
            may(client, root_namespace, ESCALATES, "escalate"),
            nodes(client),
            labels(client, root_namespace),
            daemon_sets(client),
            bound(client),
            authority(client, root_namespace),
            groups(client),
            GatewayApi::gather(client, root_namespace),
        );
        Self {
            root_namespace: root_namespace.to_owned(),
            version,
            denied: known(denied),
            escalates: known(escalates),
            nodes: known(nodes),
            namespace: known(namespace),
            daemon_sets: known(daemon_sets),
            bound: known(bound),
            authority: known(authority),
            groups: known(groups),
            gateway_api: known(gateway_api),
        }
    }
}

fn known<T>(answer: Result<T, Error>) -> Known<T> {
    answer.map_err(|error| Chain(&error).to_string())
}

/// What of everything this caller may not do.
async fn denied(client: &Client, namespace: &str) -> Result<Vec<String>, Error> {
    let asked = MADE.iter().flat_map(|resource| VERBS.map(|verb| (*resource, verb)));
    let answers = asked.map(async |(resource, verb)| {
        let is_allowed = may(client, namespace, resource, verb).await?;
        Ok((!is_allowed).then(|| format!("{verb} {}", resource.1)))
    });
    let answers: Result<Vec<_>, Error> = join_all(answers).await.into_iter().collect();
    Ok(answers?.into_iter().flatten().collect())
}

async fn may(
    client: &Client,
    namespace: &str,
    (group, resource): (&str, &str),
    verb: &str,
) -> Result<bool, Error> {
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        verb: Some(verb.to_owned()),
        // Of a kind without namespaces it is not looked at.
        namespace: Some(namespace.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
        ..Default::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

async fn nodes(client: &Client) -> Result<Vec<Machine>, Error> {
    let api: Api<Node> = Api::all(client.clone());
    let mut machines = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        for node in list.items {
            let name = node.name_any();
            let Some(info) = node.status.and_then(|status| status.node_info) else { continue };
            machines.push(Machine {
                name,
                system: info.operating_system,
                architecture: info.architecture,
                kernel: info.kernel_version,
            });
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(machines),
        }
    }
}

async fn labels(client: &Client, name: &str) -> Result<Option<BTreeMap<String, String>>, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces.get_metadata_opt(name).await?;
    Ok(found.map(|namespace| namespace.metadata.labels.unwrap_or_default()))
}

async fn daemon_sets(client: &Client) -> Result<Vec<(String, String)>, Error> {
    let api: Api<DaemonSet> = Api::all(client.clone());
    let list = api.list_metadata(&ListParams::default().labels(AGENTS).limit(PAGE)).await?;
    Ok(list.items.iter().map(|set| (set.namespace().unwrap_or_default(), set.name_any())).collect())
}

async fn bound(client: &Client) -> Result<Vec<String>, Error> {
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let found = bindings.get_opt(CONTROLLER).await?;
    let subjects = found.and_then(|binding| binding.subjects).unwrap_or_default();
    Ok(subjects.into_iter().filter_map(|subject| subject.namespace).collect())
}

async fn authority(client: &Client, namespace: &str) -> Result<bool, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    // Not the key itself.
    Ok(secrets.get_metadata_opt(SECRET).await?.is_some())
}

async fn groups(client: &Client) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let versions =
        |group: APIGroup| (group.name, group.versions.into_iter().map(|version| version.version).collect());
    Ok(client.list_api_groups().await?.groups.into_iter().map(versions).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFESTS: &[&str] = &[
        include_str!("../../../../manifests/foundation/crds.yaml"),
        include_str!("../../../../manifests/foundation/namespace.yaml"),
        include_str!("../../../../manifests/foundation/agent-account.yaml"),
        include_str!("../../../../manifests/base/admission.yaml"),
        include_str!("../../../../manifests/base/agent.yaml"),
        include_str!("../../../../manifests/base/controller.yaml"),
        include_str!("../../../../manifests/base/roles.yaml"),
        include_str!("../../../../manifests/hold/hold.yaml"),
    ];

    /// As in `apps` and `daemonsets`.
    fn made(object: &str) -> (String, String) {
        let field = |name: &str| object.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let group = field("apiVersion: ").rsplit_once('/').map_or("", |(group, _)| group);
        let kind = field("kind: ").to_lowercase();
        let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
        (group.to_owned(), plural)
    }

    #[test]
    fn rights_are_asked_for_everything_that_the_manifests_make() {
        let mut missing: Vec<(&str, &str)> = MADE.to_vec();
        for object in MANIFESTS.iter().flat_map(|manifest| manifest.split("\n---\n")) {
            if !object.contains("kind: ") {
                continue;
            }
            let (group, plural) = made(object);
            assert!(MADE.contains(&(&*group, &*plural)), "{group}/{plural}");
            missing.retain(|made| *made != (&*group, &*plural));
        }
        assert!(missing.is_empty(), "no manifest makes {missing:?}");
    }
}
