//! Which kinds of the Gateway API a cluster has, and whether a controller that is installed may see them.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use kube::{Client, Error};

use crate::control::object::Kind;
use crate::control::translate::route::GROUP;
use crate::controller::CONTROLLER;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct GatewayApi {
    /// Kind and version, as in `HTTPRoute v1`.
    pub(super) kinds: Vec<String>,
    /// Kinds of those that the controller may not watch.
    pub(super) hidden: Vec<String>,
}

impl GatewayApi {
    /// Asks the API server.
    pub(super) async fn gather(client: &Client, root_namespace: &str) -> Result<Self, Error> {
        let served = served(client).await?;
        let version = |api_version: &str| api_version.rsplit('/').next().unwrap_or_default().to_owned();
        let text = |(kind, api_version): &(Kind, &str)| format!("{} {}", kind.name(), version(api_version));
        let kinds = served.iter().map(text).collect();
        let mut hidden = Vec::new();
        for (kind, _) in served {
            if !may_watch(client, root_namespace, kind).await? {
                hidden.push(kind.name().to_owned());
            }
        }
        Ok(Self { kinds, hidden })
    }
}

/// The kinds that the API server has, each in the newest version that is read.
async fn served(client: &Client) -> Result<Vec<(Kind, &'static str)>, Error> {
    let groups = client.list_api_groups().await?.groups;
    let group = groups.into_iter().find(|group| group.name == GROUP);
    let there: Vec<String> =
        group.into_iter().flat_map(|group| group.versions).map(|version| version.group_version).collect();
    let mut served: Vec<(Kind, &'static str)> = Vec::new();
    let optional = || Kind::ALL.into_iter().filter(|kind| kind.is_optional());
    let versions = optional().next().map(Kind::api_versions).unwrap_or_default();
    for api_version in versions.iter().filter(|version| there.iter().any(|known| known == *version)) {
        let resources = client.list_api_group_resources(api_version).await?.resources;
        let is_new = |kind: &Kind| !served.iter().any(|(known, _)| known == kind);
        let is_there = |kind: &Kind| resources.iter().any(|resource| resource.name == kind.plural());
        let found: Vec<_> =
            optional().filter(is_new).filter(is_there).map(|kind| (kind, *api_version)).collect();
        served.extend(found);
    }
    served.sort_unstable();
    Ok(served)
}

async fn may_watch(client: &Client, namespace: &str, kind: Kind) -> Result<bool, Error> {
    let attributes = ResourceAttributes {
        group: Some(GROUP.to_owned()),
        resource: Some(kind.plural().to_owned()),
        verb: Some("watch".to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            user: Some(format!("system:serviceaccount:{namespace}:{CONTROLLER}")),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
