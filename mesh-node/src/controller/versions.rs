//! Which versions of the mesh run, as its pods say themselves.
//!
//! In: an API server, and the mesh's namespace. Out: each controller and agent with its version, and what is wrong with
//! them together. A pod is asked through the API server, for what it shows to Prometheus. What it says is shown to a
//! person, and a node that was broken into says what it likes: little of it is read, and what no version looks like is
//! not shown.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::client::Body;
use kube::core::Status;
use kube::{Client, Error, ResourceExt as _};
use serde::Serialize;
use tokio::time::timeout;

use super::preflight::numbers;
use crate::telemetry::chain::Chain;

/// Pods that are asked at a time.
const AT_ONCE: usize = 16;
/// For one pod.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer that is read, in bytes.
const MOST: usize = 1 << 20;
/// Of a version, in bytes: as semantic versions are, with what may follow one.
const LONGEST: usize = 64;
/// Of what somebody says why there is no answer, in bytes.
const LONGEST_REASON: usize = 200;
/// What a pod shows to Prometheus on.
const PORT: &str = "metrics";
/// The line that says the version.
const BUILD: &str = "istio_build{component=\"mesh-node\",tag=\"";
/// Minors that may work together.
const APART: u32 = 1;

/// What runs.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Versions {
    /// Of this program.
    pub client: String,
    /// The controllers.
    pub controllers: Vec<Instance>,
    /// The agents.
    pub agents: Vec<Instance>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// A pod of the mesh.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub pod: String,
    /// Where it runs.
    pub node: String,
    /// What it says that it is.
    pub version: Option<String>,
    /// Why that is not known.
    pub problem: Option<String>,
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
#[error("list the pods of {namespace}; give the mesh's namespace with --root-namespace")]
pub struct VersionsError {
    namespace: String,
    source: Box<Error>,
}

/// Asks every controller and agent.
///
/// # Errors
/// The API server does not say which there are.
pub async fn versions(client: &Client, namespace: &str) -> Result<Versions, VersionsError> {
    let of = async |name: &str| {
        instances(client, namespace, name)
            .await
            .map_err(|error| VersionsError { namespace: namespace.to_owned(), source: Box::new(error) })
    };
    let own = env!("CARGO_PKG_VERSION").to_owned();
    let (controllers, agents) = (of("nodemesh-controller").await?, of("nodemesh-agent").await?);
    let warnings = warnings(&own, &controllers, &agents);
    Ok(Versions { client: own, controllers, agents, warnings })
}

async fn instances(client: &Client, namespace: &str, name: &str) -> Result<Vec<Instance>, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods.list(&ListParams::default().labels(&format!("app.kubernetes.io/name={name}"))).await?;
    let asked = list.items.into_iter().filter(|pod| !is_over(pod)).map(async |pod| {
        let said = timeout(PATIENCE, ask(client, namespace, &pod)).await;
        let said = said.unwrap_or_else(|_| Err(format!("no answer in {} s", PATIENCE.as_secs())));
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let (version, problem) = said.map_or_else(|problem| (None, Some(problem)), |said| (Some(said), None));
        Instance { pod: pod.name_any(), node, version, problem }
    });
    let mut found: Vec<Instance> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    found.sort_by(|one, other| one.pod.cmp(&other.pod));
    Ok(found)
}

async fn ask(client: &Client, namespace: &str, pod: &Pod) -> Result<String, String> {
    let port = port(pod).ok_or_else(|| format!("has no port named {PORT}"))?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{}:{port}/proxy/metrics", pod.name_any());
    let request = http::Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
    let (status, said) = answer(client, request).await.map_err(|error| Chain(&error).to_string())?;
    read(status, &said)
}

/// An answer, of which only the beginning is read.
async fn answer(client: &Client, request: http::Request<Body>) -> Result<(StatusCode, Vec<u8>), Error> {
    let answer = client.send(request).await?;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut said = Vec::new();
    while said.len() < MOST
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            said.extend_from_slice(&data[..data.len().min(MOST - said.len())]);
        }
    }
    Ok((status, said))
}

/// PURE. Whether a pod ran to its end: its object stays, and nobody answers.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// PURE. The version in an answer, or why there is none.
fn read(status: StatusCode, said: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(said);
    match status {
        StatusCode::FORBIDDEN => Err("may not be asked: that takes get of pods/proxy".to_owned()),
        status if status.is_success() => version(&text).ok_or_else(|| {
            if said.len() < MOST {
                "does not say its version".to_owned()
            } else {
                format!("does not say its version in the first {MOST} bytes of its metrics")
            }
        }),
        status => {
            // The API server's words, or the pod's.
            let message = serde_json::from_slice(said).map(|Status { message, .. }| message);
            Err(format!("answers {}: {}", status.as_u16(), plain(&message.unwrap_or(text.into_owned()))))
        }
    }
}

/// PURE. The beginning of foreign text, without what a terminal would obey.
fn plain(text: &str) -> String {
    let shown = |letter: char| if letter.is_ascii_graphic() || letter == ' ' { letter } else { '?' };
    text.trim().chars().take(LONGEST_REASON).map(shown).collect()
}

/// PURE. Where a pod shows its metrics.
fn port(pod: &Pod) -> Option<i32> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.into_iter().find(|port| port.name.as_deref() == Some(PORT)).map(|port| port.container_port)
}

/// PURE. The version in what a pod shows to Prometheus.
fn version(metrics: &str) -> Option<String> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(BUILD))?;
    let (version, _) = line.split_once('"')?;
    let is_right = (1..=LONGEST).contains(&version.len())
        && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-".contains(&byte));
    is_right.then(|| version.to_owned())
}

