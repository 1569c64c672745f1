//! `mesh-node ca`: another root for the mesh, and where its change stands.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep};

use super::cluster::{ClusterArgs, runtime};
use super::{Output, say};
use crate::admin::counted;
use crate::controller::client::{ClientError, client};
use crate::controller::rotate::{Mesh, Progress, RotateError, progress};
use crate::controller::trust_record::{Phase, Standing, Waiting};
use crate::identity::SigningPem;
use crate::system::print_line;

/// Between two looks at where a change stands, which takes minutes.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// For a controller to see what was given: it looks every 5 s, and another one leads after 15 s.
const NOTICE: Duration = Duration::from_secs(60);
/// Agents that are named in a line.
const MAX_NAMED: usize = 5;

/// `mesh-node ca`
#[derive(Args, Clone, Debug)]
pub struct AuthorityArgs {
    #[command(subcommand)]
    verb: AuthorityVerb,
}

#[derive(Subcommand, Clone, Debug)]
enum AuthorityVerb {
    /// Have the mesh come to another root, without a failed request; called again, follow the change that is under way
    Rotate(RotateArgs),
    /// Show which root signs, and where the change to another one stands
    Status(StandingArgs),
}

#[derive(Args, Clone, Debug)]
struct RotateArgs {
    /// File of the certificate that is to sign, PEM, then those above it up to a root that is here or in ca.crt of the Secret
    /// [default: a new root is made]
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// File of its key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Step that is waited for; controllers take those that are left by themselves
    #[arg(long, value_name = "STEP", default_value = "signed")]
    until: Until,
    /// How long that may take; what has begun goes on
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    standing: StandingArgs,
}

#[derive(Args, Clone, Debug)]
struct StandingArgs {
    /// Form of the answer
    #[arg(long, short, value_name = "FORM", default_value = "text")]
    output: Output,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// Nothing: the key is given.
    Begun,
    /// The next key signs.
    Signed,
    /// Nobody new is believed for the root before: a certificate's lifetime later.
    Retired,
}

/// Why the root is not changed, or is not seen to be.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is no way to the cluster.
    #[error("reach the API server: set KUBECONFIG or give --kubeconfig FILE")]
    Client(#[from] ClientError),
    /// The cluster refuses, or has no such mesh.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// A file that was given.
    #[error("read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No controller acts.
    #[error(
        "no controller has taken up the key in {} s: see what they log, kubectl -n {namespace} logs -l \
         app.kubernetes.io/name=nodemesh-controller; call again to go on",
        NOTICE.as_secs()
    )]
    Unseen {
        /// Where they run.
        namespace: String,
    },
    /// It takes longer than the caller waits.
    #[error("not done in {}; it goes on by itself, and calling again follows it{advice}", humantime::format_duration(*after))]
    Late {
        /// How long was waited.
        after: Duration,
        /// What to look at.
        advice: String,
    },
    /// The system refused what asking needs.
    #[error("prepare to ask the API server")]
    System(#[from] io::Error),
}

