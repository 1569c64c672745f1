use super::*;
use std::path::Path;
use std::sync::Arc;

use mesh_common::model::{DecisionId, NodeMark};

use crate::admin::documents::BeingRead;
use crate::admin::explain::documents::{Decision, Explanation, Question};
use crate::admin::tests::{GIVEN, Idle};
use crate::admin::{AdminSocket, serve_socket};
use crate::telemetry::logging::LogFilter;

/// Asks an agent that knows nothing.
async fn ask<T: Send + 'static>(question: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let socket = AdminSocket::listen(&path).unwrap();
    let (_log, filter) = LogFilter::detached("info").unwrap();
    let agent = Arc::new(Idle {
        filter,
        unmet: vec!["no core has a listener".to_owned()],
        problems: 0,
        being_read: Some(BeingRead { files: vec!["large.yaml".to_owned()], seconds: 3 }),
        effect: "denies",
    });
    let asked = tokio::task::spawn_blocking(move || question(&path));
    tokio::select! {
        () = serve_socket(socket, agent) => unreachable!("it serves until it is dropped"),
        answer = asked => answer.unwrap(),
    }
}

#[tokio::test]
async fn an_agent_answers_over_its_socket() {
    let status: Status = ask(|socket| Client::new(socket).get("/v1/status").unwrap()).await;
    assert_eq!(status.node, "a");
    let text = render::status(&status);
    assert!(text.contains("NOT READY: no core has a listener"), "{text}");
    assert!(text.contains("connections are refused: shop/two-places\n"), "{text}");
    assert!(text.contains("reading:    large.yaml, for 3s; what they said before"), "{text}");
    let held = "held:       connections of 2 pods for up to 1m 10s, until a controller says who they are: shop/new, uid 1e2d\n";
    assert!(text.contains(held), "{text}");
    assert!(text.ends_with("nothing is wrong with what was read\n"), "{text}");
    let refused =
        "connections of shop/no-account, which is not captured: obtain its certificate: there is no";
    assert!(text.contains(refused) && text.matches("shop/two-places").count() == 1, "{text}");
}

#[tokio::test]
async fn a_refusal_is_the_agents_own_words() {
    let wanted = Log { filter: "mesh_node=loud".to_owned() };
    let result = ask(move |socket| Client::new(socket).put::<Log>("/v1/log", &wanted)).await;
    let Err(ClientError::Refused { error }) = result else { panic!("{result:?}") };
    assert!(error.contains("mesh_node=loud"), "{error}");
}

#[test]
fn without_an_agent_the_error_says_what_to_do() {
    let error = Client::new(Path::new("/nonexistent/admin.sock")).get::<Status>("/v1/status").unwrap_err();
    assert!(
        error.to_string().starts_with("no agent answers at /nonexistent/admin.sock; see that"),
        "{error}"
    );
}

#[test]
fn a_plugin_of_kubectl_calls_itself_what_is_typed() {
    let help = |program: &str| {
        let command = Command::new("mesh-node").version("1").subcommand(Command::new("status"));
        let mut command = called(command, Some(OsStr::new(program)));
        let refused =
            command.try_get_matches_from_mut([program, "status", "--nothing"]).unwrap_err().to_string();
        (refused, command.render_version())
    };
    let (refused, version) = help("/usr/bin/kubectl-mesh");
    assert!(refused.contains("Usage: kubectl mesh status"), "{refused}");
    assert_eq!(version, "kubectl mesh 1\n");
    let (refused, version) = help("/usr/bin/mesh-node");
    assert!(refused.contains("Usage: mesh-node status"), "{refused}");
    assert_eq!(version, "mesh-node 1\n");
}

#[tokio::test]
async fn an_id_that_is_not_kept_says_whose_it_is() {
    let of = |id: String| async move {
        let path = format!("/v1/decisions/{id}");
        let asked = ask(move |socket| Client::new(socket).get::<Decision>(&path)).await;
        let Err(ClientError::Refused { error }) = asked else { panic!("{asked:?}") };
        error
    };
    let here = NodeMark::of("a");
    let error = of(GIVEN.to_owned()).await;
    assert!(error.contains("is of this agent, and it keeps no such refusal"), "{error}");
    let error = of(DecisionId::new(here, 1, 2).to_string()).await;
    assert!(error.contains("an earlier run of the agent of a"), "{error}");
    let error = of(DecisionId::new(NodeMark::of("b"), 1, 2).to_string()).await;
    assert!(error.contains("is not of node a"), "{error}");
    assert!(of("4k2nd".to_owned()).await.contains("is no id of a refusal"));
}

#[tokio::test]
async fn a_question_is_answered_or_refused_in_words() {
    let question =
        Question { from: Some("shop/x".to_owned()), to: "shop/y:1".to_owned(), ..Question::default() };
    let asked = ask(move |socket| Client::new(socket).post::<Explanation>("/v1/explain", &question)).await;
    let Err(ClientError::Refused { error }) = asked else { panic!("{asked:?}") };
    assert_eq!(error, "--from: no pod shop/x is known; known: none");
}