/// PURE. What is wrong with versions together.
fn warnings(client: &str, controllers: &[Instance], agents: &[Instance]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (what, instances) in [("controller", controllers), ("agent", agents)] {
        if instances.is_empty() {
            warnings
                .push(format!("there is no {what}: is the mesh in another namespace (--root-namespace)?"));
        }
        warnings.extend(instances.iter().filter_map(|instance| {
            let problem = instance.problem.as_ref()?;
            Some(format!("the version of {} is not known: {problem}", instance.pod))
        }));
    }
    let of = |what: &str, instances: &[Instance]| -> Vec<(String, String)> {
        let known = instances.iter().filter_map(|instance| Some((instance.version.clone()?, &instance.pod)));
        known.map(|(version, pod)| (version, format!("{what} {pod}"))).collect()
    };
    let mut all = BTreeMap::new();
    let own = vec![(client.to_owned(), "this program".to_owned())];
    for (version, who) in [own, of("controller", controllers), of("agent", agents)].concat() {
        if let Some(number) = numbers(&version) {
            all.entry(number).or_insert((version, who));
        }
    }
    if let (Some((oldest, old)), Some((newest, new))) = (all.first_key_value(), all.last_key_value())
        && (newest.0 != oldest.0 || newest.1 - oldest.1 > APART)
    {
        warnings.push(format!(
            "{} ({}) and {} ({}) are more than one minor version apart, and were not tried together: upgrade one \
             minor version after the other",
            old.0, old.1, new.0, new.1
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use k8s_openapi::api::core::v1::PodStatus;
    use tower::service_fn;

    use super::*;

    fn pod(version: Result<&str, &str>) -> Instance {
        Instance {
            pod: "a".to_owned(),
            node: "n".to_owned(),
            version: version.ok().map(str::to_owned),
            problem: version.err().map(str::to_owned),
        }
    }

    #[test]
    fn one_minor_version_apart_is_no_fault() {
        for (client, controller, agent, apart) in [
            ("0.1.0", "0.1.9", "0.2.0", false),
            ("0.2.0", "0.1.0", "0.3.0", true),
            ("0.1.0", "0.1.0", "0.3.0", true),
            ("1.0.0", "0.9.0", "1.0.0", true),
        ] {
            let found = warnings(client, &[pod(Ok(controller))], &[pod(Ok(agent))]);
            let said = found.iter().any(|text| text.contains("more than one minor version apart"));
            assert_eq!(said, apart, "{client} {controller} {agent}: {found:?}");
        }
    }

    #[test]
    fn who_does_not_answer_and_who_is_not_there_is_said() {
        let found = warnings("0.1.0", &[], &[pod(Err("no answer"))]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].contains("the version of a is not known: no answer"), "{found:?}");
    }

    #[test]
    fn the_version_is_read_from_what_a_pod_shows() {
        let mut text = "# TYPE istio_build gauge\n".to_owned();
        crate::telemetry::traffic::write_build(&mut text);
        assert_eq!(version(&text).as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(version("up 1\n"), None);
    }

    #[test]
    fn only_what_a_version_looks_like_is_taken() {
        let longest = "1".repeat(LONGEST);
        for (said, taken) in [
            ("0.1.0-rc.1+build.5", true),
            (&longest, true),
            (&format!("{longest}1"), false),
            ("", false),
            ("0.1.0\u{1b}[2J", false),
            ("0.1.0 (agent a)", false),
            ("0.1.0\u{e9}", false),
        ] {
            let found = version(&format!("{BUILD}{said}\"}} 1\n"));
            assert_eq!(found.as_deref(), taken.then_some(said), "{said:?}");
        }
        assert_eq!(version(&format!("{BUILD}0.1.0")), None, "it is cut off");
    }

    #[test]
    fn why_there_is_no_version_is_plain_text() {
        let status = br#"{"kind": "Status", "code": 503, "message": "no way\u001b[2J"}"#;
        for (code, said, wanted) in [
            (StatusCode::SERVICE_UNAVAILABLE, &status[..], "answers 503: no way?[2J"),
            (StatusCode::BAD_GATEWAY, b"a\x1b]0;b\n", "answers 502: a?]0;b"),
            (StatusCode::FORBIDDEN, b"a", "may not be asked: that takes get of pods/proxy"),
            (StatusCode::OK, b"\xff", "does not say its version"),
        ] {
            assert_eq!(read(code, said), Err(wanted.to_owned()));
        }
        let long = read(StatusCode::BAD_GATEWAY, &[b'a'; MOST]).unwrap_err();
        assert_eq!(long.len(), "answers 502: ".len() + LONGEST_REASON);
        let cut = read(StatusCode::OK, &[b'a'; MOST]).unwrap_err();
        assert!(cut.contains("in the first 1048576 bytes"), "{cut}");
    }

    #[tokio::test]
    async fn no_more_of_an_answer_is_read_than_its_beginning() {
        let service = service_fn(async |_: http::Request<Body>| {
            Ok::<_, Infallible>(http::Response::new(Body::from(vec![b'a'; 2 * MOST])))
        });
        let client = Client::new(service, "default");
        let (_, said) = answer(&client, http::Request::new(Body::empty())).await.unwrap();
        assert_eq!(said.len(), MOST);
    }

    #[test]
    fn a_pod_that_ran_to_its_end_is_not_asked() {
        for (phase, over) in [("Running", false), ("Pending", false), ("Failed", true), ("Succeeded", true)] {
            let status = PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
            assert_eq!(is_over(&Pod { status: Some(status), ..Pod::default() }), over, "{phase}");
        }
        assert!(!is_over(&Pod::default()));
    }
}