/// Changes the root, or shows where that stands.
///
/// # Errors
/// [`AuthorityError`].
pub fn authority(args: &AuthorityArgs) -> Result<ExitCode, AuthorityError> {
    runtime()?.block_on(async {
        match &args.verb {
            AuthorityVerb::Rotate(args) => rotate(args).await?,
            AuthorityVerb::Status(args) => {
                let standing = mesh(&args.cluster).await?.standing().await?;
                say(args.output, &standing, status);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn mesh(args: &ClusterArgs) -> Result<Mesh, AuthorityError> {
    Ok(Mesh::new(client(args.kubeconfig.as_deref()).await?, &args.root_namespace))
}

async fn rotate(args: &RotateArgs) -> Result<(), AuthorityError> {
    let given = match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => {
            Some(SigningPem { key: read(key)?, certificates: read(certificate)? })
        }
        _ => None,
    };
    let mesh = mesh(&args.standing.cluster).await?;
    let begun = mesh.begin(given.as_ref()).await?;
    let is_text = args.standing.output == Output::Text;
    if is_text {
        let what = if begun.is_new { "gave the mesh" } else { "found under way:" };
        print_line(format_args!("{what} the certificate {}", begun.fingerprint));
    }
    let standing = match args.until {
        Until::Begun => mesh.standing().await?,
        _ => follow(&mesh, args, &begun.fingerprint).await?,
    };
    say(args.standing.output, &standing, |_| String::new());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    fs::read(path).map_err(|source| AuthorityError::File { path: path.to_owned(), source })
}

/// Waits for the step that was asked for; says each that is taken.
async fn follow(mesh: &Mesh, args: &RotateArgs, fingerprint: &str) -> Result<Standing, AuthorityError> {
    let (begun, mut said) = (Instant::now(), String::new());
    loop {
        let standing = mesh.standing().await?;
        let progress = progress(&standing, fingerprint);
        let line = line(&standing, progress);
        if args.standing.output == Output::Text && line != said {
            print_line(&line);
            said = line;
        }
        match (progress, args.until) {
            (Progress::Over, _) | (Progress::Signs, Until::Begun | Until::Signed) => return Ok(standing),
            (Progress::Unseen, _) if begun.elapsed() > NOTICE.min(args.timeout) => {
                let namespace = args.standing.cluster.root_namespace.clone();
                return Err(AuthorityError::Unseen { namespace });
            }
            _ if begun.elapsed() > args.timeout => {
                let advice = advice(&standing, &args.standing.cluster.root_namespace);
                return Err(AuthorityError::Late { after: args.timeout, advice });
            }
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

/// PURE. One line for where a change is.
fn line(standing: &Standing, progress: Progress) -> String {
    match progress {
        Progress::Unseen => "waiting for a controller to take it up".to_owned(),
        Progress::Distributing => format!("1 of 3  distribute  {}", distributed(standing)),
        Progress::Signs => {
            format!("2 of 3  sign        the next key signs\n3 of 3  retire      {}", retires(standing))
        }
        Progress::Over => "3 of 3  retire      nobody new is believed for the root before".to_owned(),
    }
}

fn distributed(standing: &Standing) -> String {
    let trusting = standing.agents - standing.missing.min(standing.agents);
    let mut text = format!("{trusting} of {} agents trust the next root", standing.agents);
    if standing.missing > 0 {
        let _ = write!(text, "; waiting for {}", named(standing));
    }
    text
}

fn named(standing: &Standing) -> String {
    let one = |agent: &Waiting| {
        let how = if agent.connected { "" } else { ", not connected" };
        format!("{} (node {}{how})", agent.pod, agent.node)
    };
    let mut named: Vec<String> = standing.waiting.iter().take(MAX_NAMED).map(one).collect();
    if let Some(more) = standing.missing.checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        named.push(format!("{more} more"));
    }
    named.join(", ")
}

fn retires(standing: &Standing) -> String {
    let at = standing.retires_at.and_then(|at| OffsetDateTime::from_unix_timestamp(at.try_into().ok()?).ok());
    match at.and_then(|at| at.format(&Rfc3339).ok()) {
        Some(_) if standing.missing > 0 => format!("the root before waits for {}", named(standing)),
        Some(at) => format!("the root before goes at {at}, by itself"),
        None => {
            "the root before stays: nobody knows since when the key signs (annotation nodemesh.dev/signs-since)".to_owned()
        }
    }
}

/// PURE. What a person may do about agents that do not come.
fn advice(standing: &Standing, namespace: &str) -> String {
    let away: Vec<&Waiting> = standing.waiting.iter().filter(|agent| !agent.connected).collect();
    let Some(first) = away.first() else {
        let slow = standing.waiting.first();
        let look = |agent: &Waiting| {
            format!(
                "; agents are connected and have not put the root in force: see kubectl -n {namespace} logs {}",
                agent.pod
            )
        };
        return slow.map(look).unwrap_or_default();
    };
    format!(
        "; {} no controller, the first is {} on node {}: see kubectl -n {namespace} get pod {} -o wide and its \
         log, whether the node reaches the controllers on port 15012; an agent that is gone for good is waited for until \
         its Pod is deleted (kubectl delete node {})",
        counted(away.len(), "agent follows", "agents follow"),
        first.pod,
        first.node,
        first.pod,
        first.node
    )
}

/// `mesh-node ca status`
fn status(standing: &Standing) -> String {
    let step = match standing.step {
        Phase::Settled => "no root is being replaced".to_owned(),
        Phase::Distribute => format!("1 of 3, distribute: {}", distributed(standing)),
        Phase::Sign => "2 of 3, sign: every agent trusts the next root".to_owned(),
        Phase::Expire => format!("3 of 3, retire: {}", retires(standing)),
        Phase::Retire => "3 of 3, retire: letting go of the root before".to_owned(),
        Phase::Elsewhere => "somebody else signs (--signer-name); its roots are in ca.crt".to_owned(),
    };
    let mut text = String::new();
    let rows = [
        ("trust domain", Some(&standing.trust_domain)),
        ("signs", standing.signs.as_ref()),
        ("next", standing.next.as_ref()),
        ("step", Some(&step)),
        ("said by", Some(&standing.replica)),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            let _ = writeln!(text, "{:<14}{value}", format!("{name}:"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(step: Phase, waiting: &[(&str, bool)]) -> Standing {
        let waiting = waiting.iter().map(|(pod, connected)| Waiting {
            pod: (*pod).to_owned(),
            node: format!("node-of-{pod}"),
            connected: *connected,
        });
        let waiting: Vec<Waiting> = waiting.collect();
        Standing {
            step,
            trust_domain: "cluster.local".to_owned(),
            signs: Some("aa".to_owned()),
            next: (step == Phase::Distribute).then(|| "bb".to_owned()),
            agents: 9,
            missing: waiting.len(),
            waiting,
            retires_at: Some(1_800_000_000),
            replica: "controller-0".to_owned(),
        }
    }

    #[test]
    fn who_is_waited_for_is_named_with_its_node() {
        let standing = standing(Phase::Distribute, &[("a", true), ("b", false)]);
        let said = line(&standing, progress(&standing, "bb"));
        let wanted = "1 of 3  distribute  7 of 9 agents trust the next root; waiting for a (node node-of-a), b (node \
                      node-of-b, not connected)";
        assert_eq!(said, wanted);
        assert!(
            advice(&standing, "mesh")
                .contains("1 agent follows no controller, the first is b on node node-of-b")
        );
        assert!(
            status(&standing).contains("next:         bb\nstep:         1 of 3, distribute: 7 of 9 agents")
        );
    }

    #[test]
    fn an_agent_that_is_connected_has_its_log() {
        let standing = standing(Phase::Distribute, &[("a", true)]);
        assert!(advice(&standing, "mesh").contains("kubectl -n mesh logs a"));
    }

    #[test]
    fn a_change_is_told_from_every_other() {
        let distributes = standing(Phase::Distribute, &[]);
        assert_eq!(progress(&distributes, "bb"), Progress::Distributing);
        assert_eq!(progress(&distributes, "cc"), Progress::Unseen);
        assert_eq!(progress(&standing(Phase::Expire, &[]), "aa"), Progress::Signs);
        assert_eq!(progress(&standing(Phase::Settled, &[]), "aa"), Progress::Over);
        let said = line(&standing(Phase::Expire, &[]), Progress::Signs);
        assert!(said.ends_with("goes at 2027-01-15T08:00:00Z, by itself"), "{said}");
    }
}
