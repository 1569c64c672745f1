//! `mesh-node authz`: what policy says, and why. Asks an agent, or a folder of YAML with the code of an agent.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use mesh_common::model::{DecisionId, TrustDomain};
use mesh_common::snapshot::Snapshot;

use super::client::{Client, ClientError};
use super::{AnswerArgs, explained, show};
use crate::admin::explain::documents::{Answer, Decision, Explanation, Question};
use crate::admin::explain::{Knowledge, explain};
use crate::control::{Control, ControlError, ControlSettings};
use crate::telemetry::chain::Chain;
use crate::telemetry::registry::Registry;

/// Exit codes, as of `kubectl auth can-i`, with one for what cannot be said.
const REFUSED: u8 = 1;
const NOT_SAID: u8 = 2;
/// For reading a folder. An agent reads 10,000 objects in a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// Problems of a folder that are named.
const MAX_PROBLEMS: usize = 5;

/// `mesh-node authz`
#[derive(Args, Clone, Debug)]
pub struct AuthzArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Say whether somebody may do something, which policy and rule decides, and for a refusal which rule comes nearest to
    /// allowing it and what that misses; or tell a refusal by its id. Exit code 0: allowed, 1: refused, 2: it cannot be said
    Explain(Box<ExplainArgs>),
}

/// `mesh-node authz explain`
#[derive(Args, Clone)]
struct ExplainArgs {
    /// Id of a refusal, from the response's field x-nodemesh-decision-id or the access record's field decision
    #[arg(value_name = "ID", conflicts_with_all = ["from", "from_identity", "to", "method", "path", "host", "header", "sni", "config_dir"])]
    id: Option<DecisionId>,
    /// Who calls: a pod as NAMESPACE/POD, an IP address, or outside for a stranger
    #[arg(long, value_name = "CALLER", required_unless_present_any = ["id", "from_identity"])]
    from: Option<String>,
    /// SPIFFE id that the caller proves, instead of its pod's
    #[arg(long, value_name = "SPIFFE-ID")]
    from_identity: Option<String>,
    /// Who is called: a pod or a Service, and a port of it by number or name; pod/ or service/ in front where both are called so
    #[arg(long, value_name = "NAMESPACE/NAME:PORT", required_unless_present = "id")]
    to: Option<String>,
    /// Method of a request [default: GET, if anything is said of a request]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Its path, and query if it has one [default: /]
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The host that it names [default: that of the Service]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// One of its fields; may be given several times
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Token of the end user; it is verified, and never shown
    #[arg(long, env = "NODEMESH_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Name that the TLS of a connection asks for, where the application speaks TLS itself
    #[arg(long, value_name = "NAME", conflicts_with_all = ["method", "path", "host", "header"])]
    sni: Option<String>,
    /// Ask a folder of Kubernetes YAML, and no agent
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// With --config-dir: namespace whose policies are about the whole mesh
    #[arg(long, env = "NODEMESH_ROOT_NAMESPACE", value_name = "NAME", default_value = "nodemesh-system")]
    root_namespace: String,
    /// With --config-dir: trust domain of every identity
    #[arg(long, env = "NODEMESH_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// With --config-dir: domain of the cluster, as in NAME.NAMESPACE.svc.DOMAIN
    #[arg(long, env = "NODEMESH_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// Without the token.
impl std::fmt::Debug for ExplainArgs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, from, to, .. } = self;
        formatter
            .debug_struct("ExplainArgs")
            .field("id", id)
            .field("from", from)
            .field("to", to)
            .finish_non_exhaustive()
    }
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
enum AuthzError {
    /// No agent says it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The folder cannot be read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It is not whole.
    #[error("{folder} cannot be read within {} s: {problems}", PATIENCE.as_secs())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        problems: String,
    },
    /// The question names what is not known.
    #[error("{0}")]
    Question(String),
    /// The system refused what reading needs.
    #[error("prepare to read the folder")]
    System(#[from] std::io::Error),
}

/// Says what policy says. The exit code is 0 for what is allowed, 1 for what is refused, 2 for what cannot be said.
pub fn authz(args: &AuthzArgs) -> ExitCode {
    let Verb::Explain(args) = &args.verb;
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", Chain(&error));
            ExitCode::from(NOT_SAID)
        }
    }
}

fn run(args: &ExplainArgs) -> Result<ExitCode, AuthzError> {
    let client = Client::new(&args.answer.admin_socket);
    if let Some(id) = &args.id {
        let decision: Decision = client.get(&format!("/v1/decisions/{id}"))?;
        show(&args.answer, &decision, explained::decision);
        return Ok(ExitCode::SUCCESS);
    }
    let question = args.question();
    let explanation: Explanation = match &args.config_dir {
        None => client.post("/v1/explain", &question)?,
        Some(folder) => {
            let snapshot = args.read(folder)?;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let knowledge = Knowledge { snapshot: &snapshot, only_node: None, now };
            explain(knowledge, &question).map_err(AuthzError::Question)?
        }
    };
    show(&args.answer, &explanation, explained::explanation);
    Ok(ExitCode::from(match explanation.answer {
        Answer::Allowed => 0,
        Answer::Refused => REFUSED,
        Answer::DependsOnRequest | Answer::DependsOnProvider => NOT_SAID,
    }))
}

impl ExplainArgs {
    fn question(&self) -> Question {
        let Self { from, from_identity, to, method, path, host, header, token, sni, .. } = self.clone();
        let to = to.unwrap_or_default();
        Question { from, from_identity, to, method, path, host, headers: header, token, server_name: sni }
    }

    /// Reads the folder as an agent does.
    fn read(&self, folder: &Path) -> Result<Arc<Snapshot>, AuthzError> {
        let settings = ControlSettings {
            config_dir: folder.to_owned(),
            root_namespace: self.root_namespace.as_str().into(),
            trust_domain: self.trust_domain.clone(),
            cluster_domain: self.cluster_domain.as_str().into(),
            mesh_cidrs: Vec::new(),
        };
        let runtime = super::cluster::runtime()?;
        runtime.block_on(async {
            let control = Control::new(settings, &Registry::new())?;
            let publication = control.publication();
            let mut generation = publication.generation();
            let read = tokio::select! {
                ended = control.run() => return Err(ended.into()),
                changed = tokio::time::timeout(PATIENCE, generation.changed()) => changed.is_ok(),
            };
            if read {
                return Ok(publication.snapshots().load_full());
            }
            let problems = publication.problems();
            let problems = problems.load();
            let named = problems.iter().take(MAX_PROBLEMS).map(ToString::to_string).collect::<Vec<_>>();
            let problems =
                if named.is_empty() { "somebody writes to it".to_owned() } else { named.join("; ") };
            Err(AuthzError::Folder { folder: folder.to_owned(), problems })
        })
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() && name.bytes().all(is_of_name) => {
            Ok((name.to_owned(), value.trim().to_owned()))
        }
        _ => Err("is not NAME:VALUE".to_owned()),
    }
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}
